// The plots of all tests: when, how much memory, how much CPU.

// Those that matter are drawn last, over what a pixel shares with them.
function gravest(list) {
  const weight = (test) => (test.outcome === "failed" || test.outcome === "error" ? 1 : 0);
  return [...list].sort((one, other) => weight(one) - weight(other));
}

function drawTimeline() {
  const timed = tests.filter((test) => test.start != null && test.wall != null);
  if (timed.length === 0) {
    return nothing("timeline", "Timeline", "No test of this run has a time at which it joined a sandbox.");
  }
  const lane = new Map(workers.map((worker, at) => [worker, workers.length - 1 - at]));
  const lanes = workers.map((worker) => timed.filter((test) => test.worker === worker).sort((one, other) => one.start - other.start));
  const drawn = gravest(timed);
  const grave = drawn.filter((test) => test.problems.length > 0);
  const y = (test) => lane.get(test.worker);
  const first = Math.min(0, ...timed.map((test) => test.start - (test.setup ?? 0)));
  const last = timed.reduce((end, test) => Math.max(end, test.start + test.wall), about.seconds ?? 0);
  const margin = (last - first || 1) * 0.01;
  const bars = new Bokeh.ColumnDataSource({data: {}});
  const signs = new Bokeh.ColumnDataSource({data: {}});
  const fill = (figure) => {
    bars.data = {
      left: drawn.map((test) => test.start),
      right: drawn.map((test) => test.start + test.wall),
      before: drawn.map((test) => test.start - (test.setup ?? 0)),
      top: drawn.map((test) => y(test) + 0.3),
      bottom: drawn.map((test) => y(test) - 0.3),
      low: drawn.map((test) => y(test) - 0.12),
      high: drawn.map((test) => y(test) + 0.12),
      colour: drawn.map((test) => palette.of(test.outcome)),
      alpha: alphas(drawn),
    };
    signs.data = {
      x: grave.map((test) => test.start + test.wall),
      y: grave.map((test) => y(test) + 0.4),
      colour: grave.map((test) => (test.problems.some((problem) => problem.failed) ? palette.failed : palette.warn)),
      alpha: alphas(grave),
    };
  };
  return new Figure({
    section: "timeline",
    title: "Timeline",
    zoom: "x",
    ygrid: false,
    height: Math.min(90 + 42 * workers.length, 760),
    legend: [swatch("bar", "test, in the colour of its outcome", "passed"), swatch("thin", "set-up of its sandbox", "setup"), swatch("down", "problem", "failed")],
    describe: () => `Timeline of ${plural(timed.length, "sandbox", "sandboxes")} in ${plural(workers.length, "lane")} over ${duration(last)}. The table below has the same tests, reachable by keyboard.`,
    x: {label: "since the start of the run", range: [first - margin, last + margin], show: duration},
    y: {
      label: null,
      range: [-0.6, workers.length - 0.3],
      show: (at) => workers[workers.length - 1 - at] ?? "",
      ticker: new Bokeh.FixedTicker({ticks: workers.map((_, at) => at)}),
    },
    draw(figure) {
      fill();
      const quad = (left, right, bottom, top, fill) =>
        figure.quad({left: {field: left}, right: {field: right}, bottom: {field: bottom}, top: {field: top}, source: bars, fill_color: fill, line_color: fill, line_width: 0.5, fill_alpha: {field: "alpha"}, line_alpha: {field: "alpha"}});
      quad("before", "left", "low", "high", palette.setup);
      this.setups = figure.renderers.at(-1).glyph;
      quad("left", "right", "bottom", "top", {field: "colour"});
      figure.scatter({field: "x"}, {field: "y"}, {source: signs, marker: "inverted_triangle", size: 8, fill_color: {field: "colour"}, line_color: null, alpha: {field: "alpha"}});
      if (workers.length === 1 && workers[0] === "") figure.yaxes[0].visible = false;
    },
    recolour() {
      fill();
      this.setups.fill_color = this.setups.line_color = palette.setup;
    },
    rematch: fill,
    place: (test) => (test.start == null || test.wall == null ? null : {x: test.start + test.wall / 2, y: y(test)}),
    nearest(event, pixels) {
      const of = lanes[workers.length - 1 - Math.round(event.y)] ?? [];
      return closest(of, (test) => {
        const [left, right] = [pixels.x(test.start - (test.setup ?? 0)), pixels.x(test.start + test.wall)];
        return Math.max(left - event.sx, event.sx - right, 0);
      });
    },
    tip: (test) => [shortName(test.nodeid), `${test.outcome}${test.kinds.length ? `: ${test.kinds.join(", ")}` : ""}`, `${duration(test.wall)} after ${duration(test.setup)} of set-up`],
  });
}

// The one with the smallest distance in pixels; null where none is within reach of a pointer or a finger.
function closest(list, distance) {
  let best = null;
  let least = coarse ? 24 : 10;
  for (const test of list) {
    const away = distance(test);
    // Of those at the same place the one that the filter shows.
    if (away < least || (away === least && best && !state.matching[best.index])) {
      best = test;
      least = away;
    }
  }
  return best;
}

function memoryBudget(test) {
  return test.budget.find((each) => each.figure === "memory")?.allowed ?? null;
}

function drawMemory() {
  const known = tests.filter((test) => test.peak > 0).sort((one, other) => other.peak - one.peak);
  if (known.length === 0) {
    return nothing("memory", "Memory peaks", "No memory figures: nothing ran, or the machine gave none. Without a memory cgroup there are none; python -m pytest_isolate doctor says what to type.");
  }
  const rank = new Map(known.map((test, at) => [test, at + 1]));
  const drawn = gravest(known);
  const capped = known.filter((test) => test.cap);
  const budgeted = known.filter((test) => memoryBudget(test) > 0);
  const values = [...known.map((test) => test.peak), ...capped.map((test) => test.cap), ...budgeted.map(memoryBudget)].map(Math.log2);
  const [low, high] = [Math.floor(values.reduce((a, b) => Math.min(a, b)) - 0.5), values.reduce((a, b) => Math.max(a, b)) + 0.4];
  // One test alone isn't as broad as the page.
  const spare = Math.max(0, 12 - known.length) / 2;
  const bars = new Bokeh.ColumnDataSource({data: {}});
  const caps = new Bokeh.ColumnDataSource({data: {}});
  const ticks = new Bokeh.ColumnDataSource({data: {}});
  const fill = () => {
    const edge = known.length > 200 ? 0.5 : 0.38;
    bars.data = {
      left: drawn.map((test) => rank.get(test) - edge),
      right: drawn.map((test) => rank.get(test) + edge),
      bottom: drawn.map(() => low),
      top: drawn.map((test) => Math.log2(test.peak)),
      colour: drawn.map((test) => palette.of(test.outcome)),
      alpha: alphas(drawn),
    };
    caps.data = {
      x0: capped.map((test) => rank.get(test) - 0.5),
      x1: capped.map((test) => rank.get(test) + 0.5),
      y: capped.map((test) => Math.log2(test.cap)),
      alpha: alphas(capped),
    };
    ticks.data = {x: budgeted.map((test) => rank.get(test)), y: budgeted.map((test) => Math.log2(memoryBudget(test))), alpha: alphas(budgeted)};
  };
  return new Figure({
    section: "memory",
    title: "Memory peaks",
    zoom: "x",
    xgrid: false,
    height: 320,
    legend: [
      swatch("bar", "peak", "passed"),
      ...(capped.length ? [swatch("line", "cap", "cap")] : []),
      ...(budgeted.length ? [swatch("up", "budget", "budget")] : []),
    ],
    describe: () => `Memory peaks of ${plural(known.length, "test")}, from ${bytes(known[0].peak)} down to ${bytes(known.at(-1).peak)}; ${plural(capped.length, "test")} with a cap. The table below has the same figures.`,
    x: {label: "tests, the highest peak first", range: [0.4 - spare, known.length + 0.6 + spare], show: (at) => (Number.isInteger(at) && at >= 1 && at <= known.length ? count(at) : "")},
    y: {label: null, range: [low, high], show: (power) => bytes(2 ** power), ticker: new Bokeh.AdaptiveTicker({base: 10, mantissas: [1, 2, 5], min_interval: 1, desired_num_ticks: 6})},
    draw(figure) {
      fill();
      figure.quad({left: {field: "left"}, right: {field: "right"}, bottom: {field: "bottom"}, top: {field: "top"}, source: bars, fill_color: {field: "colour"}, line_color: {field: "colour"}, line_width: 0.5, fill_alpha: {field: "alpha"}, line_alpha: {field: "alpha"}});
      figure.segment({x0: {field: "x0"}, x1: {field: "x1"}, y0: {field: "y"}, y1: {field: "y"}, source: caps, line_color: palette.cap, line_width: 2, line_alpha: {field: "alpha"}});
      this.caps = figure.renderers.at(-1).glyph;
      figure.scatter({field: "x"}, {field: "y"}, {source: ticks, marker: "triangle", size: known.length > 200 ? 5 : 9, fill_color: palette.budget, line_color: null, alpha: {field: "alpha"}});
      this.ticks = figure.renderers.at(-1).glyph;
    },
    recolour() {
      fill();
      this.caps.line_color = palette.cap;
      this.ticks.fill_color = palette.budget;
    },
    rematch: fill,
    place: (test) => (rank.has(test) ? {x: rank.get(test), y: Math.log2(test.peak)} : null),
    nearest(event, pixels) {
      return closest(known, (test) => Math.max(0, Math.abs(pixels.x(rank.get(test)) - event.sx) - Math.abs(pixels.x(0.5) - pixels.x(0))));
    },
    tip: (test) => [
      shortName(test.nodeid),
      `${bytes(test.peak)}${test.cap ? `, ${percent(test.capShare)} of the cap of ${bytes(test.cap)}` : ", no cap"}`,
      ...(memoryBudget(test) ? [`budget ${bytes(memoryBudget(test))}`] : []),
    ],
  });
}

function drawCpu() {
  const known = tests.filter((test) => test.cpu != null && test.wall > 0);
  if (known.length === 0) {
    return nothing("cpu", "CPU against wall", "No CPU figures: nothing ran, or the machine gave none.");
  }
  const least = 1e-4;
  const x = (test) => Math.log10(Math.max(test.wall, least));
  const y = (test) => Math.log10(Math.max(test.cpu, least));
  const around = (values) => {
    const [low, high] = [values.reduce((a, b) => Math.min(a, b)), values.reduce((a, b) => Math.max(a, b))];
    const spare = Math.max(0.15, (1.5 - (high - low)) / 2);
    return [low - spare, high + spare];
  };
  const [xs, ys] = [around(known.map(x)), around(known.map(y))];
  const outcomes = [...new Set(known.map((test) => test.outcome))].sort((one, other) => outcomeOrder.indexOf(other) - outcomeOrder.indexOf(one));
  const groups = outcomes.map((outcome) => ({outcome, of: known.filter((test) => test.outcome === outcome), source: new Bokeh.ColumnDataSource({data: {}})}));
  const fill = () => {
    for (const {of, source} of groups) source.data = {x: of.map(x), y: of.map(y), alpha: alphas(of, known.length > 500 ? 0.55 : 1)};
  };
  const [low, high] = [Math.min(xs[0], ys[0]) - 9, Math.max(xs[1], ys[1]) + 9];
  return new Figure({
    section: "cpu",
    title: "CPU against wall",
    zoom: "both",
    height: 320,
    legend: [swatch("dots", "test", "passed"), swatch("dashed", "CPU = wall: one CPU all the time", "muted")],
    describe: () => `CPU time against wall time of ${plural(known.length, "test")}; ${count(known.filter((test) => test.cpu > test.wall).length)} of them used more than one CPU. The table below has the same figures.`,
    x: {label: "wall", range: xs, show: (power) => duration(10 ** power), ticker: powerTicker(4)},
    y: {label: "CPU", range: ys, show: (power) => duration(10 ** power), ticker: powerTicker(5)},
    draw(figure) {
      fill();
      figure.line([low, high], [low, high], {line_color: palette.muted, line_dash: "dashed", line_width: 1.5});
      this.line = figure.renderers.at(-1).glyph;
      this.glyphs = groups.map(({outcome, source}) => {
        const colour = palette.of(outcome);
        figure.scatter({field: "x"}, {field: "y"}, {source, marker: markers[outcome] ?? "square", size: outcome === "passed" ? 7 : 9, fill_color: colour, line_color: colour, line_width: outcome === "passed" ? 1 : 2.5, fill_alpha: {field: "alpha"}, line_alpha: {field: "alpha"}});
        return figure.renderers.at(-1).glyph;
      });
    },
    recolour() {
      this.line.line_color = palette.muted;
      groups.forEach(({outcome}, at) => {
        this.glyphs[at].fill_color = this.glyphs[at].line_color = palette.of(outcome);
      });
    },
    rematch: fill,
    place: (test) => (test.cpu != null && test.wall > 0 ? {x: x(test), y: y(test)} : null),
    nearest: (event, pixels) => closest(known, (test) => Math.hypot(pixels.x(x(test)) - event.sx, pixels.y(y(test)) - event.sy)),
    tip: (test) => [shortName(test.nodeid), `${test.outcome}: ${duration(test.cpu)} CPU in ${duration(test.wall)}`],
  });
}
