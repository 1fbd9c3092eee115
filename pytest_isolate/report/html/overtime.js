// Memory and CPU of one test over its time, where the run took samples: in the details.

function series(samples, name) {
  const at = samples.columns.indexOf(name);
  return at < 0 ? samples.rows.map(() => null) : samples.rows.map((row) => row[at]);
}

// Where a counter has grown since the sample before: [from, to, by]; `joined`, one stretch where it grew without a pause.
function growth(times, counter, joined = false) {
  const grown = [];
  let before = null;
  counter.forEach((value, at) => {
    if (value == null) return;
    if (before != null && value > counter[before]) {
      const last = grown.at(-1);
      if (joined && last?.[1] === times[before]) [last[1], last[2]] = [times[at], last[2] + value - counter[before]];
      else grown.push([times[before], times[at], value - counter[before]]);
    }
    before = at;
  });
  return grown;
}

// Steps of CPUs used between samples: each rate holds from one sample to the next.
function rates(times, seconds) {
  const steps = {x: [], y: []};
  let before = null;
  seconds.forEach((value, at) => {
    if (value == null) return;
    if (before != null && times[at] > times[before]) {
      const rate = (value - seconds[before]) / (times[at] - times[before]);
      steps.x.push(times[before], times[at]);
      steps.y.push(rate, rate);
    }
    before = at;
  });
  return steps;
}

function drawOverTime(test, place) {
  const samples = test.samples;
  const times = series(samples, "seconds");
  const end = Math.max(test.wall ?? 0, times.at(-1) ?? 0) || 1;
  const x = {label: "since it joined its sandbox", range: [0, end * 1.02], show: duration};
  const made = [];
  const memory = series(samples, "memory_bytes");
  const known = times.map((_, at) => at).filter((at) => memory[at] != null);
  const kills = growth(times, series(samples, "oom_kills"));
  if (known.length > 0) {
    const most = Math.max(...known.map((at) => memory[at]), test.cap ?? 0) || 1;
    // Ticks are round in the unit that they are shown in.
    const step = Math.min(4, Math.floor(Math.log2(most) / 10));
    const unit = 1024 ** step;
    // The peak that the kernel kept is higher than what the samples happened to see; nearer ones would cost more.
    made.push([
      "over-memory",
      {
        title: "Memory over time",
        heading: "h4",
        height: 170,
        legend: [swatch("line", "sampled", "memory"), ...(test.cap ? [swatch("dashed", `cap ${bytes(test.cap)}`, "cap")] : []), ...(kills.length ? [swatch("cross", "OOM kill", "failed")] : [])],
        describe: () => `Memory of this test over ${duration(end)}, at most ${bytes(Math.max(...known.map((at) => memory[at])))} in ${plural(known.length, "sample")}; ${plural(kills.length, "OOM kill")} seen.`,
        x,
        y: {label: null, range: [0, (most * 1.12) / unit], show: (number) => `${significant(number, 3)} ${byteUnits[step]}`},
        draw(figure) {
          const values = known.map((at) => memory[at] / unit);
          const at = known.map((each) => times[each]);
          figure.varea({x: at, y1: at.map(() => 0), y2: values, fill_color: palette.memory, fill_alpha: 0.18});
          figure.line(at, values, {line_color: palette.memory, line_width: 2});
          figure.scatter(at, values, {marker: "circle", size: known.length > 80 ? 0 : 4, fill_color: palette.memory, line_color: null});
          if (test.cap) figure.line([0, end], [test.cap / unit, test.cap / unit], {line_color: palette.cap, line_width: 2, line_dash: "dashed"});
          if (kills.length) {
            const near = (time) => memory[known.reduce((best, each) => (Math.abs(times[each] - time) < Math.abs(times[best] - time) ? each : best))] / unit;
            figure.scatter(kills.map(([, to]) => to), kills.map(([from]) => test.cap ? test.cap / unit : near(from)), {marker: "x", size: 13, line_color: palette.failed, line_width: 3});
          }
        },
      },
    ]);
  }
  const cpu = rates(times, series(samples, "cpu_seconds"));
  const throttled = growth(times, series(samples, "cpu_throttled_seconds"), true);
  if (cpu.x.length > 0) {
    const cap = test.spec.cpu ?? null;
    const most = Math.max(...cpu.y, cap ?? 0, 0.1) * 1.15;
    made.push([
      "over-cpu",
      {
        title: "CPU over time",
        heading: "h4",
        height: 170,
        legend: [swatch("line", "of one CPU", "cpu"), ...(cap ? [swatch("dashed", `cap ${percent(cap)}`, "cap")] : []), ...(throttled.length ? [swatch("block", `throttled, ${duration(throttled.reduce((sum, each) => sum + each[2], 0))}`, "warn")] : [])],
        describe: () => `CPU of this test over ${duration(end)}, at most ${percent(Math.max(...cpu.y))} of one CPU; throttled in ${plural(throttled.length, "interval")}.`,
        x,
        y: {label: null, range: [0, most], show: percent},
        draw(figure) {
          figure.varea({x: cpu.x, y1: cpu.x.map(() => 0), y2: cpu.y, fill_color: palette.cpu, fill_alpha: 0.18});
          if (throttled.length) figure.quad({left: throttled.map((each) => each[0]), right: throttled.map((each) => each[1]), bottom: throttled.map(() => 0), top: throttled.map(() => most * 0.07), fill_color: palette.warn, line_color: null});
          figure.line(cpu.x, cpu.y, {line_color: palette.cpu, line_width: 2});
          if (cap) figure.line([0, end], [cap, cap], {line_color: palette.cap, line_width: 2, line_dash: "dashed"});
        },
      },
    ]);
  }
  // The last ones are of a test that isn't shown any more.
  for (let at = plots.length - 1; at >= 0; at -= 1) if (plots[at].options.heading) plots.splice(at, 1);
  place.replaceChildren(...made.map(([id]) => element("section", {id, class: "plot"})));
  for (const [id, options] of made) new Figure({section: id, ...options});
  if (made.length) place.append(element("p", {class: "hint"}, `Sampled every ${duration(samples.interval)}${run.samples_thinned ? "; this page shows a part of the samples, the document has all" : ""}. Between samples the memory may have been higher: the peak above is the kernel's.`));
}
