// Panels: the banner, the figures, who uses what, events, processes, totals.
const outages = new Map(); // by runner's name: since when, or when it healed

function showBanner(runner, now) {
  const [level, text] = banner(runner, now);
  const box = $("banner");
  box.hidden = !level;
  if (level) box.dataset.level = level;
  say(box, text);
}

// To be told of every runner at each poll, for an outage begins and ends whoever is shown.
function follow(runner, now) {
  const outage = outages.get(runner.name);
  if (runner.backend.failing_for > 0) {
    if (!outage || outage.healedAt) outages.set(runner.name, { since: now - runner.backend.failing_for });
  } else if (outage && !outage.healedAt && !missing(runner)) {
    outage.healedAt = now;
  }
}

function banner(runner, now) {
  const { backend } = runner;
  const outage = outages.get(runner.name);
  const whole = wanted(runner);
  if (backend.failing_for > 0) {
    const reason = [backend.last_error, backend.last_message].filter(Boolean).join(": ");
    const refusing = backend.is_down ? " Waiting tasks are refused." : "";
    return ["bad", `For ${seconds(backend.failing_for)} no resource could be made (${reason}): ${
      count(backend.failures, "attempt", "attempts")} failed, ${missing(runner)} of ${whole} are missing.${refusing}`];
  }
  if (outage && !outage.healedAt) {
    return ["warn", `Healing: the backend is back, and so are ${whole - missing(runner)} of ${whole} resources.`];
  }
  if (outage && now - outage.healedAt < 15) {
    return ["good", `Healed: all ${whole} resources are back, ${seconds(outage.healedAt - outage.since)} after the first failure.`];
  }
  return [null, ""];
}

function missing(runner) {
  return Math.max(0, wanted(runner) - runner.stats.live_resources);
}

function stateOf(runner) {
  if (runner.backend.is_down) return ["bad", "backend down"];
  if (runner.backend.failing_for > 0) return ["bad", "cannot make resources"];
  if (runner.state === "running" && missing(runner)) return ["warn", "filling up"];
  return runner.state === "running" ? ["good", "running"] : ["warn", runner.state];
}

function showSummary(runner, view) {
  const [level, text] = stateOf(runner);
  say($("name"), runner.name);
  say($("state"), text);
  $("state").dataset.level = level;
  const { stats, totals } = runner;
  const lag = Math.max(0, ...view.processes.map((one) => one.lag));
  const minute = histories.get(runner.name).filter((one) => one.slot > view.now / view.slot - 60 / view.slot);
  const [done, failed] = ["completed", "failed"].map((name) => minute.reduce((sum, one) => sum + one[name] * view.slot, 0));
  showFigures($("figures"), [
    ["Workers busy", `${number(stats.busy_workers)} / ${number(stats.active_workers)}`, burst(runner)],
    ["Waiting", number(runner.waiting), runner.waiting ? `the oldest for ${seconds(runner.oldest)}` : "nobody"],
    ["Done", rate(totals.task_completion_rate), `arriving ${rate(totals.task_arrival_rate)}`],
    ["Failed", percent(failed, done + failed), `${number(failed)} in the last minute`, failed > 0.05 * (done + failed)],
    ["Loop lag", seconds(lag), "worst of 10 s", lag > 0.1],
  ]);
}

function burst({ stats, bounds }) {
  return stats.burst_workers ? `${number(stats.burst_workers)} in a burst` : `at most ${number(bounds.max_workers)}`;
}

function showFigures(list, figures) {
  keep(list, figures, ([name]) => name,
    ([name]) => make("div", {}, make("dt", {}, name), make("dd"), make("dd", { className: "under" })),
    (element, [, value, under, isAlarming]) => {
      say(element.children[1], value);
      say(element.children[2], under ?? "");
      element.classList.toggle("alarming", Boolean(isAlarming));
    });
}

function showUses(runner) {
  const longest = Math.max(...runner.uses.map((use) => use.age), 0.001);
  say($("uses-sum"), runner.uses.length ? "" : "nobody uses a resource");
  keep($("uses"), runner.uses, (use) => `${use.key}-${use.holder}`, buildUse, (element, use) => {
    const [id, task, holder, age, length] = element.parts;
    say(id, `#${use.resource_id}`);
    say(task, use.task ?? "a lease");
    say(holder, `${use.kind.replace("_", " ")}, ${use.holder}, process ${use.pid}`);
    say(age, seconds(use.age));
    length.style.width = `${Math.max(2, (100 * use.age) / longest)}%`;
    // While somebody reads a stack, it stays as it is.
    if (!element.firstElementChild.open) say(element.stack, use.stack.trimEnd() || "no stack");
  });
}

function buildUse() {
  const parts = ["id", "task", "under", "age"].map((className) => make("span", { className }));
  const length = make("i", { className: "length", "aria-hidden": "true" });
  const stack = make("pre", { tabIndex: 0 });
  const element = make("li", {}, make("details", {}, make("summary", {}, ...parts, length), stack));
  return Object.assign(element, { parts: [...parts, length], stack });
}

function showEvents(view, runner) {
  const events = view.events.filter((event) => event.runner === runner.name);
  const several = view.processes.length > 1;
  keep($("events"), events, (event) => `${event.pid}-${event.since}-${event.text}`,
    (event) => make("li", { "data-level": event.level }, make("i", { "aria-hidden": "true" }), make("span", { className: "task" }), make("span", { className: "under" })),
    (element, event) => {
      say(element.children[1], event.text + (event.count > 1 ? ` ×${number(event.count)}` : ""));
      const ago = view.now - event.at < 1 ? "now" : `${seconds(Math.floor(view.now - event.at))} ago`;
      say(element.children[2], several ? `${ago} · process ${event.pid}` : ago);
    });
  if (!events.length) $("events").replaceChildren(make("li", { className: "none", "data-key": "none" }, "Nothing happened yet."));
}

const COLUMNS = ["Up", "Resources", "Workers busy", "Waiting", "Tasks/s", "Loop lag"];

function showProcesses(view) {
  keep($("processes"), view.processes, (one) => one.pid,
    (one) => make("tr", {}, make("th", { scope: "row" }, String(one.pid)), ...COLUMNS.map((name) => make("td", { "data-label": name }))),
    (element, one) => {
      element.classList.toggle("silent", one.silent > 0);
      const cells = one.silent > 0
        ? [`silent for ${seconds(one.silent)}`, "", "", "", "", ""]
        : [seconds(one.uptime), `${number(one.resources)} / ${number(one.max_resources)}`, `${number(one.busy)} / ${number(one.workers)}`,
          number(one.waiting), number(one.rate), seconds(one.lag)];
      cells.forEach((text, i) => say(element.children[i + 1], text));
    });
}

function showTotals(runner) {
  const { totals } = runner;
  showFigures($("totals"), [
    ["Arrived", totals.total_tasks_arrived],
    ["Completed", totals.total_tasks_completed],
    ["Failed", totals.total_tasks_failed],
    ["Tried again", totals.total_tasks_retried],
    ["Timed out", totals.total_tasks_timed_out],
    ["Cancelled", totals.total_tasks_cancelled],
    ["Rejected", totals.total_tasks_rejected],
    ["No resource in time", runner.backend.acquire_timeouts],
    ["Resources made", totals.resources_created],
    ["Resources destroyed", totals.resources_destroyed],
    ["Failed to make", totals.create_failures],
  ].map(([name, value]) => [name, number(value)]));
}
