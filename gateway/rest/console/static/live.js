// The Live view: numbers and charts, the Tritons, and the models, from one stream of events.

import { events } from "./api.js";
import { Chart, readable, WINDOW_SECONDS } from "./charts.js";
import { css, labelColour } from "./colour.js";
import { announce, byId, foreign, make, reconcile, setText } from "./dom.js";

const RECONNECT_SECONDS = [1, 2, 4, 8];
const SILENT_SECONDS = 5; // events come every second
const MOST_CLASSES = 12;

const of = (name) => (sample) => sample[name];
const latency = (name) => (sample) => sample.latency_ms[name];
const codes = (sample) => Object.entries(sample.errors).map(([code, rate]) => `${code.replaceAll("_", " ")} ${readable(rate)}`);

/** What each tile shows: `value` and `note` of the newest sample, and the lines of its chart. */
const TILES = [
  { title: "Requests", unit: "/s", value: of("requests_per_second"), lines: [of("requests_per_second")] },
  {
    title: "Latency",
    unit: " ms",
    value: latency("p50"),
    lines: [latency("p50"), latency("p95"), latency("p99")],
    note: (sample) => `p50 of 10 s; p95 ${readable(latency("p95")(sample))}, p99 ${readable(latency("p99")(sample))} ms`,
  },
  {
    title: "In flight",
    value: of("inflight"),
    lines: [(sample) => sample.inflight + sample.queued, of("inflight")],
    note: (sample) => `${readable(sample.queued)} waiting, ${readable(sample.streams)} streams open`,
  },
  { title: "Shed", unit: "/s", value: of("shed_per_second"), lines: [of("shed_per_second")], note: () => "refused to protect the rest" },
  {
    title: "Errors",
    unit: "/s",
    value: of("errors_per_second"),
    lines: [of("errors_per_second")],
    note: (sample) => codes(sample).join(", ") || "no request failed",
  },
];

/** States of an endpoint: how they read, and what kind they are. */
const STATES = {
  serving: ["serving", "good"],
  warming: ["warming up", "fair"],
  ejected: ["ejected", "bad"],
  draining: ["draining", "fair"],
  unready: ["not ready", "fair"],
  connecting: ["connecting", "fair"],
  lost: ["lost", "bad"],
};

let samples = [];
let stopping = null;
const tiles = TILES.map(tile);
const classCharts = new Map();

export function setUp() {
  byId("tiles").append(...tiles.map(({ element }) => element));
  document.addEventListener("visibilitychange", () => (document.hidden ? stop() : resume()));
}

/** Watch, as long as the view is shown and the page is in sight. */
export function resume() {
  if (byId("live").hidden || document.hidden || stopping) return;
  stopping = new AbortController();
  watch(stopping.signal).catch((error) => state(error.message, "bad"));
}

/** Watch anew, with the key as it now is. */
export function restart() {
  stop();
  resume();
}

export function stop() {
  stopping?.abort();
  stopping = null;
}

async function watch(signal) {
  for (let attempt = 0; !signal.aborted; attempt++) {
    const silence = new AbortController();
    const both = AbortSignal.any([signal, silence.signal]);
    let timer;
    try {
      for await (const event of events("v1/live", both)) {
        attempt = 0;
        clearTimeout(timer);
        timer = setTimeout(() => silence.abort(), 1000 * SILENT_SECONDS);
        if (signal.aborted) return;
        take(event);
      }
    } catch (error) {
      if (signal.aborted) return;
      if (error.status === 401) throw error;
    } finally {
      clearTimeout(timer);
    }
    state("Connection lost; trying again", "bad");
    const pause = RECONNECT_SECONDS[Math.min(attempt, RECONNECT_SECONDS.length - 1)];
    await new Promise((resolve) => setTimeout(resolve, 1000 * pause));
  }
}

function take(event) {
  if (event.samples) {
    samples = event.samples;
    return;
  }
  const { sample, endpoints, models, workers } = event;
  samples = [...samples.filter(({ time }) => time > sample.time - WINDOW_SECONDS - 2 && time < sample.time), sample];
  for (const { update } of tiles) update(sample);
  showClasses();
  showEndpoints(endpoints);
  showModels(models);
  const serving = endpoints.filter((each) => each.state === "serving" || each.state === "warming").length;
  const kind = serving === endpoints.length ? "good" : serving ? "fair" : "bad";
  const part = workers > 1 ? `; numbers of one of ${workers} workers` : "";
  state((endpoints.length ? `${serving} of ${endpoints.length} Tritons serving` : "No Triton is known") + part, endpoints.length ? kind : "fair");
}

function state(text, kind) {
  const element = byId("live-state");
  setText(element, text);
  element.dataset.kind = kind;
}

function tile({ title, unit = "", value, lines, note }) {
  const chart = new Chart(...lines);
  const number = make("span", { className: "number" }, "\u2013");
  const top = make("span", { className: "top" });
  const below = make("p", { className: "note" });
  const element = make(
    "li",
    { className: "tile" },
    make("h3", {}, title),
    make("p", { className: "value" }, number, make("span", { className: "unit" }, unit)),
    make("div", { className: "plot" }, top, chart.element),
    below,
  );
  const update = (sample) => {
    setText(number, readable(value(sample)));
    setText(top, readable(chart.update(samples)));
    setText(below, note ? note(sample) : "");
  };
  return { element, update };
}

function showClasses() {
  const totals = new Map();
  for (const sample of samples) {
    for (const [label, rate] of Object.entries(sample.detections_per_second)) totals.set(label, (totals.get(label) ?? 0) + rate);
  }
  const entries = [...totals].filter(([, total]) => total > 0).sort((one, other) => other[1] - one[1]);
  const shown = entries.slice(0, MOST_CLASSES).map(([label]) => label);
  const rate = (label) => (sample) => sample.detections_per_second[label] ?? 0;
  const highest = Math.max(...shown.flatMap((label) => samples.map(rate(label))), 0);
  reconcile(byId("classes-live"), shown.toSorted(), (label) => label, classRow, (row, label) => {
    classCharts.get(row).update(samples, highest);
    setText(row.lastElementChild, `${readable(rate(label)(samples.at(-1)))}/s`);
  });
  const more = entries.length - shown.length;
  setText(byId("classes-note"), entries.length ? (more > 0 ? `and ${more} more` : "") : "Nothing was found in the last two minutes.");
}

function classRow(label) {
  const chart = new Chart((sample) => sample.detections_per_second[label] ?? 0);
  const swatch = make("span", { className: "swatch", "aria-hidden": "true" });
  swatch.style.background = css(labelColour(label));
  const name = make("span", { className: "name" }, foreign(label));
  const row = make("li", {}, swatch, name, chart.element, make("span", { className: "rate" }));
  classCharts.set(row, chart);
  return row;
}

let statesBefore = "";

function showEndpoints(endpoints) {
  reconcile(byId("endpoints"), endpoints, ({ endpoint }) => endpoint, endpointCard, updateEndpoint);
  byId("endpoints-note").hidden = endpoints.length > 0;
  const states = endpoints.map(({ endpoint, state: now }) => `${endpoint} is ${(STATES[now] ?? [now])[0]}`).join("; ");
  if (statesBefore && states !== statesBefore) announce(byId("live-news"), `Tritons: ${states}`);
  statesBefore = states;
}

const FACTS = [
  ["Outstanding", ({ outstanding }) => readable(outstanding)],
  ["Batch size", ({ batch_size: size }) => readable(size)],
  ["Queue", ({ queue_ms: queue }) => readable(queue, queue === null ? "" : " ms")],
  ["Latency", ({ latency_ms: milliseconds }) => readable(milliseconds, milliseconds === null ? "" : " ms")],
  ["Images", ({ inferences_per_second: rate }) => readable(rate, rate === null ? "" : "/s")],
  ["Share", ({ share }) => `${readable(100 * share)} %`],
  ["GPU", ({ gpu_use: use }) => readable(use === null ? null : 100 * use, use === null ? "" : " %")],
  ["Ejections", ({ ejections }) => readable(ejections)],
];

function endpointCard({ endpoint }) {
  const facts = FACTS.map(([name]) => make("div", {}, make("dt", {}, name), make("dd", {})));
  const load = make("span", { className: "load", "aria-hidden": "true" }, make("span", {}));
  return make(
    "li",
    { className: "endpoint" },
    make("div", { className: "head" }, make("h3", {}, foreign(endpoint)), make("span", { className: "state" })),
    load,
    make("dl", {}, ...facts),
    make("p", { className: "note" }),
  );
}

const OUTSTANDING_SHOWN = 32; // two full batches fill the bar

function updateEndpoint(card, endpoint) {
  const [text, kind] = STATES[endpoint.state] ?? [endpoint.state, "fair"];
  card.dataset.kind = kind;
  const badge = card.querySelector(".state");
  setText(badge, text);
  badge.dataset.kind = kind;
  card.querySelector(".load > span").style.width = `${Math.min(100, (100 * endpoint.outstanding) / OUTSTANDING_SHOWN)}%`;
  const values = card.querySelectorAll("dd");
  FACTS.forEach(([, valueOf], index) => setText(values[index], valueOf(endpoint)));
  const served = Object.entries(endpoint.models).map(([name, versions]) => `${name} ${versions.map((each) => `v${each}`).join(", ")}`);
  setText(card.querySelector(".note"), endpoint.reason ?? (served.join("; ") || "serves no detector"));
}

const COLUMNS = [
  ({ versions }) => versions.join(", "),
  ({ state: now }) => now,
  ({ facts }) => facts.variant ?? "\u2013",
  ({ facts }) => facts.precision ?? "\u2013",
  ({ facts }) => (facts.map50_95 ? Number(facts.map50_95).toFixed(3) : "not measured"),
  ({ input }) => `${input.width} \u00d7 ${input.height}`,
  ({ classes }) => classes,
  ({ batch_size: size }) => size,
];

function showModels(models) {
  const row = ({ name }) => make("tr", {}, make("th", { scope: "row" }, foreign(name)), ...COLUMNS.map(() => make("td", {})));
  reconcile(byId("models"), models, ({ name }) => name, row, (element, model) => {
    COLUMNS.forEach((valueOf, index) => setText(element.children[index + 1], valueOf(model)));
  });
  byId("models-note").hidden = models.length > 0;
}
