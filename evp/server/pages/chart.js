// Line charts in SVG. A chart is made once; drawing it again changes what is there.

import { make, say, show } from "./dom.js";

const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 180;
const LEFT = 52;
const RIGHT = 12;
const TOP = 10;
const BOTTOM = 24;
const LEVELS = 4;
export const SERIES_MAX = 7; // As many as the style sheet has colours and dashes for.

function shape(tag, attributes = {}) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

/** Return a round number that is not below `value`; its half is round as well. */
export function niceCeiling(value) {
  if (!(value > 0)) return 1;
  const unit = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 3, 4, 5, 6, 8, 10].map((one) => one * unit).find((one) => one >= value * 0.9999);
}

/**
 * A chart in a `figure`.
 *
 * `format` writes values, `label` moments below the axis (`ticks` and one), `moment` those of the
 * readout. Data is
 * {from, to, xs, series: [{name, values}], gap}: moments in ms, null where nothing is known; lines
 * break where two moments lie further apart than `gap`.
 */
export class Chart {
  constructor(figure, { title, unit = "", format, label, moment = label, ticks = 4 }) {
    Object.assign(this, { figure, title, unit, format, label, moment, ticks, data: null, pickedMs: null });
    this.svg = shape("svg", { tabindex: "0", role: "img", height: HEIGHT });
    this.grid = this.svg.appendChild(shape("g", { class: "grid" }));
    this.lines = this.svg.appendChild(shape("g", { class: "lines" }));
    this.cursor = this.svg.appendChild(shape("line", { class: "cursor", y1: TOP, y2: HEIGHT - BOTTOM }));
    this.legend = make("ul", { class: "legend" });
    this.readout = make("p", { class: "readout", "aria-live": "polite" });
    this.none = make("p", { class: "none" }, "Nothing to draw yet.");
    const caption = make("figcaption", {}, make("h3", {}, title), make("span", { class: "dim" }, unit));
    figure.append(caption, this.legend, this.svg, this.none, this.readout);
    this.svg.addEventListener("pointermove", (event) => this.#point(event));
    this.svg.addEventListener("pointerleave", () => this.#pick(null));
    this.svg.addEventListener("blur", () => this.#pick(null));
    this.svg.addEventListener("keydown", (event) => this.#key(event));
    new ResizeObserver(() => this.#schedule()).observe(figure);
  }

  draw(data) {
    this.data = { ...data, series: data.series.slice(0, SERIES_MAX) };
    this.#schedule();
  }

  #schedule() {
    if (this.frame || !this.data) return;
    this.frame = requestAnimationFrame(() => {
      this.frame = 0;
      this.#drawNow();
    });
  }

  #drawNow() {
    const { xs, series } = this.data;
    const width = Math.max(200, Math.floor(this.figure.clientWidth - 2 * parseFloat(getComputedStyle(this.figure).paddingLeft)));
    this.width = width;
    this.svg.setAttribute("width", width);
    this.svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    const most = Math.max(0, ...series.flatMap((one) => one.values.filter((value) => value != null)));
    this.top = niceCeiling(most);
    show(this.none, xs.length === 0);
    show(this.svg, xs.length > 0);
    this.#drawGrid();
    this.#drawLines();
    this.#drawLegend();
    this.#pick(this.pickedMs === null ? null : this.#nearest(this.pickedMs));
    this.svg.setAttribute("aria-label", this.#summary());
  }

  #x(ms) {
    const { from, to } = this.data;
    return LEFT + ((ms - from) / Math.max(1, to - from)) * (this.width - LEFT - RIGHT);
  }

  #y(value) {
    return HEIGHT - BOTTOM - (value / this.top) * (HEIGHT - TOP - BOTTOM);
  }

  #drawGrid() {
    const { from, to } = this.data;
    const marks = [];
    for (let tick = 0; tick <= LEVELS; tick += 1) {
      const value = (this.top * tick) / LEVELS;
      const y = this.#y(value);
      marks.push(shape("line", { x1: LEFT, x2: this.width - RIGHT, y1: y, y2: y }));
      if (tick % 2 === 0) marks.push(this.#text(LEFT - 8, y + 4, "end", this.format(value)));
    }
    const step = this.width > 90 * this.ticks ? 1 : this.ticks;
    for (let tick = 0; tick <= this.ticks; tick += step) {
      const anchor = tick === 0 ? "start" : tick === this.ticks ? "end" : "middle";
      const ms = from + ((to - from) * tick) / this.ticks;
      marks.push(this.#text(this.#x(ms), HEIGHT - 6, anchor, this.label(ms, to)));
    }
    this.grid.replaceChildren(...marks);
  }

  #text(x, y, anchor, text) {
    const element = shape("text", { x, y, "text-anchor": anchor });
    element.textContent = text;
    return element;
  }

  #drawLines() {
    const { xs, series, gap } = this.data;
    while (this.lines.children.length > series.length) this.lines.lastElementChild.remove();
    series.forEach(({ values }, number) => {
      const line = this.lines.children[number] ?? this.lines.appendChild(shape("path", { class: `line s${number}` }));
      let path = "";
      let pen = "M";
      values.forEach((value, at) => {
        if (value == null || (at > 0 && xs[at] - xs[at - 1] > gap)) pen = "M";
        if (value == null) return;
        path += `${pen}${this.#x(xs[at]).toFixed(1)} ${this.#y(value).toFixed(1)}`;
        if (pen === "M") path += "h0.1"; // A single point is seen as well.
        pen = "L";
      });
      line.setAttribute("d", path);
    });
  }

  #drawLegend() {
    const { series } = this.data;
    while (this.legend.children.length > series.length) this.legend.lastElementChild.remove();
    series.forEach(({ name }, number) => {
      const item = this.legend.children[number] ?? this.legend.appendChild(this.#legendItem(number));
      say(item.lastElementChild, name);
    });
  }

  #legendItem(number) {
    const key = shape("svg", { width: 26, height: 8, "aria-hidden": "true" });
    key.append(shape("path", { class: `line s${number}`, d: "M1 4H25" }));
    return make("li", {}, key, make("span", { class: "foreign" }));
  }

  #summary() {
    const told = this.data.series.map(({ name, values }) => {
      const known = values.filter((value) => value != null);
      if (known.length === 0) return `${name}: nothing known`;
      return `${name}: last ${this.format(known.at(-1))}, at most ${this.format(Math.max(...known))}`;
    });
    return `${this.title}${this.unit ? `, ${this.unit}` : ""}. ${told.join("; ")}. Left and right arrow keys read single moments.`;
  }

  #point(event) {
    if (!this.data?.xs.length) return;
    const { from, to } = this.data;
    const share = (event.clientX - this.svg.getBoundingClientRect().left - LEFT) / (this.width - LEFT - RIGHT);
    this.#pick(this.#nearest(from + share * (to - from)));
  }

  #nearest(ms) {
    const distances = this.data.xs.map((one) => Math.abs(one - ms));
    return distances.indexOf(Math.min(...distances));
  }

  #key(event) {
    const last = (this.data?.xs.length ?? 0) - 1;
    const steps = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity };
    if (!(event.key in steps) || last < 0) return;
    event.preventDefault();
    const at = this.pickedMs === null ? last + 1 : this.#nearest(this.pickedMs);
    this.#pick(Math.max(0, Math.min(last, at + steps[event.key])));
  }

  #pick(at) {
    const { xs, series } = this.data ?? { xs: [] };
    const known = at !== null && at >= 0 && at < xs.length;
    this.pickedMs = known ? xs[at] : null;
    this.cursor.classList.toggle("seen", known);
    if (!known) return say(this.readout, "");
    this.cursor.setAttribute("x1", this.#x(xs[at]));
    this.cursor.setAttribute("x2", this.#x(xs[at]));
    const told = series.map(({ name, values }) => `${name} ${values[at] == null ? "–" : this.format(values[at])}`);
    say(this.readout, `${this.moment(xs[at])}: ${told.join(", ")}`);
  }
}
