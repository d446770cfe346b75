// Charts: lines over the last five minutes, with a reader that moves over all of them at once.
const SPAN = 300;
const HEIGHT = 150;
const EDGE = { left: 52, right: 8, top: 10, bottom: 20 };
const charts = [];
let readAt = null; // seconds before now that the reader points at; null: the latest

class Chart {
  // `lines`: [{ name, of: point => number | null, tone }]; `text`: how a number is said; `isLog` for times.
  constructor(title, lines, text, { isLog = false, least = 1 } = {}) {
    Object.assign(this, { title, lines, text, isLog, least });
    this.points = [];
    this.width = 560;
    this.bands = draw("g", { class: "bands" });
    this.grid = draw("g", { class: "grid" });
    this.paths = lines.map((line) => draw("path", { class: `line ${line.tone}` }));
    this.areas = lines.map((line) => draw("path", { class: `area ${line.tone}` }));
    this.reader = draw("line", { class: "reader", y1: EDGE.top, y2: HEIGHT - EDGE.bottom });
    this.picture = draw(
      "svg",
      { role: "img", height: HEIGHT },
      this.bands, this.grid, ...(lines.length === 1 ? this.areas : []), ...this.paths, this.reader,
    );
    this.values = lines.map(() => make("b"));
    this.legend = make("ul", { className: "keys-of" },
      ...lines.map((line, i) => make("li", {}, make("i", { className: line.tone, "aria-hidden": "true" }), `${line.name} `, this.values[i])));
    this.element = make("section", { className: "sheet chart" },
      make("div", { className: "head" }, make("h2", {}, title), this.legend), this.picture);
    this.picture.addEventListener("pointermove", (event) => point(this, event));
    this.picture.addEventListener("pointerleave", () => { readAt = null; refresh(); });
    charts.push(this);
    new ResizeObserver(([{ contentRect }]) => this.fit(contentRect.width)).observe(this.picture);
  }

  // One unit is one pixel, so that letters are of one size on every screen.
  fit(width) {
    this.width = Math.max(200, width);
    this.picture.setAttribute("viewBox", `0 0 ${this.width} ${HEIGHT}`);
    this.key = null;
    if (this.now) this.show(this.points, this.now, this.slot);
  }

  get inner() {
    return this.width - EDGE.left - EDGE.right;
  }

  show(points, now, slot) {
    Object.assign(this, { points, now, slot });
    this.scale();
    this.lines.forEach((line, i) => this.trace(line, i));
    this.shade();
    this.mark();
    this.picture.setAttribute("aria-label", `${this.title}, last five minutes. Now: ${
      this.lines.map((line, i) => `${line.name} ${this.values[i].textContent}`).join(", ")}`);
  }

  scale() {
    const values = this.points.flatMap((one) => this.lines.map((line) => line.of(one))).filter((value) => value !== null);
    const greatest = Math.max(this.least, ...values);
    let ticks;
    if (this.isLog) {
      const smallest = Math.min(greatest / 10, ...values.filter((value) => value > 0));
      const [from, above] = [Math.floor(Math.log10(smallest)), Math.ceil(Math.log10(greatest))];
      const step = Math.ceil((above - from) / 3);
      const steps = Math.ceil((above - from) / step);
      this.y = (value) => this.height((Math.log10(Math.max(value, 10 ** from)) - from) / (steps * step));
      ticks = Array.from({ length: steps + 1 }, (_, i) => 10 ** (from + i * step));
    } else {
      const step = niceStep(greatest / 3);
      const top = Math.ceil(greatest / step) * step;
      this.y = (value) => this.height(value / top);
      ticks = Array.from({ length: Math.round(top / step) + 1 }, (_, i) => i * step);
    }
    const key = ticks.join();
    if (key !== this.key) this.rule(ticks);
    this.key = key;
  }

  height(part) {
    return HEIGHT - EDGE.bottom - part * (HEIGHT - EDGE.top - EDGE.bottom);
  }

  x(one) {
    const ago = this.now - (one.slot + 1) * this.slot;
    return this.width - EDGE.right - (ago / SPAN) * this.inner;
  }

  rule(ticks) {
    const parts = ticks.flatMap((tick) => {
      const y = this.y(tick);
      return [
        draw("line", { x1: EDGE.left, x2: this.width - EDGE.right, y1: y, y2: y }),
        draw("text", { x: EDGE.left - 8, y: y + 4, "text-anchor": "end" }, this.text(tick)),
      ];
    });
    for (let minute = 0; minute <= 5; minute += this.width < 420 ? 2.5 : 1) {
      const x = this.width - EDGE.right - (minute / 5) * this.inner;
      const anchor = { 0: "end", 5: "start" }[minute] ?? "middle";
      parts.push(draw("text", { x, y: HEIGHT - 4, "text-anchor": anchor }, minute ? `−${minute} min` : "now"));
    }
    this.grid.replaceChildren(...parts);
  }

  trace(line, i) {
    let path = "";
    let area = "";
    let previous = null;
    let start = 0;
    const floor = HEIGHT - EDGE.bottom;
    for (const one of this.points) {
      const value = line.of(one);
      const x = this.x(one);
      if (value === null || x < EDGE.left) {
        if (previous) area += `V${floor}H${start}Z`;
        previous = null;
        continue;
      }
      const isNext = previous && one.slot - previous.slot === 1;
      if (previous && !isNext) area += `V${floor}H${start}Z`;
      if (!isNext) start = x.toFixed(1);
      const place = `${x.toFixed(1)} ${this.y(value).toFixed(1)}`;
      path += `${isNext ? "L" : "M"}${place}`;
      // A measurement between two slots without one would be no line at all: make it a dot.
      if (!isNext) path += `L${place}`;
      area += isNext ? `L${place}` : `M${start} ${floor}L${place}`;
      previous = one;
    }
    if (previous) area += `V${floor}H${start}Z`;
    this.paths[i].setAttribute("d", path);
    this.areas[i].setAttribute("d", area);
  }

  shade() {
    const width = (this.slot / SPAN) * this.inner;
    const failing = this.points.filter((one) => one.failing > 0 && this.x(one) - width >= EDGE.left);
    this.bands.replaceChildren(...failing.map((one) =>
      draw("rect", { x: (this.x(one) - width).toFixed(2), y: EDGE.top, width: (width + 0.3).toFixed(2), height: HEIGHT - EDGE.top - EDGE.bottom })));
  }

  mark() {
    const one = readAt === null ? this.points.at(-1) : this.nearest(this.now - readAt);
    this.lines.forEach((line, i) => {
      const value = one ? line.of(one) : null;
      say(this.values[i], value === null ? "–" : this.text(value));
    });
    this.reader.classList.toggle("on", readAt !== null && Boolean(one));
    if (one) {
      this.reader.setAttribute("x1", this.x(one));
      this.reader.setAttribute("x2", this.x(one));
    }
  }

  nearest(moment) {
    const distance = (one) => Math.abs((one.slot + 1) * this.slot - moment);
    return this.points.reduce((best, one) => (!best || distance(one) < distance(best) ? one : best), null);
  }
}

function niceStep(least) {
  const power = 10 ** Math.floor(Math.log10(least));
  return [1, 2, 5, 10].map((factor) => factor * power).find((step) => step >= least * 0.999);
}

function point(chart, event) {
  const box = chart.picture.getBoundingClientRect();
  readAt = Math.max(0, ((chart.width - EDGE.right - (event.clientX - box.left)) / chart.inner) * SPAN);
  refresh();
}

function refresh() {
  for (const chart of charts) chart.mark();
}

const shortRate = (value) => number(value);
const quantile = (span, i) => (one) => (one[span] ? one[span][i] : null);
const quantiles = (span) => [
  { name: "p99", of: quantile(span, 2), tone: "high" },
  { name: "p95", of: quantile(span, 1), tone: "mid" },
  { name: "p50", of: quantile(span, 0), tone: "low" },
];
const CHARTS = [
  new Chart("Tasks per second", [
    { name: "arrived", of: (one) => one.arrived, tone: "low" },
    { name: "completed", of: (one) => one.completed, tone: "mid" },
    { name: "failed", of: (one) => one.failed, tone: "bad" },
  ], shortRate),
  new Chart("Waiting", [{ name: "tasks and leases", of: (one) => one.waiting, tone: "mid" }], number, { least: 3 }),
  new Chart("Time until they begin", quantiles("wait"), seconds, { isLog: true, least: 0.001 }),
  new Chart("Time they run", quantiles("run"), seconds, { isLog: true, least: 0.001 }),
];
