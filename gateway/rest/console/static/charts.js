// Small moving charts, two minutes wide, drawn as SVG. Their numbers stand beside them as text.

import { makeSvg } from "./dom.js";

export const WINDOW_SECONDS = 120;
const HEIGHT = 40;
const FIRST = -2; // where lines begin, a little before what is in sight

/** A number as people read it; an en dash where there is none. */
export function readable(value, unit = "") {
  if (value === null || value === undefined) return "\u2013";
  const digits = Number.isInteger(value) || value >= 100 ? 0 : value >= 10 ? 1 : 2;
  return value.toLocaleString("en", { maximumFractionDigits: digits, minimumFractionDigits: Math.min(digits, 1) }) + unit;
}

const ROUND = [1, 2, 3, 4, 5, 6, 8, 10];
const SLACK = 1.03; // a second's pace is measured over a little less or more than a second

/** The number at the top of a chart whose highest value is this: a round one, and a whole one from 1 on. */
export function roundTop(highest) {
  if (!(highest > 0)) return 1;
  const unit = 10 ** Math.floor(Math.log10(highest));
  const digit = ROUND.find((each) => each * unit * SLACK >= highest) ?? 10;
  return Number((digit * unit).toPrecision(1));
}

export class Chart {
  /** `series`: functions of a sample, each to a number or null; the first has the area below it filled. */
  constructor(...series) {
    this.series = series;
    this.area = makeSvg("path", { class: "area" });
    this.lines = series.map((_, index) => makeSvg("path", { class: `line line-${index}` }));
    const size = { viewBox: `0 0 ${WINDOW_SECONDS} ${HEIGHT}`, preserveAspectRatio: "none" };
    this.element = makeSvg("svg", { class: "chart", "aria-hidden": "true", ...size }, this.area, ...this.lines.toReversed());
  }

  /** Draw the samples, with room for `highest` at least; returns the value at the top. */
  update(samples, highest = 0) {
    const end = samples.at(-1)?.time ?? 0;
    const points = this.series.map((valueOf) => samples.map((sample) => [WINDOW_SECONDS - end + sample.time, valueOf(sample)]));
    const top = roundTop(points.flat().reduce((most, [x, value]) => Math.max(most, x < FIRST ? 0 : (value ?? 0)), highest));
    const paths = points.map((line) => path(line, top));
    this.lines.forEach((line, index) => line.setAttribute("d", paths[index].join(" ")));
    this.area.setAttribute("d", paths[0].map((part) => closed(part)).join(" "));
    return top;
  }
}

/** Parts of a line, one for each stretch without a gap. */
function path(points, top) {
  const parts = [];
  let before = null;
  for (const [x, value] of points) {
    if (x < FIRST || value === null || value === undefined) {
      before = null;
      continue;
    }
    const y = (HEIGHT - 1 - (value / top) * (HEIGHT - 3)).toFixed(2);
    if (before === null || x - before > 5) parts.push(`M${x.toFixed(2)} ${y}`);
    else parts[parts.length - 1] += `L${x.toFixed(2)} ${y}`;
    before = x;
  }
  return parts;
}

function closed(part) {
  const xs = part.match(/[ML](-?[\d.]+)/g).map((text) => text.slice(1));
  return `${part}L${xs.at(-1)} ${HEIGHT}L${xs[0]} ${HEIGHT}Z`;
}
