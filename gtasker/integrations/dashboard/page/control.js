// Control: pause, resume, recycle, resize. There only if the server allows it; each needs the seal of this session.
let seal = null;
let commanded = null;

function showControls(runner, view) {
  seal = view.seal;
  commanded = runner;
  $("controls").hidden = !seal;
  say($("pause"), runner.state === "paused" ? "Resume" : "Pause");
}

async function command(action, sizes = {}) {
  const answer = await fetch("command", {
    method: "POST",
    headers: { "Content-Type": "application/json", "X-Gtasker-Seal": seal },
    body: JSON.stringify({ runner: commanded.name, action, ...sizes }),
  });
  const { error } = await answer.json();
  if (error) await ask(`Could not ${action}`, error, "Close");
}

// Resolves to true if the visitor agrees.
function ask(title, text, yes, { withSizes = false } = {}) {
  say($("ask-title"), title);
  say($("ask-text"), text);
  say($("ask-yes"), yes);
  $("sizes").hidden = !withSizes;
  const dialog = $("ask");
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}

$("pause").addEventListener("click", () => command(commanded.state === "paused" ? "resume" : "pause"));

$("recycle").addEventListener("click", async () => {
  const text = `Every resource of ${commanded.name} is replaced, the ones in use when they come back.`;
  if (await ask("Recycle?", text, "Recycle")) await command("recycle");
});

$("resize").addEventListener("click", async () => {
  const fields = Object.fromEntries([...$("sizes").querySelectorAll("input")].map((field) => [field.name, field]));
  for (const field of Object.values(fields)) field.value = "";
  const text = `Of ${commanded.name}, in each process. What is left empty stays, or grows with the others.`;
  if (!(await ask("Resize", text, "Resize", { withSizes: true }))) return;
  const given = Object.values(fields).filter((field) => field.value !== "");
  if (given.length) await command("resize", Object.fromEntries(given.map((field) => [field.name, field.valueAsNumber])));
});
