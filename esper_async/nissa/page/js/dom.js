// Making elements, and writing numbers, times and names the way people read them.

const SVG = "http://www.w3.org/2000/svg";

/** Make an element: h("p", {class: "soft"}, "text", child). Text is never parsed as HTML. */
export function h(tag, properties = {}, ...children) {
  return fill(document.createElement(tag), properties, children);
}

/** Make an SVG element. */
export function s(tag, properties = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), properties, children);
}

function fill(element, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(3).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/**
 * Draw a part of the page anew if what it shows has changed. `signature` stands for what is shown.
 * The focus and the open state of <details> with a data-key are kept.
 */
export function draw(container, signature, make) {
  const text = JSON.stringify(signature);
  if (container.drawn === text) return;
  container.drawn = text;
  const focused = container.contains(document.activeElement) ? document.activeElement.dataset.key : null;
  const open = new Set([...container.querySelectorAll("details[open][data-key]")].map((d) => d.dataset.key));
  container.replaceChildren(...[make()].flat(3).filter(Boolean));
  for (const details of container.querySelectorAll("details[data-key]")) {
    if (open.has(details.dataset.key)) details.open = true;
  }
  if (focused) container.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
}

/** A number with as many digits as it deserves; null is said to be not measured. */
export function number(value, digits = 4) {
  if (value === null || value === undefined) return "not measured";
  if (Number.isInteger(value)) return value.toLocaleString("en");
  return Math.abs(value) >= 1000 ? Math.round(value).toLocaleString("en") : value.toPrecision(digits).replace(/\.?0+$/, "");
}

export function percent(value, digits = 1) {
  return value === null || value === undefined ? "not measured" : `${(100 * value).toFixed(digits)} %`;
}

/** A signed difference with a real minus sign. */
export function signed(value, digits = 3) {
  if (value === null || value === undefined) return "?";
  return `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(digits)}`;
}

export function milliseconds(value) {
  return value === null || value === undefined ? "not measured" : `${value < 10 ? value.toFixed(1) : Math.round(value)} ms`;
}

/** A time of today by the clock, one of another day with its date. */
export function clock(unixSeconds) {
  const at = new Date(unixSeconds * 1000);
  const time = at.toLocaleTimeString("en-GB");
  return isToday(at) ? time : `${date(at)}, ${time}`;
}

/** The same in as few letters as say enough: hours and minutes, or the date. */
export function shortly(unixSeconds) {
  const at = new Date(unixSeconds * 1000);
  return isToday(at) ? at.toLocaleTimeString("en-GB").slice(0, 5) : date(at);
}

function isToday(at) {
  return at.toDateString() === new Date().toDateString();
}

function date(at) {
  const year = at.getFullYear() === new Date().getFullYear() ? undefined : "numeric";
  return at.toLocaleDateString("en-GB", { day: "numeric", month: "short", year });
}

/** How long, in the largest unit that says enough. */
export function span(seconds) {
  if (seconds < 1) return "a moment";
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  if (seconds < 129600) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86400)} days`;
}

export const MARKS = { good: "✓", warn: "!", bad: "✕", info: "•", "": "" };

/** A short label whose meaning is in its words and its mark, not in its colour alone. */
export function pill(text, kind = "") {
  return h("span", { class: `pill ${kind}` }, MARKS[kind] ? h("span", { "aria-hidden": "true" }, MARKS[kind]) : null, text);
}
