// Values as people read them, in the units of the terminal's section; elements whose text can't become markup.

const unknown = "–";

function significant(value, digits) {
  return String(Number(value.toPrecision(digits)));
}

function duration(seconds) {
  if (seconds == null) return unknown;
  const size = Math.abs(seconds);
  if (size === 0) return "0 s";
  if (size < 0.0009995) return `${significant(seconds * 1e6, 3)} µs`;
  if (size < 0.9995) return `${significant(seconds * 1e3, 3)} ms`;
  if (size < 59.95) return `${significant(seconds, 3)} s`;
  const whole = Math.round(seconds);
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${String(whole % 60).padStart(2, "0")} s`;
  return `${Math.floor(whole / 3600)} h ${String(Math.floor(whole / 60) % 60).padStart(2, "0")} min`;
}

const byteUnits = ["B", "KiB", "MiB", "GiB", "TiB"];

function bytes(size) {
  if (size == null) return unknown;
  let at = 0;
  while (Math.abs(size) >= 1024 && at < byteUnits.length - 1) {
    size /= 1024;
    at += 1;
  }
  return `${at === 0 ? Math.round(size) : significant(size, size < 10 ? 2 : 3)} ${byteUnits[at]}`;
}

function count(number) {
  return number == null ? unknown : number.toLocaleString("en-GB");
}

function plural(number, word, many = `${word}s`) {
  return `${count(number)} ${number === 1 ? word : many}`;
}

function percent(fraction) {
  if (fraction == null) return unknown;
  const value = fraction * 100;
  return `${Math.abs(value) >= 100 ? count(Math.round(value)) : significant(value, 2)} %`;
}

// Of a change against a baseline: its share; Infinity from nothing.
function grownBy(change) {
  return change.change ?? (change.before === 0 && change.after > 0 ? Infinity : null);
}

function signedPercent(fraction) {
  if (fraction === Infinity) return "from 0";
  return fraction == null ? unknown : (fraction > 0 ? "+" : "") + percent(fraction).replace("-", "−");
}

const showing = {duration, size: bytes, count};

// <tag attributes>children</tag>; strings are text. Attributes that are null or false are left out, functions are listeners.
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value == null || value === false) continue;
    if (typeof value === "function") made.addEventListener(name, value);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child != null));
  return made;
}

// Of a definition list, without those that are not known.
function definitions(pairs) {
  return pairs
    .filter(([, value]) => value != null && value !== "" && value !== unknown)
    .map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value)));
}

function byId(id) {
  return document.getElementById(id);
}

const palette = {
  names: ["text", "muted", "line", "surface", "accent", "setup", "cap", "budget", "warn", "passed", "failed", "error", "skipped", "xfailed", "xpassed", "rerun", "other", "cpu", "memory", "band"],
  read() {
    const style = getComputedStyle(document.documentElement);
    for (const name of this.names) this[name] = style.getPropertyValue(`--${name}`).trim();
  },
  of(outcome) {
    return outcomeOrder.includes(outcome) ? this[outcome] : this.other;
  },
};

const outcomeOrder = ["failed", "error", "passed", "skipped", "xfailed", "xpassed", "rerun"];
const markers = {passed: "circle", failed: "x", error: "asterisk", skipped: "square", xfailed: "inverted_triangle", xpassed: "triangle", rerun: "diamond"};
