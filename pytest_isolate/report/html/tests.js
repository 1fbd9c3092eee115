// The document that the page is made of, and of each test the values that plots and table show.

const {document: run, figures} = JSON.parse(byId("data").textContent);

const about = run.run ?? {};

function named(columns, row) {
  return Object.fromEntries(columns.map((column, at) => [column, row[at] ?? null]));
}

function unpack(packed, index) {
  const usage = {};
  run.usage_columns.forEach((name, at) => {
    if (packed.usage[at] != null) usage[name] = packed.usage[at];
  });
  const spec = run.specs[packed.spec] ?? {};
  const budget = (packed.budget ?? []).map((row) => named(run.budget_columns, row));
  const start = packed.started == null || about.started == null ? null : packed.started - about.started;
  const peak = usage.memory_peak_bytes ?? null;
  const cap = spec.memory ?? null;
  const problems = packed.problems ?? [];
  return {
    ...packed, index, usage, spec, budget, start, peak, cap, problems,
    attempt: packed.attempt ?? 1,
    outcome: packed.outcome || "unknown",
    worker: packed.worker ?? "",
    wall: usage.wall_seconds ?? null,
    setup: usage.setup_seconds ?? null,
    cpu: usage.cpu_seconds ?? null,
    capShare: peak != null && cap ? peak / cap : null,
    budgetShare: budget.reduce((most, each) => (each.used == null ? most : Math.max(most ?? 0, share(each))), null),
    ranges: named(run.usage_columns, packed.repetitions?.ranges ?? []),
    kinds: [...new Set(problems.map((problem) => problem.kind.toUpperCase()))],
    changes: [],
    change: null,
    found: `${packed.nodeid}\n${problems.map((problem) => `${problem.kind} ${problem.text}`).join("\n")}`.toLowerCase(),
  };
}

// Of what is allowed; a budget of nothing is either kept or broken without measure.
function share(budget) {
  if (budget.allowed > 0) return budget.used / budget.allowed;
  return budget.used > 0 ? Infinity : 0;
}

const tests = run.tests.map(unpack);
const workers = [...new Set(tests.map((test) => test.worker))].sort((one, other) => one.localeCompare(other, "en", {numeric: true}));

// Tests of this run are numbers there.
const comparison = run.comparison && {
  ...run.comparison,
  tests: run.comparison.tests.map(([who, ...rest]) => named(run.comparison.columns, [typeof who === "number" ? tests[who].nodeid : who, ...rest])),
};

// A comparison names tests, and the last attempt at a test is its result.
const lastAttempts = new Map(tests.map((test) => [test.nodeid, test]));
const gone = [];
for (const change of comparison?.tests ?? []) {
  const test = lastAttempts.get(change.nodeid);
  if (test) test.changes.push(change);
  else gone.push(change);
}
const gravity = {grown: 3, unclear: 2, shrunk: 1};
const judged = (change) => (change.exceeded ? "exceeded" : change.verdict);
for (const test of tests) {
  test.change = test.changes.reduce(
    (gravest, each) => {
      const rank = (change) => [change.exceeded ? 4 : (gravity[change.verdict] ?? 0), Math.abs(grownBy(change) ?? 0)];
      if (!gravest) return each;
      const [one, other] = [rank(each), rank(gravest)];
      return one[0] > other[0] || (one[0] === other[0] && one[1] > other[1]) ? each : gravest;
    },
    null,
  );
}

// "tests/test_it.py::TestThat::test_one[param]" for a tip: what tells it from the others, and not longer than a line or two.
function shortName(nodeid) {
  const name = nodeid.split("/").pop();
  return name.length > 120 ? `${name.slice(0, 80)}…${name.slice(-39)}` : name;
}

// What is chosen, found and shown. Whoever changes it calls `changed`, and every part draws itself anew.
const state = {selected: null, matching: tests.map(() => true)};
const listeners = {selection: [], matching: [], theme: []};

function changed(what, ...details) {
  for (const listener of listeners[what]) listener(...details);
}

// `from`: who chose it: "row", "plot" or "details".
function select(test, from) {
  state.selected = test;
  changed("selection", from);
}
