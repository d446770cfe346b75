// The page: asks once a second, remembers five minutes, and shows one runner.
const histories = new Map();
let view = null;
let chosen = decodeURIComponent(location.hash.slice(1));
let after = 0;
let isFrozen = false;
let lastAnswer = performance.now();

async function poll() {
  const answer = await fetch(`stats.json?after=${after}`, { cache: "no-store", signal: AbortSignal.timeout(5000) });
  if (answer.status === 401) location.reload();
  if (!answer.ok) throw new Error(`the server says ${answer.status}`);
  view = await answer.json();
  lastAnswer = performance.now();
  for (const runner of view.runners) {
    remember(runner);
    follow(runner, view.now);
  }
}

function remember(runner) {
  const history = [...(histories.get(runner.name) ?? []), ...runner.points];
  const oldest = view.now / view.slot - SPAN / view.slot - 1;
  histories.set(runner.name, history.filter((one) => one.slot > oldest));
  after = Math.max(after, ...runner.points.map((one) => one.slot));
}

function show() {
  showPulse();
  if (!view) return;
  const runner = view.runners.find((one) => one.name === chosen) ?? greatest(view.runners);
  chosen ||= runner?.name;
  $("empty").hidden = Boolean(runner);
  $("content").hidden = !runner;
  showTabs(runner);
  if (!runner) {
    $("banner").hidden = true;
    return;
  }
  showBanner(runner, view.now);
  showSummary(runner, view);
  showControls(runner, view);
  showCells(runner);
  for (const chart of CHARTS) chart.show(histories.get(runner.name), view.now, view.slot);
  showUses(runner);
  showEvents(view, runner);
  showProcesses(view);
  showTotals(runner);
}

function greatest(runners) {
  const size = (one) => one.bounds.max_resources;
  return runners.reduce((best, one) => (!best || size(one) > size(best) ? one : best), undefined);
}

function showTabs(shown) {
  keep($("runners"), view.runners.length > 1 ? view.runners : [], (one) => one.name,
    (one) => make("button", { type: "button", onclick: () => choose(one.name) }, one.name),
    (element, one) => {
      element.setAttribute("aria-current", String(one === shown));
      element.dataset.level = stateOf(one)[0];
    });
}

function choose(name) {
  chosen = name;
  history.replaceState(null, "", `#${encodeURIComponent(name)}`);
  show();
}

function showPulse() {
  const silence = (performance.now() - lastAnswer) / 1000;
  const state = isFrozen ? "frozen" : silence > 3 ? "lost" : view ? "live" : "wait";
  $("pulse").dataset.state = state;
  document.body.dataset.state = state;
  const running = view?.processes.filter((one) => !one.silent).length ?? 0;
  say($("pulse-text"), {
    frozen: "Frozen",
    lost: `No answer for ${seconds(silence)}`,
    live: running > 1 ? `Live, ${running} processes` : "Live",
    wait: "Connecting",
  }[state]);
}

function freeze() {
  isFrozen = !isFrozen;
  $("freeze").setAttribute("aria-pressed", String(isFrozen));
  lastAnswer = performance.now();
  showPulse();
}

function changeTheme() {
  $("theme").title = `Theme: ${nextTheme()} (t)`;
}

async function run() {
  for (;;) {
    if (!isFrozen && !document.hidden) {
      try {
        await poll();
      } catch {
        // The pulse tells how long ago the last answer was.
      }
    }
    if (!isFrozen) show();
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input") || document.querySelector("dialog[open]")) return;
  if (event.key === "f") freeze();
  else if (event.key === "t") changeTheme();
  else if (event.key === "r") rove($("cells").querySelector("button[tabindex='0']"));
  else if (event.key === "?") $("keys").showModal();
  else if (view?.runners[Number(event.key) - 1]) choose(view.runners[Number(event.key) - 1].name);
});
$("freeze").addEventListener("click", freeze);
$("theme").addEventListener("click", changeTheme);
$("help").addEventListener("click", () => $("keys").showModal());
$("columns").append(...COLUMNS.map((name) => make("th", { scope: "col" }, name)));
$("charts").append(...CHARTS.map((chart) => chart.element));
run();
