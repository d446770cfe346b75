// Cells: each resource as a small square, by process. What is wanted and cannot be made has its square, too.
const MOST_CELLS = 600;
const STATES = {
  used: "in use",
  idle: "idle",
  cared: "being checked or reset",
  creating: "being made",
  failing: "backing off",
  destroying: "being destroyed",
  free: "room for more",
};
let noted = null; // key of the cell that the note tells of

function cellsOf(runner) {
  const missing = Math.max(0, wanted(runner) - runner.stats.live_resources - runner.stats.creating_resources);
  const cells = [...runner.resources];
  const isFailing = runner.backend.failing_for > 0;
  const free = runner.bounds.max_resources - cells.length;
  const failing = isFailing ? Math.min(missing, free) : 0;
  const room = Math.max(0, Math.min(free, MOST_CELLS - cells.length));
  const empty = (state, i) => ({ key: `${state}-${i}`, state, pid: null });
  return [
    ...cells.slice(0, MOST_CELLS),
    ...Array.from({ length: Math.min(failing, room) }, (_, i) => empty("failing", i)),
    ...Array.from({ length: Math.max(0, room - failing) }, (_, i) => empty("free", i)),
  ];
}

function wanted(runner) {
  return runner.bounds.base_workers + runner.stats.burst_workers + runner.bounds.reserve;
}

function tell(cell) {
  if (cell.state === "failing") return "Wanted, and cannot be made now";
  if (cell.state === "free") return "Room for one more";
  const parts = [`Resource ${cell.resource_id}`, `${STATES[cell.state]} for ${seconds(cell.age)}`];
  if (cell.task) parts.push(cell.task);
  else if (cell.kind) parts.push(cell.kind === "lease" ? "a lease" : cell.kind.replace("_", " "));
  if (cell.holder) parts.push(`by ${cell.holder}`);
  if (cell.owner) parts.push(cell.owner === "worker" ? "a worker’s own" : "of the reserve");
  if (cell.lifetime > 0) parts.push(`made ${seconds(cell.lifetime)} ago`);
  return [...parts, `process ${cell.pid}`].join(" · ");
}

function showCells(runner) {
  const cells = cellsOf(runner);
  const processes = [...new Set(cells.map((cell) => cell.pid).filter((pid) => pid !== null))].sort((a, b) => a - b);
  const groups = [...processes.map((pid) => ({ pid, cells: cells.filter((cell) => cell.pid === pid) })),
    { pid: null, cells: cells.filter((cell) => cell.pid === null) }].filter((group) => group.cells.length);
  $("cells").dataset.size = cells.length > 240 ? "small" : cells.length > 96 ? "middle" : "large";
  $("cells").classList.toggle("single", processes.length <= 1);
  keep($("cells"), groups, (group) => group.pid, buildGroup, (element, group) => {
    keep(element.lastElementChild, group.cells, (cell) => cell.key, buildCell, updateCell);
  });
  rove();
  note(cells.find((cell) => cell.key === noted));
  showLegend(runner, cells);
}

function buildGroup(group) {
  return make("div", { className: "group" },
    make("p", {}, group.pid === null ? "Not made" : `Process ${group.pid}`), make("div", { className: "squares" }));
}

function buildCell() {
  return make("button", { type: "button", tabIndex: -1 });
}

function updateCell(element, cell) {
  element.cell = cell;
  element.dataset.state = cell.state;
  element.dataset.owner = cell.owner ?? "";
  element.classList.toggle("old", cell.state === "used" && cell.age > 10);
  element.setAttribute("aria-label", tell(cell));
}

function note(cell) {
  noted = cell ? cell.key : null;
  say($("cell-note"), cell ? tell(cell) : "Choose a square to see who has it.");
}

function showLegend(runner, cells) {
  const numbers = Object.keys(STATES).map((state) => [state, cells.filter((cell) => cell.state === state).length]);
  keep($("legend"), numbers.filter(([, size]) => size), ([state]) => state,
    ([state]) => make("li", {}, make("i", { "data-state": state, "aria-hidden": "true" }), `${STATES[state]} `, make("b")),
    (element, [, size]) => say(element.lastElementChild, number(size)));
  const more = Math.max(0, runner.resources.length - MOST_CELLS);
  say($("resources-sum"), `${number(runner.stats.live_resources)} of at most ${number(runner.bounds.max_resources)}${
    more ? `, ${number(more)} not shown` : ""}`);
}

// One cell is in the order of the tab key; the arrows move on from there.
function rove(to = null) {
  const all = [...$("cells").querySelectorAll("button")];
  const current = to ?? all.find((one) => one.tabIndex === 0) ?? all[0];
  for (const one of all) one.tabIndex = one === current ? 0 : -1;
  if (to) to.focus();
}

function neighbour(from, key) {
  const all = [...$("cells").querySelectorAll("button")];
  const here = from.getBoundingClientRect();
  const index = all.indexOf(from);
  if (key === "ArrowRight") return all[index + 1];
  if (key === "ArrowLeft") return all[index - 1];
  if (key === "Home") return all[0];
  if (key === "End") return all.at(-1);
  const isBeyond = (box) => (key === "ArrowDown" ? box.top > here.top + 2 : box.top < here.top - 2);
  const distance = (one) => {
    const box = one.getBoundingClientRect();
    return isBeyond(box) ? Math.abs(box.top - here.top) * 100 + Math.abs(box.left - here.left) : Infinity;
  };
  const nearest = all.reduce((best, one) => (distance(one) < distance(best) ? one : best), from);
  return nearest === from ? undefined : nearest;
}

$("cells").addEventListener("keydown", (event) => {
  if (!["ArrowRight", "ArrowLeft", "ArrowUp", "ArrowDown", "Home", "End"].includes(event.key)) return;
  const next = event.target.cell && neighbour(event.target, event.key);
  if (next) rove(next);
  event.preventDefault();
});
for (const kind of ["focusin", "pointerover"]) {
  $("cells").addEventListener(kind, (event) => event.target.cell && note(event.target.cell));
}
$("cells").addEventListener("click", (event) => event.target.cell && rove(event.target));
