// What all plots have in common: one BokehJS figure in a section of the page, with buttons for its zoom, a tip and the selected test's mark.

const {Plotting} = Bokeh;
const coarse = matchMedia("(pointer: coarse)").matches;
const plots = [];
Bokeh.logger.set_level("warn");

// Options: section, title, hint, legend (nodes), describe () => text, height, x and y: {label, range, show (value => text), ticker},
// zoom: "x" or "both", nearest (event, pixels) => test or null, tip (test) => lines.
class Figure {
  constructor(options) {
    this.options = options;
    this.section = byId(options.section);
    this.place = element("div", {class: "canvas", role: "img"});
    this.buttons = element("div", {class: "zoom", role: "group", "aria-label": `Zoom of ${options.title}`});
    const heading = element(options.heading ?? "h2", {id: `${options.section}-title`}, options.title);
    this.section.replaceChildren(
      element("div", {class: "head"}, heading, this.buttons),
      element("p", {class: "legend"}, ...(options.legend ?? [])),
      ...(options.before ?? []),
      this.place,
    );
    this.ready = this.draw();
    plots.push(this);
  }

  async draw() {
    const {options} = this;
    const dimensions = options.zoom === "both" ? "both" : "width";
    const tools = options.zoom ? [new Bokeh.BoxZoomTool({dimensions}), new Bokeh.PanTool({dimensions})] : [];
    const figure = (this.figure = Plotting.figure({
      height: options.height,
      sizing_mode: "stretch_width",
      min_width: 0,
      toolbar_location: null,
      tools,
      x_range: new Bokeh.Range1d({start: options.x.range[0], end: options.x.range[1]}),
      y_range: new Bokeh.Range1d({start: options.y.range[0], end: options.y.range[1]}),
    }));
    // With a finger, a drag scrolls the page; the buttons zoom.
    figure.toolbar.active_drag = options.zoom && !coarse ? tools[0] : null;
    figure.toolbar.logo = null;
    this.axis(figure.xaxes[0], figure.xgrids[0], options.x);
    this.axis(figure.yaxes[0], figure.ygrids[0], options.y);
    this.home = [...options.x.range, ...options.y.range];
    this.marked = new Bokeh.ColumnDataSource({data: {x: [], y: []}});
    options.draw(figure, this);
    figure.scatter({field: "x"}, {field: "y"}, {source: this.marked, marker: "circle", size: 16, fill_color: null, line_color: palette.accent, line_width: 3});
    this.halo = figure.renderers.at(-1).glyph;
    if (options.nearest) {
      figure.on_event("tap", (event) => this.tapped(event));
      figure.on_event("mousemove", (event) => this.hovered(event));
      figure.on_event("mouseleave", () => hideTip());
    }
    if (options.zoom) this.zoomButtons();
    this.restyle();
    this.place.setAttribute("aria-label", options.describe());
    this.view = await Plotting.show(figure, this.place);
  }

  axis(axis, grid, {label, show, ticker}) {
    axis.axis_label = label ?? "";
    // Bokeh's own way to a formatter in script needs eval, which the page forbids itself.
    axis.formatter = new Bokeh.BasicTickFormatter();
    axis.formatter.doFormat = (ticks) => ticks.map(show);
    axis.ticker = ticker ?? new Bokeh.AdaptiveTicker({mantissas: [1, 2, 5], desired_num_ticks: 5, num_minor_ticks: 0});
    axis.ticker.num_minor_ticks = 0;
    grid.ticker = axis.ticker;
    axis.axis_label_text_font_style = "normal";
    for (const part of ["axis_label_text_font", "major_label_text_font"]) axis[part] = getComputedStyle(document.body).fontFamily;
    axis.axis_label_text_font_size = "12px";
    axis.major_label_text_font_size = "11px";
    axis.axis_label_standoff = 6;
  }

  // Sets the colours of the theme; `recolour` those of the marks.
  restyle() {
    const {figure} = this;
    Object.assign(figure, {background_fill_color: null, border_fill_color: null, outline_line_color: null});
    for (const axis of [figure.xaxes[0], figure.yaxes[0]]) {
      axis.axis_line_color = palette.line;
      axis.major_tick_line_color = palette.line;
      axis.major_label_text_color = palette.muted;
      axis.axis_label_text_color = palette.muted;
    }
    for (const grid of [figure.xgrids[0], figure.ygrids[0]]) grid.grid_line_color = palette.line;
    if (this.options.xgrid === false) figure.xgrids[0].grid_line_color = null;
    if (this.options.ygrid === false) figure.ygrids[0].grid_line_color = null;
    this.halo.line_color = palette.accent;
    this.options.recolour?.(this);
  }

  // Pixels of a value: both scales are linear.
  pixels() {
    const {x_scale: x, y_scale: y} = this.view.frame;
    const line = (scale) => [scale.compute(1) - scale.compute(0), scale.compute(0)];
    const [[ax, bx], [ay, by]] = [line(x), line(y)];
    return {x: (value) => ax * value + bx, y: (value) => ay * value + by};
  }

  at(event) {
    return this.view ? this.options.nearest(event, this.pixels()) : null;
  }

  tapped(event) {
    const test = this.at(event);
    if (test) select(test, "plot");
  }

  hovered(event) {
    const test = this.at(event);
    this.place.classList.toggle("over", test != null);
    if (!test) return hideTip();
    const box = this.place.getBoundingClientRect();
    showTip(this.options.tip(test), box.left + event.sx, box.top + event.sy);
  }

  mark(test) {
    const place = test && this.options.place(test);
    this.marked.data = place ? {x: [place.x], y: [place.y]} : {x: [], y: []};
    if (place) this.reveal(place);
    return place != null;
  }

  // Moves what is zoomed into, so that a mark isn't outside of it.
  reveal({x, y}) {
    const inside = (range, value) => value >= range.start && value <= range.end;
    const centre = (range, value) => {
      const half = (range.end - range.start) / 2;
      range.setv({start: value - half, end: value + half});
    };
    if (!inside(this.figure.x_range, x)) centre(this.figure.x_range, x);
    if (!inside(this.figure.y_range, y)) centre(this.figure.y_range, y);
  }

  zoomButtons() {
    const {x_range: x, y_range: y} = this.figure;
    const both = this.options.zoom === "both";
    const scale = (range, factor, centre) => {
      const middle = centre != null && centre >= range.start && centre <= range.end ? centre : (range.start + range.end) / 2;
      range.setv({start: middle - (middle - range.start) * factor, end: middle + (range.end - middle) * factor});
    };
    const zoom = (factor) => {
      scale(x, factor, this.marked.data.x[0]);
      if (both) scale(y, factor, this.marked.data.y[0]);
    };
    const shift = (part) => x.setv({start: x.start + (x.end - x.start) * part, end: x.end + (x.end - x.start) * part});
    const reset = () => {
      const [left, right, bottom, top] = this.home;
      x.setv({start: left, end: right});
      y.setv({start: bottom, end: top});
    };
    const button = (text, label, click) => element("button", {type: "button", "aria-label": label, title: label, click}, text);
    const buttons = [
      button("←", "Move left", () => shift(-0.5)),
      button("−", "Zoom out", () => zoom(2)),
      button("+", "Zoom in", () => zoom(0.5)),
      button("→", "Move right", () => shift(0.5)),
      button("Reset", "Reset the zoom", reset),
    ];
    this.buttons.replaceChildren(...buttons);
    const zoomed = () => {
      const now = [x.start, x.end, y.start, y.end];
      buttons.at(-1).disabled = now.every((value, at) => Math.abs(value - this.home[at]) < 1e-9);
    };
    for (const range of [x, y]) range.change.connect(zoomed);
    zoomed();
  }
}

// Of an axis of decimal logarithms: 1, 2 and 5 of each power of ten, or the powers alone where that would be too many.
function powerTicker(wanted) {
  const ticker = new Bokeh.AdaptiveTicker({mantissas: [1, 2, 5], desired_num_ticks: wanted});
  const plain = ticker.get_ticks_no_defaults.bind(ticker);
  ticker.get_ticks_no_defaults = (low, high, ...others) => {
    for (const mantissas of [[1, 2, 5], [1]]) {
      const ticks = [];
      for (let power = Math.floor(low); power <= high; power += 1) ticks.push(...mantissas.map((mantissa) => power + Math.log10(mantissa)));
      const inside = ticks.filter((tick) => tick >= low && tick <= high);
      if (inside.length >= 2 && inside.length <= wanted + 2) return {major: inside, minor: []};
    }
    return plain(low, high, ...others);
  };
  return ticker;
}

function alphas(list, strong = 1) {
  return list.map((test) => (state.matching[test.index] ? strong : 0.12));
}

const tip = byId("tip");

function showTip(lines, x, y) {
  tip.replaceChildren(...lines.map((line, at) => element("div", {class: at === 0 ? "name" : null}, line)));
  tip.hidden = false;
  const {offsetWidth: width, offsetHeight: height} = tip;
  const right = document.documentElement.clientWidth;
  tip.style.left = `${Math.max(4, Math.min(x + 14, right - width - 4))}px`;
  tip.style.top = `${y + height + 18 > innerHeight ? y - height - 10 : y + 14}px`;
}

function hideTip() {
  tip.hidden = true;
}

// In place of a plot that has nothing to show.
function nothing(section, title, why) {
  byId(section).replaceChildren(
    element("div", {class: "head"}, element("h2", {id: `${section}-title`}, title)),
    element("p", {class: "nothing"}, why),
  );
}

function swatch(kind, text, colour) {
  return element("span", {class: "key"}, element("i", {class: `swatch ${kind}`, style: colour ? `--colour: var(--${colour})` : null}), text);
}
