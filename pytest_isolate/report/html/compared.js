// The change against a baseline, one figure at a time: a bar per test from before to after, the noise of repeated runs behind it.

const verdicts = {exceeded: "failed", grown: "rerun", shrunk: "passed", same: "skipped", unclear: "xpassed", new: "xfailed", gone: "skipped"};

const wording = {exceeded: "grown beyond their limit"};

function meaning(figure) {
  return figures[figure]?.meaning ?? figure;
}

function amount(figure, value) {
  const kind = figures[figure]?.kind ?? "count";
  return showing[kind](value);
}

function drawComparison() {
  if (!comparison) return;
  byId("comparison").hidden = false;
  const {baseline} = comparison;
  const names = [...new Set(comparison.tests.map((each) => each.figure))];
  const comparable = (each) => each.change != null && lastAttempts.has(each.nodeid);
  const created = baseline.created == null ? null : new Date(typeof baseline.created === "number" ? baseline.created * 1000 : baseline.created);
  const said = [
    `Against ${baseline.name || baseline.path || "a baseline"}`,
    created && !Number.isNaN(created.valueOf()) ? `of ${created.toLocaleString("en-GB", {dateStyle: "medium", timeStyle: "short"})}` : null,
    baseline.commit ? `commit ${baseline.commit.slice(0, 12)}` : null,
  ];
  const tally = {};
  for (const each of comparison.tests) tally[judged(each)] = (tally[judged(each)] ?? 0) + 1;
  const words = Object.entries(tally).map(([verdict, number]) => `${count(number)} ${wording[verdict] ?? verdict}`);
  const choice = element("select", {change: () => draw(choice.value)}, ...names.map((name) => element("option", {value: name}, meaning(name))));
  const remarks = [
    comparison.unlike?.length ? `The machines differ: ${comparison.unlike.map((each) => `${each.fact} ${each.before} → ${each.after}`).join(", ")}.` : null,
    comparison.unjudged?.length ? `Because of that not compared: ${comparison.unjudged.map(meaning).join(", ")}.` : null,
    comparison.unmeasured?.length ? `${plural(comparison.unmeasured.length, "figure")} with a limit could not be measured: ${comparison.unmeasured.slice(0, 5).map((each) => `${each.figure} of ${each.nodeid}`).join(", ")}${comparison.unmeasured.length > 5 ? ", …" : ""}.` : null,
    comparison.failed?.length ? `${plural(comparison.failed.length, "test")} of the baseline ran and didn't pass.` : null,
  ];
  const before = [
    element("p", {}, `${said.filter(Boolean).join(", ")}. Figures: ${words.join(", ") || "none"}.`),
    ...remarks.filter(Boolean).map((text) => element("p", {}, text)),
    names.length ? element("label", {class: "choice"}, element("span", {}, "Figure"), choice) : null,
  ].filter(Boolean);
  const after = element("div", {id: "gone"});
  if (gone.length) {
    const missing = [...new Set(gone.map((each) => each.nodeid))];
    after.append(element("details", {}, element("summary", {}, `${plural(missing.length, "test")} of the baseline ${missing.length === 1 ? "is" : "are"} not in this run`), element("ul", {}, ...missing.slice(0, 500).map((nodeid) => element("li", {}, nodeid)), missing.length > 500 ? element("li", {}, `and ${count(missing.length - 500)} more`) : null)));
  }

  function draw(name) {
    for (let at = plots.length - 1; at >= 0; at -= 1) if (plots[at].options.section === "comparison") plots.splice(at, 1);
    const changes = comparison.tests.filter((each) => each.figure === name && comparable(each)).sort((one, other) => other.change - one.change);
    if (changes.length === 0) {
      nothing("comparison", "Change against the baseline", names.length ? "No test has this figure both in this run and in the baseline." : "No test is both in this run and in the baseline.");
    } else {
      plotChanges(name, changes, before);
    }
    const section = byId("comparison");
    if (changes.length === 0) section.append(...before);
    section.append(after);
    plots.find((plot) => plot.options.section === "comparison")?.mark(state.selected);
  }

  const having = (what) => names.find((name) => comparison.tests.some((each) => each.figure === name && comparable(each) && what(each)));
  choice.value = having((each) => each.exceeded) ?? having(() => true) ?? names[0] ?? "";
  draw(choice.value);
}

function plotChanges(name, changes, before) {
  // Where something is more than twice what it was, ratios: twice and half as much are as far from nothing.
  const ratios = changes[0].change > 1;
  const height = (change) => (ratios ? Math.log2(Math.max(1 + change, 1 / 64)) : change);
  const rank = new Map(changes.map((each, at) => [lastAttempts.get(each.nodeid), at + 1]));
  const of = changes.map((each) => lastAttempts.get(each.nodeid));
  const noisy = changes.filter((each) => each.noise != null);
  const extremes = [...changes.map((each) => height(each.change)), ...noisy.map((each) => height(each.noise)), 0.1, -0.1];
  const [low, high] = [extremes.reduce((a, b) => Math.min(a, b)), extremes.reduce((a, b) => Math.max(a, b))];
  const spare = Math.max(0, 12 - changes.length) / 2;
  const edge = changes.length > 200 ? 0.5 : 0.38;
  const bars = new Bokeh.ColumnDataSource({data: {}});
  const fill = () => {
    bars.data = {
      left: of.map((test) => rank.get(test) - edge),
      right: of.map((test) => rank.get(test) + edge),
      bottom: changes.map((each) => Math.min(0, height(each.change))),
      top: changes.map((each) => Math.max(0, height(each.change))),
      colour: changes.map((each) => palette[verdicts[judged(each)] ?? "other"]),
      alpha: alphas(of),
    };
  };
  const test = (each) => lastAttempts.get(each.nodeid);
  new Figure({
    section: "comparison",
    title: "Change against the baseline",
    before,
    zoom: "x",
    xgrid: false,
    height: 280,
    legend: [...["exceeded", "grown", "shrunk", "same", "unclear"].filter((verdict) => changes.some((each) => judged(each) === verdict)).map((verdict) => swatch("bar", wording[verdict] ?? verdict, verdicts[verdict])), ...(noisy.length ? [swatch("block", "noise of repeated runs", "band")] : [])],
    describe: () => `Change of ${meaning(name)} against the baseline in ${plural(changes.length, "test")}, from ${signedPercent(changes[0].change)} to ${signedPercent(changes.at(-1).change)}. The table below has the same figures.`,
    x: {label: "tests, the greatest growth first", range: [0.4 - spare, changes.length + 0.6 + spare], show: (at) => (Number.isInteger(at) && at >= 1 && at <= changes.length ? count(at) : "")},
    y: {label: null, range: [low - (high - low) * 0.08, high + (high - low) * 0.08], show: (at) => signedPercent(ratios ? 2 ** at - 1 : at), ticker: ratios ? new Bokeh.AdaptiveTicker({mantissas: [1, 2, 5], min_interval: 1, desired_num_ticks: 5}) : null},
    draw(figure) {
      fill();
      if (noisy.length) {
        figure.quad({left: noisy.map((each) => rank.get(test(each)) - 0.5), right: noisy.map((each) => rank.get(test(each)) + 0.5), bottom: noisy.map((each) => height(-Math.min(each.noise, 0.98))), top: noisy.map((each) => height(each.noise)), fill_color: palette.band, line_color: null});
        this.noise = figure.renderers.at(-1).glyph;
      }
      figure.quad({left: {field: "left"}, right: {field: "right"}, bottom: {field: "bottom"}, top: {field: "top"}, source: bars, fill_color: {field: "colour"}, line_color: {field: "colour"}, fill_alpha: {field: "alpha"}, line_alpha: {field: "alpha"}});
      figure.line([-1e6, 1e6], [0, 0], {line_color: palette.muted});
      this.zero = figure.renderers.at(-1).glyph;
    },
    recolour() {
      fill();
      this.zero.line_color = palette.muted;
      if (this.noise) this.noise.fill_color = palette.band;
    },
    rematch: fill,
    place: (which) => (rank.has(which) ? {x: rank.get(which), y: height(changes[rank.get(which) - 1].change)} : null),
    nearest: (event, pixels) => closest(of, (which) => Math.max(0, Math.abs(pixels.x(rank.get(which)) - event.sx) - Math.abs(pixels.x(0.5) - pixels.x(0)))),
    tip(which) {
      const each = changes[rank.get(which) - 1];
      return [shortName(each.nodeid), `${judged(each)}: ${amount(name, each.before)} → ${amount(name, each.after)}, ${signedPercent(each.change)}`, ...(each.noise == null ? [] : [`noise ±${percent(each.noise)}`])];
    },
  });
}
