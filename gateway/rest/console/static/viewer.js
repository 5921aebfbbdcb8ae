// A picture with boxes on a canvas: as sharp as the screen at every zoom, moved by pointer, wheel and keyboard.

import { area } from "./boxes.js";
import { css, labelColour, textOn } from "./colour.js";
import { plain } from "./dom.js";

const MOST_ZOOM = 40; // times the size at which the picture fits
const CLICK_PIXELS = 4; // a pointer that moves less has clicked
const MOST_TAGS = 80; // more would cover the picture; the list has them all
const FONT = "600 12px system-ui, sans-serif";

/**
 * Draw boxes, weakest first so that the best is on top. `scale` is the number of canvas units in a unit of the box, and
 * `size` is the canvas' width and height. A tag stands above its box, or else below or in it, and never out of sight.
 */
export function drawBoxes(context, found, { size: [across, down], scale = 1, x = 0, y = 0, selected = null, line = 2, font = FONT, tagHeight = 18 }) {
  const hasTags = found.length <= MOST_TAGS;
  context.font = font;
  context.textBaseline = "middle";
  const place = ([x1, y1, x2, y2]) => [x + x1 * scale, y + y1 * scale, (x2 - x1) * scale, (y2 - y1) * scale];
  const ordered = [...found].reverse();
  if (selected) ordered.push(selected);
  for (const each of ordered) {
    const colour = labelColour(each.label);
    const isSelected = each === selected;
    const width = isSelected ? line * 2 : line;
    const outline = place(each.box);
    context.lineWidth = width + line;
    context.strokeStyle = isSelected ? "#fff" : "rgb(255 255 255 / 60%)";
    context.strokeRect(...outline);
    context.lineWidth = width;
    context.strokeStyle = css(colour);
    context.strokeRect(...outline);
    const [left, top, boxWidth, height] = outline;
    const isInSight = left < across && left + boxWidth > 0 && top < down && top + height > 0;
    if (!isInSight || (!hasTags && !isSelected)) continue;
    const text = `${plain(each.label, 24)} ${each.score.toFixed(2)}`;
    const tagWidth = context.measureText(text).width + tagHeight * 0.6;
    const tagLeft = Math.max(0, Math.min(left - width / 2, across - tagWidth));
    const [above, below, inside] = [top - tagHeight - width / 2, top + height + width / 2, Math.max(top, 0) + width / 2];
    const tagTop = above >= Math.max(y, 0) ? above : below + tagHeight <= down ? below : inside;
    context.fillStyle = css(colour);
    context.fillRect(tagLeft, tagTop, tagWidth, tagHeight);
    context.fillStyle = textOn(colour);
    context.fillText(text, tagLeft + tagHeight * 0.3, tagTop + tagHeight / 2);
  }
}

export class Viewer {
  /** `onSelect(found | null)`, `onStep(1 | -1)` to the next or previous box, `onMove(view)`; `canvas` fills its parent. */
  constructor(canvas, { onSelect, onStep, onMove }) {
    Object.assign(this, { canvas, onSelect, onStep, onMove });
    this.context = canvas.getContext("2d");
    this.picture = null;
    this.found = [];
    this.selected = null;
    this.view = { zoom: 1, x: 0.5, y: 0.5 }; // zoom over fitting; the picture's point in the middle, as shares of it
    this.pointers = new Map();
    this.isDue = false;
    new ResizeObserver(() => this.draw()).observe(canvas);
    canvas.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    canvas.addEventListener("keydown", (event) => this.key(event));
    canvas.addEventListener("pointerdown", (event) => this.pointerDown(event));
    canvas.addEventListener("pointermove", (event) => this.pointerMove(event));
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, (event) => this.pointerUp(event));
  }

  /** Show a picture (an ImageBitmap or canvas); one of another size begins at its whole. */
  show(picture) {
    const isOther = picture?.width !== this.picture?.width || picture?.height !== this.picture?.height;
    this.picture = picture;
    if (isOther) this.view = { zoom: 1, x: 0.5, y: 0.5 };
    this.draw();
  }

  setFound(found, selected) {
    this.found = found;
    this.selected = selected;
    this.draw();
  }

  setView(view) {
    this.view = view;
    this.draw();
  }

  get scale() {
    const { clientWidth, clientHeight } = this.canvas;
    return Math.min(clientWidth / this.picture.width, clientHeight / this.picture.height) * this.view.zoom;
  }

  /** Where the picture's corner is, in CSS pixels. */
  get origin() {
    const { clientWidth, clientHeight } = this.canvas;
    const { x, y } = this.view;
    return [clientWidth / 2 - x * this.picture.width * this.scale, clientHeight / 2 - y * this.picture.height * this.scale];
  }

  draw() {
    if (this.isDue) return;
    this.isDue = true;
    requestAnimationFrame(() => {
      this.isDue = false;
      this.paint();
    });
  }

  paint() {
    const { canvas, context } = this;
    const ratio = devicePixelRatio;
    const [width, height] = [Math.round(canvas.clientWidth * ratio), Math.round(canvas.clientHeight * ratio)];
    if (canvas.width !== width) canvas.width = width;
    if (canvas.height !== height) canvas.height = height;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, canvas.clientWidth, canvas.clientHeight);
    if (!this.picture || !width || !height) return;
    const { scale } = this;
    const [x, y] = this.origin;
    context.imageSmoothingEnabled = scale * ratio < 3; // beyond, pixels are what one wants to see
    context.imageSmoothingQuality = "high";
    context.drawImage(this.picture, x, y, this.picture.width * scale, this.picture.height * scale);
    drawBoxes(context, this.found, { size: [canvas.clientWidth, canvas.clientHeight], scale, x, y, selected: this.selected });
  }

  move(view) {
    const zoom = Math.min(Math.max(view.zoom, 1), MOST_ZOOM);
    const limit = (share) => (zoom === 1 ? 0.5 : Math.min(Math.max(share, 0), 1));
    this.view = { zoom, x: limit(view.x), y: limit(view.y) };
    this.canvas.classList.toggle("zoomed", zoom > 1);
    this.draw();
    this.onMove(this.view);
  }

  /** Zoom by a factor, while the point at `px`, `py` (CSS pixels of the canvas) stays where it is. */
  zoomBy(factor, px = this.canvas.clientWidth / 2, py = this.canvas.clientHeight / 2) {
    if (!this.picture) return;
    const { zoom, x, y } = this.view;
    const next = Math.min(Math.max(zoom * factor, 1), MOST_ZOOM);
    const shift = (1 / this.scale) * (1 - zoom / next);
    this.move({
      zoom: next,
      x: x + ((px - this.canvas.clientWidth / 2) * shift) / this.picture.width,
      y: y + ((py - this.canvas.clientHeight / 2) * shift) / this.picture.height,
    });
  }

  panBy(dx, dy) {
    if (!this.picture) return;
    const { zoom, x, y } = this.view;
    const [width, height] = [this.picture.width * this.scale, this.picture.height * this.scale];
    this.move({ zoom, x: x - dx / width, y: y - dy / height });
  }

  fit() {
    this.move({ zoom: 1, x: 0.5, y: 0.5 });
  }

  wheel(event) {
    if (!this.picture) return;
    event.preventDefault();
    this.zoomBy(2 ** (-event.deltaY / (event.deltaMode ? 10 : 300)), event.offsetX, event.offsetY);
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const actions = {
      "+": () => this.zoomBy(1.25),
      "=": () => this.zoomBy(1.25),
      "-": () => this.zoomBy(0.8),
      0: () => this.fit(),
      ArrowLeft: () => this.panBy(40, 0),
      ArrowRight: () => this.panBy(-40, 0),
      ArrowUp: () => this.panBy(0, 40),
      ArrowDown: () => this.panBy(0, -40),
      n: () => this.onStep(1),
      p: () => this.onStep(-1),
      Escape: () => this.onSelect(null),
    };
    if (!(event.key in actions)) return;
    event.preventDefault();
    actions[event.key]();
  }

  pointerDown(event) {
    this.canvas.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, event);
    this.hasMoved = this.pointers.size > 1;
    this.start = event;
  }

  pointerMove(event) {
    const before = this.pointers.get(event.pointerId);
    if (!before) return;
    if (this.pointers.size === 2) {
      const [other] = [...this.pointers.values()].filter((each) => each.pointerId !== event.pointerId);
      const distance = (each) => Math.hypot(each.offsetX - other.offsetX, each.offsetY - other.offsetY);
      const [px, py] = [(event.offsetX + other.offsetX) / 2, (event.offsetY + other.offsetY) / 2];
      this.zoomBy(distance(event) / Math.max(distance(before), 1), px, py);
    } else {
      const path = Math.hypot(event.offsetX - this.start.offsetX, event.offsetY - this.start.offsetY);
      this.hasMoved ||= path > CLICK_PIXELS;
      if (this.hasMoved) this.panBy(event.offsetX - before.offsetX, event.offsetY - before.offsetY);
    }
    this.pointers.set(event.pointerId, event);
  }

  pointerUp(event) {
    const isClick = this.pointers.delete(event.pointerId) && !this.hasMoved && event.type === "pointerup";
    if (isClick && this.picture) this.onSelect(this.at(event.offsetX, event.offsetY));
  }

  /** The smallest box around a point of the canvas, in CSS pixels: one inside of another can be reached. */
  at(px, py) {
    const [left, top] = this.origin;
    const [x, y] = [(px - left) / this.scale, (py - top) / this.scale];
    const slack = 3 / this.scale;
    const isInside = ({ box: [x1, y1, x2, y2] }) => x1 - slack <= x && x <= x2 + slack && y1 - slack <= y && y <= y2 + slack;
    return this.found.filter(isInside).sort((one, other) => area(one.box) - area(other.box))[0] ?? null;
  }

  /** See to it that a box is in sight. */
  reveal({ box: [x1, y1, x2, y2] }) {
    if (!this.picture || this.view.zoom === 1) return;
    this.move({ ...this.view, x: (x1 + x2) / 2 / this.picture.width, y: (y1 + y2) / 2 / this.picture.height });
  }
}
