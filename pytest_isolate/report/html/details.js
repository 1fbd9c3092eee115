// All that the document says of the selected test, beside or below the rest of the page.

const detailKinds = Object.fromEntries(Object.values(figures).map((figure) => [figure.attribute, figure.kind]));

function usageValue(name, value) {
  const kind = detailKinds[name] ?? (name.endsWith("_seconds") ? "duration" : name.endsWith("_bytes") ? "size" : "count");
  return showing[kind](value);
}

function usageName(name) {
  const words = name.replace(/_(seconds|bytes)$/, "").replaceAll("_", " ").replace(/^(cpu|io|oom)\b/, (word) => word.toUpperCase());
  return words === "setup" ? "Set-up" : words[0].toUpperCase() + words.slice(1);
}

const sizes = new Set(["memory", "swap", "disk"]);

function specValue(key, value) {
  if (sizes.has(key) && typeof value === "number") return bytes(value);
  if (key === "timeout" && typeof value === "number") return duration(value);
  if (key === "cpu" && typeof value === "number") return percent(value);
  if (typeof value === "string") return value;
  if (Array.isArray(value) && value.every((part) => typeof part === "string")) return value.join(", ");
  if (key === "budget") return Object.entries(value).map(([figure, allowed]) => `${figure} ${amount(figure, allowed)}`).join(", ");
  if (key === "env") return value.map((pair) => pair.join("=")).join(", ");
  if (key === "net") {
    const {mode = "none", network, container = network, ...others} = value;
    return `${[...new Set([mode, container ?? mode])].join(":")} ${spelled(others)}`.trim();
  }
  return spelled(value);
}

// What has several parts, without those that aren't given.
function spelled(value) {
  if (value == null) return "none";
  if (Array.isArray(value)) return value.map(spelled).join(", ");
  if (typeof value !== "object") return String(value);
  return Object.entries(value)
    .filter(([, part]) => part != null && part !== "")
    .map(([name, part]) => `${name} ${spelled(part)}`)
    .join(" ");
}

// Of the runs of a test that was repeated.
function range(test, name) {
  const [low, high] = test.ranges[name] ?? [];
  return low == null || low === high ? null : element("small", {}, ` ${usageValue(name, low)} to ${usageValue(name, high)}`);
}

function part(title, ...content) {
  const inside = content.flat().filter((child) => child != null);
  return inside.length ? element("section", {}, element("h3", {}, title), ...inside) : null;
}

function budgetTable(test) {
  if (test.budget.length === 0) return null;
  return element(
    "table",
    {class: "small"},
    element("thead", {}, element("tr", {}, ...["Figure", "Used", "Allowed", "Of it", "Verdict"].map((title) => element("th", {scope: "col"}, title)))),
    element("tbody", {}, ...test.budget.map((each) => element("tr", {title: each.place}, element("th", {scope: "row"}, each.figure), element("td", {}, amount(each.figure, each.used)), element("td", {}, amount(each.figure, each.allowed)), element("td", {}, each.used == null ? unknown : gauge(share(each))), element("td", {}, each.verdict ?? "")))),
  );
}

function changeTable(test) {
  if (test.changes.length === 0) return null;
  return element(
    "table",
    {class: "small"},
    element("thead", {}, element("tr", {}, ...["Figure", "Before", "After", "Change", "Noise", "Verdict"].map((title) => element("th", {scope: "col"}, title)))),
    element("tbody", {}, ...test.changes.map((each) => element("tr", {}, element("th", {scope: "row"}, each.figure), element("td", {}, amount(each.figure, each.before)), element("td", {}, amount(each.figure, each.after)), element("td", {}, signedPercent(grownBy(each)), each.limit ? element("small", {}, ` limit ${each.limit}`) : null), element("td", {}, each.noise == null ? unknown : `±${percent(each.noise)}`), element("td", {}, judged(each))))),
  );
}

function contactList(contacts) {
  if (!contacts) return null;
  const lines = ["reached", "refused", "unanswered"].flatMap((how) => contacts[how].map(([protocol, address, port]) => element("li", {}, `${how}: ${protocol} ${address.includes(":") ? `[${address}]` : address}:${port}`)));
  if (contacts.more) lines.push(element("li", {}, `and ${count(contacts.more)} more`));
  if (contacts.incomplete) lines.push(element("li", {}, "the kernel dropped packets: some may be missing"));
  return lines.length ? element("ul", {}, ...lines) : null;
}

function drawDetails(from) {
  const place = byId("details");
  const test = state.selected;
  place.hidden = !test;
  document.body.classList.toggle("with-details", Boolean(test));
  if (!test) return place.replaceChildren();
  const button = (text, click, attributes = {}) => element("button", {type: "button", click, ...attributes}, text);
  const step = (by) => {
    const to = view.list[view.list.indexOf(test) + by];
    if (!to) return;
    select(to, "details");
    const again = byId("details").querySelector(`[data-step="${by}"]`);
    (again.disabled ? byId("close") : again).focus();
  };
  const at = view.list.indexOf(test);
  const goto = (plot, text) => (plot.options.place?.(test) ? button(text, () => plot.section.scrollIntoView({block: "center"})) : null);
  const overTime = element("div", {class: "over-time"});
  const parts = [
    element(
      "div",
      {class: "head"},
      element("h2", {id: "details-title"}, test.nodeid),
      button("×", () => closeDetails(), {id: "close", "aria-label": "Close the details"}),
    ),
    element("p", {class: "state"}, badge(test.outcome, test.outcome), ...test.kinds.map((kind) => badge("problem", kind)), test.attempt > 1 || test.outcome === "rerun" ? ` attempt ${test.attempt}` : null, test.worker ? ` on ${test.worker}` : null, test.start == null ? null : ` at ${duration(Math.max(0, test.start))}`),
    element("div", {class: "ways"}, button("‹ Previous", () => step(-1), {"data-step": "-1", disabled: at <= 0}), button("Next ›", () => step(1), {"data-step": "1", disabled: at < 0 || at >= view.list.length - 1}), button("Row", () => showRow(test), {disabled: at < 0}), ...plots.filter((plot) => plot.options.place).map((plot) => goto(plot, {timeline: "Timeline", memory: "Memory", cpu: "CPU", comparison: "Change"}[plot.options.section]))),
    part("Problems", test.problems.map((problem) => element("div", {class: problem.failed ? "problem" : "problem mild"}, badge("problem", problem.kind.toUpperCase()), element("pre", {}, problem.text)))),
    part(test.repetitions ? `Used, last of ${plural(test.repetitions.count, "run")}` : "Used", Object.keys(test.usage).length ? element("dl", {class: "figures"}, ...definitions(Object.entries(test.usage).map(([name, value]) => [usageName(name), element("span", {}, usageValue(name, value), range(test, name))]))) : element("p", {}, "No figures are known.")),
    part("Over time", test.samples ? overTime : null),
    part("Budgets", budgetTable(test)),
    part("Change against the baseline", changeTable(test)),
    part("Asked for", Object.keys(test.spec).length ? element("dl", {class: "figures"}, ...definitions(Object.entries(test.spec).map(([key, value]) => [key, specValue(key, value)]))) : element("p", {}, "What a bare marker asks for.")),
    part("Contacts", contactList(test.contacts)),
    part("Done without", (test.weakened ?? []).map((text) => element("p", {}, text))),
    part("Notes", (test.notes ?? []).map((text) => element("p", {}, text))),
  ];
  place.replaceChildren(...parts.filter((child) => child !== null));
  place.scrollTop = 0;
  if (test.samples) drawOverTime(test, overTime);
  if (from === "row") scrollToMark(test);
}

// To a plot that has the test's mark, unless one of them is in view.
function scrollToMark(test) {
  const having = plots.filter((plot) => plot.options.place?.(test));
  const visible = ({place}) => {
    const {top, bottom} = place.getBoundingClientRect();
    const below = getComputedStyle(byId("details")).position === "fixed" && innerWidth < 1000 ? byId("details").getBoundingClientRect().top : innerHeight;
    return top >= 0 && bottom <= below;
  };
  if (!having.some(visible)) having[0]?.section.scrollIntoView({block: "start"});
}

function showRow(test) {
  focusRow(test);
}

function closeDetails() {
  const test = state.selected;
  if (!test) return;
  const inside = byId("details").contains(document.activeElement);
  select(null, "details");
  if (inside || document.activeElement === document.body) focusRow(test);
}

function startDetails() {
  listeners.selection.push((from) => {
    for (const plot of plots) plot.mark?.(state.selected && plot.options.place ? state.selected : null);
    drawDetails(from);
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && state.selected && event.target !== byId("query")) closeDetails();
  });
}
