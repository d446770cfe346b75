// Small tools: building elements (text is always text, never markup), keeping lists, and saying numbers.
const $ = (id) => document.getElementById(id);

function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-")) element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children);
  return element;
}

function draw(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// Have `parent` hold one child for each item, in their order. A child stays the same element while its key does, so
// that focus, an open stack and the reader's place survive the next poll.
function keep(parent, items, keyOf, build, update) {
  const old = new Map();
  for (const child of [...parent.children]) {
    if (old.has(child.dataset.key)) child.remove();
    else old.set(child.dataset.key, child);
  }
  let place = parent.firstElementChild;
  for (const item of items) {
    const key = String(keyOf(item));
    let child = old.get(key);
    old.delete(key);
    if (!child) {
      child = build(item);
      child.dataset.key = key;
    }
    if (child === place) place = place.nextElementSibling;
    else parent.insertBefore(child, place);
    update(child, item);
  }
  for (const child of old.values()) child.remove();
}

const plain = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const fine = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });

function number(value) {
  return value > 0 && value < 10 && !Number.isInteger(value) ? fine.format(value) : plain.format(value);
}

function rate(value) {
  return `${number(value)}/s`;
}

function seconds(value) {
  if (value === 0) return "0 s";
  for (const [size, unit] of [[1e-6, "µs"], [1e-3, "ms"], [1, "s"]]) {
    const amount = value / size;
    if (amount < 9.95) return `${fine.format(amount)} ${unit}`;
    if (amount < (unit === "s" ? 59.5 : 999.5)) return `${plain.format(amount)} ${unit}`;
  }
  const whole = Math.round(value);
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  if (whole < 86400) return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
  return `${Math.floor(whole / 86400)} d ${Math.floor((whole % 86400) / 3600)} h`;
}

function percent(part, whole) {
  if (!whole || !part) return "0 %";
  const value = (100 * part) / whole;
  return value < 0.1 ? "< 0.1 %" : `${value < 10 ? value.toFixed(1) : Math.round(value)} %`;
}

function count(value, one, many) {
  return `${number(value)} ${value === 1 ? one : many}`;
}
