// The table of tests: sorted, filtered, searched, a page at a time; one row can be tabbed to, the arrows go on from there.

const pageSize = 50;

const columns = [
  {key: "outcome", title: "Outcome", rank: (test) => outcomeOrder.indexOf(test.outcome) + 1 || 99, cell: (test) => [badge(test.outcome, test.outcome), ...test.kinds.map((kind) => badge("problem", kind))]},
  {key: "nodeid", title: "Test", rank: (test) => test.nodeid, cell: (test) => [element("span", {class: "nodeid"}, test.nodeid), ...(test.attempt > 1 || test.outcome === "rerun" ? [element("span", {class: "attempt"}, `attempt ${test.attempt}`)] : []), ...(test.samples ? [element("span", {class: "attempt"}, "sampled")] : [])]},
  {key: "wall", title: "Wall", rank: (test) => test.wall, cell: (test) => [duration(test.wall)]},
  {key: "cpu", title: "CPU", rank: (test) => test.cpu, cell: (test) => [duration(test.cpu)]},
  {key: "memory", title: "Memory", rank: (test) => test.peak, cell: (test) => [bytes(test.peak)]},
  {key: "cap", title: "Of cap", rank: (test) => test.capShare, cell: (test) => [gauge(test.capShare)]},
  {key: "budget", title: "Of budget", rank: (test) => test.budgetShare, cell: (test) => [gauge(test.budgetShare)]},
  {key: "change", title: "Change", rank: (test) => test.change && grownBy(test.change), cell: (test) => [changeText(test.change)]},
  {key: "setup", title: "Set-up", rank: (test) => test.setup, cell: (test) => [duration(test.setup)]},
  {key: "worker", title: "Worker", rank: (test) => test.worker || null, cell: (test) => [test.worker]},
].filter(({key, rank}) => key === "outcome" || key === "nodeid" || tests.some((test) => rank(test) != null));

// What a column means first: the most, or the alphabet.
const ascending = new Set(["outcome", "nodeid", "worker"]);
const view = {key: null, down: false, page: 0, list: tests, current: null};
const filters = {words: [], outcomes: new Set(), worker: null, kinds: new Set()};

function badge(kind, text) {
  return element("span", {class: "badge", style: `--colour: var(--${kind === "problem" ? "warn" : outcomeOrder.includes(kind) ? kind : "other"})`}, text);
}

function gauge(fraction) {
  if (fraction == null) return unknown;
  const level = fraction > 1 ? "over" : fraction > 0.8 ? "near" : "";
  return element("span", {class: `gauge ${level}`, style: `--share: ${Math.min(100, fraction * 100)}%`}, Number.isFinite(fraction) ? percent(fraction) : "over");
}

function changeText(change) {
  if (!change) return unknown;
  const colour = {exceeded: "failed", grown: "rerun", shrunk: "passed"}[judged(change)] ?? "muted";
  return element("span", {style: `color: var(--${colour})`, title: `${meaning(change.figure)}: ${judged(change)}`}, grownBy(change) == null ? change.verdict : `${change.figure} ${signedPercent(grownBy(change))}`);
}

const kindsOfProblem = [...new Set(tests.flatMap((test) => test.kinds))].sort();

function drawHead() {
  byId("head").replaceChildren(
    ...columns.map(({key, title}) => {
      const sort = view.key !== key ? "none" : view.down ? "descending" : "ascending";
      return element("th", {role: "columnheader", scope: "col", "aria-sort": sort, "data-key": key}, element("button", {type: "button", click: () => sortBy(key)}, title, element("span", {class: "arrow", "aria-hidden": "true"}, {none: "", ascending: "↑", descending: "↓"}[sort])));
    }),
  );
}

function sortBy(key) {
  if (view.key === key && view.down === ascending.has(key)) view.key = null;
  else if (view.key === key) view.down = !view.down;
  else Object.assign(view, {key, down: !ascending.has(key)});
  if (view.key === null) view.down = false;
  const focused = document.activeElement?.closest?.("th")?.dataset.key;
  view.page = 0;
  drawHead();
  if (focused) byId("head").querySelector(`[data-key="${focused}"] button`).focus();
  filter();
}

function matches(test) {
  return (
    (filters.outcomes.size === 0 || filters.outcomes.has(test.outcome)) &&
    (filters.kinds.size === 0 || test.kinds.some((kind) => filters.kinds.has(kind))) &&
    (filters.worker === null || test.worker === filters.worker) &&
    filters.words.every((word) => test.found.includes(word))
  );
}

function filter() {
  state.matching = tests.map(matches);
  view.list = tests.filter((test) => state.matching[test.index]);
  const column = columns.find(({key}) => key === view.key);
  if (column) {
    const way = view.down ? -1 : 1;
    const ranks = new Map(view.list.map((test) => [test, column.rank(test)]));
    view.list.sort((one, other) => {
      const [a, b] = [ranks.get(one), ranks.get(other)];
      // What isn't known is last either way.
      if (a == null || b == null) return (a == null) - (b == null) || one.index - other.index;
      return (typeof a === "string" ? collator.compare(a, b) : a - b) * way || one.index - other.index;
    });
  }
  view.page = Math.min(view.page, Math.max(0, pageCount() - 1));
  const few = view.list.length < tests.length;
  byId("shown").textContent = few ? `${count(view.list.length)} of ${plural(tests.length, "test")}` : plural(tests.length, "test");
  byId("clear").disabled = !few && filters.words.length === 0;
  drawRows();
  changed("matching");
}

const collator = new Intl.Collator("en", {numeric: true});

function pageCount() {
  return Math.ceil(view.list.length / pageSize);
}

function drawRows() {
  const from = view.page * pageSize;
  const shown = view.list.slice(from, from + pageSize);
  if (!shown.includes(view.current)) view.current = shown.includes(state.selected) ? state.selected : (shown[0] ?? null);
  byId("table").setAttribute("aria-rowcount", view.list.length + 1);
  const why = tests.length ? "No test matches." : `No test ran in a sandbox${run.plain_tests ? `; ${plural(run.plain_tests, "test")} ran without one` : ""}.`;
  byId("rows").replaceChildren(
    ...(shown.length ? shown.map((test, at) => row(test, from + at)) : [element("tr", {role: "row", class: "none"}, element("td", {role: "gridcell", colspan: columns.length}, why))]),
  );
  drawPages();
}

function row(test, at) {
  return element(
    "tr",
    {role: "row", "data-index": test.index, "aria-rowindex": at + 2, tabindex: test === view.current ? 0 : -1, "aria-selected": String(test === state.selected)},
    ...columns.map(({key, title, rank, cell}) => element(key === "nodeid" ? "th" : "td", {role: key === "nodeid" ? "rowheader" : "gridcell", scope: key === "nodeid" ? "row" : null, class: key !== "nodeid" && key !== "outcome" && rank(test) == null ? "unknown" : null, "data-key": key, "data-title": title}, ...cell(test))),
  );
}

function drawPages() {
  const number = pageCount();
  for (const id of ["pages-above", "pages-below"]) {
    const place = byId(id);
    const held = place.contains(document.activeElement) ? document.activeElement.dataset.to : null;
    place.hidden = number < 2;
    const button = (to, text, label, off) => element("button", {type: "button", "data-to": text, "aria-label": label, disabled: off, click: () => turn(to)}, text);
    place.replaceChildren(
      button(0, "«", "First page", view.page === 0),
      button(view.page - 1, "‹ Previous", "Previous page", view.page === 0),
      element("span", {}, `Page ${count(view.page + 1)} of ${count(number)}`),
      button(view.page + 1, "Next ›", "Next page", view.page >= number - 1),
      button(number - 1, "»", "Last page", view.page >= number - 1),
    );
    if (held) (place.querySelector(`[data-to="${held}"]:not(:disabled)`) ?? place.querySelector("button:not(:disabled)"))?.focus();
  }
}

function turn(page) {
  view.page = page;
  drawRows();
}

// Turns to the page of a test, if the filter shows it. Returns its row, or null.
function rowOf(test) {
  const at = view.list.indexOf(test);
  if (at < 0) return null;
  const page = Math.floor(at / pageSize);
  view.current = test;
  if (page !== view.page) view.page = page;
  drawRows();
  return byId("rows").querySelector(`[data-index="${test.index}"]`);
}

function focusRow(test) {
  const found = rowOf(test);
  if (!found) return false;
  found.focus({preventScroll: true});
  found.scrollIntoView({block: "nearest"});
  return true;
}

// The selected row can change without another one being drawn.
function markRow() {
  for (const found of byId("rows").querySelectorAll("[data-index]")) {
    found.setAttribute("aria-selected", String(state.selected !== null && Number(found.dataset.index) === state.selected.index));
  }
}

function rowKey(event) {
  const index = event.target.closest("tr")?.dataset.index;
  if (index === undefined || event.target !== event.target.closest("tr") || event.altKey || event.ctrlKey || event.metaKey) return;
  const at = view.list.indexOf(tests[index]);
  const to = {ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: view.list.length - 1, PageDown: at + 10, PageUp: at - 10}[event.key];
  if (to !== undefined) focusRow(view.list[Math.max(0, Math.min(view.list.length - 1, to))]);
  else if (event.key === "Enter" || event.key === " ") select(tests[index], "row");
  else return;
  event.preventDefault();
}

function startTable() {
  const pressed = (set, value) => (event) => {
    if (event.target.checked) set.add(value);
    else set.delete(value);
    view.page = 0;
    filter();
  };
  const tick = (set, value, text, colour) => element("label", {class: "tick", style: `--colour: var(--${colour})`}, element("input", {type: "checkbox", value, change: pressed(set, value)}), element("span", {}, text));
  const tally = {};
  for (const test of tests) tally[test.outcome] = (tally[test.outcome] ?? 0) + 1;
  const outcomes = Object.keys(tally).sort((one, other) => (outcomeOrder.indexOf(one) + 1 || 99) - (outcomeOrder.indexOf(other) + 1 || 99));
  byId("outcomes").append(...outcomes.map((outcome) => tick(filters.outcomes, outcome, `${outcome} ${count(tally[outcome])}`, outcomeOrder.includes(outcome) ? outcome : "other")));
  byId("kinds").append(...kindsOfProblem.map((kind) => tick(filters.kinds, kind, kind, "warn")));
  byId("outcomes").hidden = outcomes.length < 2;
  byId("kinds").hidden = kindsOfProblem.length === 0;
  if (workers.length > 1) {
    byId("worker-choice").hidden = false;
    byId("worker").append(element("option", {value: "*"}, "all"), ...workers.map((worker) => element("option", {value: worker}, worker || "none")));
    byId("worker").addEventListener("change", (event) => {
      filters.worker = event.target.value === "*" ? null : event.target.value;
      view.page = 0;
      filter();
    });
  }
  let waiting = 0;
  byId("query").addEventListener("input", (event) => {
    filters.words = event.target.value.toLowerCase().split(/\s+/).filter(Boolean);
    view.page = 0;
    clearTimeout(waiting);
    waiting = setTimeout(filter, tests.length > 500 ? 120 : 0);
  });
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("filters").addEventListener("reset", () => {
    Object.assign(filters, {words: [], worker: null});
    filters.outcomes.clear();
    filters.kinds.clear();
    filter();
  });
  byId("rows").addEventListener("keydown", rowKey);
  byId("rows").addEventListener("click", (event) => {
    const index = event.target.closest("tr")?.dataset.index;
    // Text that is being marked isn't a choice of its row.
    if (index === undefined || !getSelection().isCollapsed) return;
    view.current = tests[index];
    rowOf(tests[index])?.focus({preventScroll: true});
    select(tests[index], "row");
  });
  listeners.selection.push((from) => {
    if (from !== "row" && state.selected) rowOf(state.selected);
    markRow();
  });
  drawHead();
  filter();
}
