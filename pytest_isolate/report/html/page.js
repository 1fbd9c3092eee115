// The page around plots and table: the run in short, the machine, light and dark.

function drawOverview() {
  const root = about.rootdir ?? "";
  byId("title").textContent = `Sandboxes of ${root.split("/").filter(Boolean).pop() || root || "a run"}`;
  byId("command").append(element("code", {}, ["pytest", ...(about.arguments ?? []).map(quoted)].join(" ")));
  const statuses = ["all passed", "some failed", "interrupted", "internal error", "usage error", "no tests"];
  const started = about.started == null ? null : new Date(about.started * 1000);
  byId("about").append(
    ...definitions([
      ["Started", started && element("time", {datetime: started.toISOString(), title: started.toISOString()}, started.toLocaleString("en-GB", {dateStyle: "medium", timeStyle: "medium"}))],
      ["Took", duration(about.seconds)],
      ["Commit", about.commit && element("code", {title: about.commit}, about.commit.slice(0, 12))],
      ["Exit status", about.exit_status == null ? null : `${about.exit_status}${statuses[about.exit_status] ? `, ${statuses[about.exit_status]}` : ""}`],
      ["Directory", root && element("code", {}, root)],
    ]),
  );
  const {outcomes = {}, usage = {}, tests: number = 0, attempts = 0} = run.totals ?? {};
  const known = Object.entries(outcomes).sort(([one], [other]) => (outcomeOrder.indexOf(one) + 1 || 99) - (outcomeOrder.indexOf(other) + 1 || 99));
  byId("share").append(...known.map(([outcome, each]) => element("span", {style: `flex-grow: ${each}; background: var(--${outcomeOrder.includes(outcome) ? outcome : "other"})`})));
  byId("share").setAttribute("aria-label", known.map(([outcome, each]) => `${count(each)} ${outcome || "without an outcome"}`).join(", ") || "no sandboxed test");
  byId("counts").append(...known.map(([outcome, each]) => element("li", {style: `--colour: var(--${outcomeOrder.includes(outcome) ? outcome : "other"})`}, element("b", {}, count(each)), ` ${outcome || "without an outcome"}`)));
  if (run.plain_tests) byId("counts").append(element("li", {class: "plain"}, element("b", {}, count(run.plain_tests)), " without a sandbox"));
  const kills = usage.oom_kills;
  byId("totals").append(
    ...definitions([
      ["Sandboxed tests", attempts > number ? `${count(number)} in ${plural(attempts, "attempt")}` : count(number)],
      ["CPU", duration(usage.cpu_seconds)],
      ["Wall, summed", duration(usage.wall_seconds)],
      ["Set-up, summed", duration(usage.setup_seconds)],
      ["Memory peak", bytes(usage.memory_peak_bytes)],
      ["Written to disk", usage.io_write_bytes == null ? null : bytes(usage.io_write_bytes)],
      ["OOM kills", kills ? count(kills) : null],
      ["Workers", workers.length > 1 ? count(workers.length) : null],
    ]),
  );
  if (about.interrupted) {
    byId("banner").hidden = false;
    byId("banner").textContent = "This run was stopped before its end: tests may be missing.";
  }
  const remarks = [...Object.entries(run.weakened ?? {}).map(([text, each]) => `${plural(each, "test")} ran without what was missing: ${text}`), ...(run.notes ?? [])];
  if (remarks.length) byId("overview").append(element("details", {class: "remarks"}, element("summary", {}, plural(remarks.length, "note")), element("ul", {}, ...remarks.map((text) => element("li", {}, text)))));
}

function quoted(argument) {
  return /^[\w@%+=:,./-]+$/.test(argument) ? argument : `'${argument.replaceAll("'", `'\\''`)}'`;
}

function drawEnvironment() {
  const {machine = {}, tool = {}} = run;
  byId("machine").append(
    element(
      "dl",
      {class: "figures"},
      ...definitions([
        ["Machine", machine.name],
        ["Processor", machine.processor && `${machine.processor} (${machine.architecture})`],
        ["CPUs", machine.cpus == null ? null : count(machine.cpus)],
        ["Memory", bytes(machine.memory_bytes)],
        ["Kernel", machine.kernel],
        ["Distribution", machine.distribution],
        ["Container", machine.container],
        ["Cgroups", machine.cgroup_layout && `${machine.cgroup_layout}${machine.controllers?.length ? `: ${machine.controllers.join(", ")}` : ""}`],
        ["User id", machine.uid == null ? null : String(machine.uid)],
        ["Python", machine.python],
        ["pytest", tool.pytest],
        [tool.name ?? "Plugin", tool.version],
      ]),
    ),
  );
  const known = run.capabilities ?? [];
  const place = byId("capabilities");
  place.append(element("h3", {}, "Capabilities"));
  if (known.length === 0) {
    place.append(element("p", {class: "hint"}, "Nobody has asked this machine since it started: python -m pytest_isolate doctor."));
    return;
  }
  const states = {works: "passed", weaker: "warn", missing: "failed"};
  place.append(
    element(
      "table",
      {class: "capabilities"},
      element("thead", {}, element("tr", {}, ...["Capability", "State", "Why, and what to type"].map((title) => element("th", {scope: "col"}, title)))),
      element("tbody", {}, ...known.map((each) => element("tr", {}, element("th", {scope: "row"}, each.name), element("td", {}, element("span", {class: "badge", style: `--colour: var(--${states[each.state] ?? "other"})`}, each.state)), element("td", {}, each.why || null, each.why && each.remedy ? element("br") : null, each.remedy ? element("code", {}, each.remedy) : null)))),
    ),
  );
}

function startTheme() {
  const stored = () => {
    try {
      return localStorage.getItem("pytest-isolate-theme");
    } catch {
      return null; // a browser that keeps nothing for files
    }
  };
  const apply = (theme) => {
    if (theme === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    palette.read();
    changed("theme");
  };
  for (const input of document.getElementsByName("theme")) {
    input.checked = input.value === (stored() ?? "auto");
    input.addEventListener("change", () => {
      try {
        localStorage.setItem("pytest-isolate-theme", input.value);
      } catch {
        // As above: it holds as long as the page.
      }
      apply(input.value);
    });
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    palette.read();
    changed("theme");
  });
  apply(stored() ?? "auto");
}

startTheme();
drawOverview();
drawEnvironment();
startTable();
startDetails();
drawTimeline();
drawMemory();
drawCpu();
drawComparison();
listeners.theme.push(() => plots.forEach((plot) => plot.restyle()));
listeners.theme.push(() => state.selected?.samples && drawDetails("theme"));
listeners.matching.push(() => plots.forEach((plot) => plot.options.rematch?.()));
Promise.all(plots.map((plot) => plot.ready)).then(() => {
  document.documentElement.dataset.ready = "true";
});
