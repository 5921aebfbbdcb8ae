// The Detect view. A picture is asked about once, for every candidate there is; thresholds are then a matter of this page.

import { call, getJson } from "./api.js";
import { filter, fromAnswer } from "./boxes.js";
import { Camera } from "./camera.js";
import { css, labelColour } from "./colour.js";
import { announce, byId, foreign, make, reconcile, setText } from "./dom.js";
import { annotated, asCoco, asJson, className, copy, curlLine, download, jsonBlob, stem } from "./exports.js";
import { Viewer } from "./viewer.js";

const CANDIDATES = { score_threshold: 0.01, iou_threshold: 1, max_detections: 1000, clip: false }; // all that the model gives
const CAMERA_CANDIDATES = { ...CANDIDATES, score_threshold: 0.05 }; // many a second: only what may be of use
const AT_A_TIME = 2; // pictures that are asked about; further ones wait here, not in the gateway
const MOST_RETRIES = 3;
const MOST_PICTURES = 1000;
const PICTURES = /\.(jpe?g|png|webp|bmp)$/i;
const SAMPLE = "console/sample.png";

let models = [];
let items = []; // {name, blob, thumbnail, answers: Map(choice -> {answer, candidates} | {error})}
let current = null;
let picture = null;
let camera = null;
let live = null; // {picture, answer, candidates} of the camera's newest answer
let working = 0;
let loading = 0;
let active = 0; // the side whose detections are listed
let selected = [null, null];
let found = [[], []];
const hidden = new Set(); // labels
const viewers = [];

// --- models and thresholds ---------------------------------------------------------------------------------------

export async function loadModels() {
  ({ models } = await getJson("v1/models"));
  const options = models.flatMap(({ name, versions }) => [
    { value: JSON.stringify({ model: name }), text: `${name}, as served` },
    ...versions.toReversed().map((version) => ({ value: JSON.stringify({ model: name, version }), text: `${name}, version ${version}` })),
  ]);
  fill(byId("model"), options);
  fill(byId("compare"), [{ value: "", text: "nothing" }, ...options]);
  for (const id of ["model", "compare", "camera"]) byId(id).disabled = !models.length;
  if (models.length) useDefaults();
  else say("No model is served at the moment.", true);
  work(); // pictures that came before the models
  show();
}

function fill(select, options) {
  const before = select.value;
  select.replaceChildren(...options.map(({ value, text }) => make("option", { value }, text)));
  if (options.some(({ value }) => value === before)) select.value = before;
}

const choice = (side) => byId(["model", "compare"][side]).value;
const sides = () => (choice(1) && !camera?.isOn ? [0, 1] : [0]);
const modelOf = (side) => models.find(({ name }) => name === JSON.parse(choice(side) || "{}").model);

function useDefaults() {
  const { score_threshold: score, iou_threshold: iou } = modelOf(0).defaults;
  byId("score").value = score;
  byId("iou").value = iou;
  showThresholds();
}

const thresholds = () => ({ score: Number(byId("score").value), iouThreshold: Number(byId("iou").value) });

function showThresholds() {
  for (const id of ["score", "iou"]) setText(byId(`${id}-value`), Number(byId(id).value).toFixed(2));
}

// --- pictures in ---------------------------------------------------------------------------------------------------

/** Take pictures in and show the first; what is no picture by name and type is counted and passed over. */
export function add(files) {
  const pictures = files.filter((file) => PICTURES.test(file.name) || file.type.startsWith("image/"));
  const room = MOST_PICTURES - items.length;
  const taken = pictures.slice(0, room).map((file) => ({ name: file.name, blob: file, thumbnail: URL.createObjectURL(file), answers: new Map() }));
  const passed = files.length - taken.length;
  const why = pictures.length > room ? `at most ${MOST_PICTURES} pictures are held; ` : "";
  if (passed) say(`${why}${passed} of ${files.length} files passed over: pictures are JPEG, PNG, WebP or BMP.`, !taken.length);
  else say("");
  if (!taken.length) return;
  camera?.stop();
  items.push(...taken);
  showStrip();
  open(taken[0]);
}

export async function addSample() {
  const response = await call(SAMPLE);
  add([new File([await response.blob()], "sample.png", { type: "image/png" })]);
}

function clear() {
  for (const { thumbnail } of items) URL.revokeObjectURL(thumbnail);
  items = [];
  current = picture = null;
  selected = [null, null];
  showStrip();
  show();
  byId("choose").focus();
}

/** All files of what was dropped, those in folders too. */
async function dropped(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.some((entry) => entry.isDirectory)) return [...transfer.files];
  return (await Promise.all(entries.map(filesIn))).flat();
}

async function filesIn(entry) {
  if (entry.isFile) return [await new Promise((resolve, reject) => entry.file(resolve, reject))];
  const reader = entry.createReader();
  const children = [];
  for (;;) {
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) break;
    children.push(...some);
  }
  return (await Promise.all(children.map(filesIn))).flat();
}

async function open(item) {
  current = item;
  selected = [null, null];
  const turn = ++loading;
  showStrip();
  work();
  let next = null;
  try {
    next = await createImageBitmap(item.blob);
  } catch {
    // the gateway says what is wrong with it
  }
  if (turn !== loading) {
    next?.close();
    return;
  }
  picture?.close?.();
  picture = next;
  show();
}

// --- asking ----------------------------------------------------------------------------------------------------------

/** Ask about the picture that is shown, and then about the others, a few at a time. */
function work() {
  const wanted = (item) => sides().map(choice).filter((each) => each && !item.answers.has(each));
  while (working < AT_A_TIME) {
    const item = [current, ...items].find((each) => each && wanted(each).length);
    if (!item) break;
    ask(item, wanted(item)[0]);
  }
}

/** The answer for one picture; what the gateway puts off is asked again when it says so. */
async function detectIn(item, chosen, retries = MOST_RETRIES) {
  try {
    const parameters = { ...JSON.parse(chosen), ...CANDIDATES };
    return await (await call("v1/detect", { method: "POST", body: item.blob, parameters })).json();
  } catch (error) {
    if (!error.retryAfterSeconds || !retries) throw error;
    await new Promise((resolve) => setTimeout(resolve, 1000 * error.retryAfterSeconds));
    return detectIn(item, chosen, retries - 1);
  }
}

async function ask(item, chosen) {
  working += 1;
  item.answers.set(chosen, {}); // in work
  try {
    const answer = await detectIn(item, chosen);
    item.answers.set(chosen, { answer, candidates: fromAnswer(answer) });
  } catch (error) {
    item.answers.set(chosen, { error });
  }
  working -= 1;
  work();
  updateStrip(item);
  if (item === current) show();
}

function retry() {
  for (const [chosen, { error }] of current.answers) if (error) current.answers.delete(chosen);
  work();
  show();
}

const outcome = (side) => (camera?.isOn ? (live ?? {}) : (current?.answers.get(choice(side)) ?? {}));

// --- showing ---------------------------------------------------------------------------------------------------------

function show() {
  const isEmpty = !current && !camera?.isOn;
  byId("empty").hidden = !isEmpty;
  byId("stage").hidden = isEmpty;
  byId("results").hidden = isEmpty;
  const shownSides = sides();
  byId("viewers").dataset.count = shownSides.length;
  if (!shownSides.includes(active)) active = 0;
  for (const side of [0, 1]) {
    byId(`viewer-${side}`).hidden = !shownSides.includes(side);
    if (shownSides.includes(side)) viewers[side].show(camera?.isOn ? (live?.picture ?? null) : picture);
  }
  refilter();
}

/** What thresholds and classes leave of the candidates: no request, whatever moves. */
function refilter() {
  found = [0, 1].map((side) => filter(outcome(side).candidates ?? [], thresholds()));
  showClasses();
  for (const side of sides()) showSide(side);
  showList();
  showSelected();
  const problem = outcome(0).error ?? (sides()[1] && outcome(1).error);
  byId("problem").hidden = !problem;
  if (problem) setText(byId("problem-text"), `${problem.message}`);
  const isReady = Boolean(outcome(0).answer);
  for (const button of byId("exports").querySelectorAll("button")) button.disabled = !isReady || (camera?.isOn && button.id !== "save-picture");
}

const visible = (side) => found[side].filter(({ label }) => !hidden.has(label));

function showSide(side) {
  const shown = visible(side);
  if (!shown.includes(selected[side])) selected[side] = null;
  viewers[side].setFound(shown, selected[side]);
  const { answer, error, candidates } = outcome(side);
  const count = candidates ? `${shown.length} of ${candidates.length} candidates` : error ? "failed" : "\u2026";
  const name = answer ? `${answer.model.name} v${answer.model.version}` : (modelOf(side)?.name ?? "");
  const time = answer ? `, ${answer.timing_ms.total.toFixed(0)} ms` : "";
  byId(`caption-${side}`).replaceChildren(foreign(name), `: ${count}${time}`);
  const what = camera?.isOn ? "camera" : (current?.name ?? "");
  byId(`canvas-${side}`).setAttribute("aria-label", `Picture ${what.slice(0, 100)} with ${shown.length} boxes, ${name.slice(0, 100)}`);
  if (side === active && candidates && !camera?.isOn) announce(byId("detect-status"), `${shown.length} of ${candidates.length} candidates are shown.`);
}

function showClasses() {
  const counts = new Map();
  const present = new Map();
  for (const side of sides()) {
    for (const { label, classId } of outcome(side).candidates ?? []) present.set(label, classId);
  }
  for (const { label } of found[active]) counts.set(label, (counts.get(label) ?? 0) + 1);
  const entries = [...present].map(([label, classId]) => ({ label, classId, count: counts.get(label) ?? 0 }));
  entries.sort((one, other) => one.classId - other.classId);
  reconcile(byId("classes"), entries, ({ label }) => label, classRow, updateClass);
}

function classRow({ label }) {
  const swatch = make("span", { className: "swatch", "aria-hidden": "true" });
  swatch.style.background = css(labelColour(label));
  const box = make("input", { type: "checkbox", onchange: () => toggle(label, box.checked) });
  const name = make("span", { className: "name" }, foreign(label));
  return make("li", {}, make("label", {}, box, swatch, name, make("span", { className: "count" })));
}

function updateClass(row, { label, count }) {
  row.querySelector("input").checked = !hidden.has(label);
  setText(row.querySelector(".count"), count);
  row.classList.toggle("none", !count);
}

function toggle(label, isShown) {
  if (isShown) hidden.delete(label);
  else hidden.add(label);
  refilter();
}

function setAllClasses(isShown) {
  for (const row of byId("classes").children) (isShown ? hidden.delete(row.keyOfEntry) : hidden.add(row.keyOfEntry));
  refilter();
}

function showList() {
  const list = byId("found");
  const shown = visible(active);
  while (list.children.length > shown.length) list.lastElementChild.remove();
  shown.forEach((each, index) => {
    const option = list.children[index] ?? list.appendChild(listRow(index));
    const [swatch, name, score] = option.children;
    option.setAttribute("aria-selected", each === selected[active]);
    if (name.textContent !== each.label) {
      name.replaceChildren(foreign(each.label));
      swatch.style.background = css(labelColour(each.label));
    }
    setText(score, each.score.toFixed(3));
  });
  const index = shown.indexOf(selected[active]);
  if (index < 0) list.removeAttribute("aria-activedescendant");
  else list.setAttribute("aria-activedescendant", `found-${index}`);
  setText(byId("found-count"), shown.length);
  const { candidates } = outcome(active);
  byId("found-none").hidden = !candidates || shown.length > 0;
}

function listRow(index) {
  const cells = [make("span", { className: "swatch" }), make("span", { className: "name" }), make("span", { className: "score" })];
  return make("li", { role: "option", id: `found-${index}`, onclick: () => select(active, visible(active)[index]) }, ...cells);
}

function select(side, each, { fromList = true } = {}) {
  active = side;
  selected[side] = each;
  refilter();
  if (!each) return;
  if (fromList) viewers[side].reveal(each);
  scrollIntoList(byId("found").querySelector('[aria-selected="true"]'));
  const [x1, y1, x2, y2] = each.box.map((value) => value.toFixed(0));
  announce(byId("detect-status"), `${each.label.slice(0, 100)}, score ${each.score.toFixed(2)}, from ${x1}, ${y1} to ${x2}, ${y2}`);
}

/** Scroll the list alone; the page stays where it is. */
function scrollIntoList(option) {
  if (!option) return;
  const list = byId("found");
  const [top, bottom] = [option.offsetTop, option.offsetTop + option.offsetHeight];
  if (top < list.scrollTop) list.scrollTop = top;
  else if (bottom > list.scrollTop + list.clientHeight) list.scrollTop = bottom - list.clientHeight;
}

/** Select the next box or the one before; round at the ends. */
function step(side, by) {
  const shown = visible(side);
  if (!shown.length) return;
  const index = shown.indexOf(selected[side]);
  const next = index < 0 ? (by > 0 ? 0 : shown.length - 1) : (index + by + shown.length) % shown.length;
  select(side, shown[next]);
}

function listKey(event) {
  const shown = visible(active);
  const last = shown.length - 1;
  const index = shown.indexOf(selected[active]);
  const places = {
    ArrowDown: Math.min(index + 1, last),
    ArrowUp: Math.max(index - 1, 0),
    PageDown: Math.min(index + 10, last),
    PageUp: Math.max(index - 10, 0),
    Home: 0,
    End: last,
  };
  if (event.key === "Escape") select(active, null);
  else if (event.key in places && shown.length) select(active, shown[places[event.key]]);
  else return;
  event.preventDefault();
}

function showSelected() {
  const each = selected[active];
  byId("selected").hidden = !each;
  if (!each) return;
  const [x1, y1, x2, y2] = each.box;
  const facts = [
    ["Class", foreign(each.label)],
    ["Class id", each.classId],
    ["Score", each.score.toFixed(4)],
    ["x1, y1", `${x1.toFixed(1)}, ${y1.toFixed(1)}`],
    ["x2, y2", `${x2.toFixed(1)}, ${y2.toFixed(1)}`],
    ["Size", `${(x2 - x1).toFixed(1)} \u00d7 ${(y2 - y1).toFixed(1)} px`],
  ];
  byId("selected").replaceChildren(...facts.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))));
}

function showStrip() {
  byId("strip").hidden = items.length < 2;
  reconcile(byId("pictures"), items, (item) => item, stripEntry, updateEntry);
  setText(byId("pictures-count"), `${items.length} pictures`);
  scrollToCurrent();
}

/** Scroll the strip alone; the page stays where it is. */
function scrollToCurrent() {
  const strip = byId("pictures");
  const box = strip.children[items.indexOf(current)]?.getBoundingClientRect();
  if (!box) return;
  const { left, right } = strip.getBoundingClientRect();
  if (box.left < left) strip.scrollLeft -= left - box.left;
  else if (box.right > right) strip.scrollLeft += box.right - right;
}

function stripEntry(item) {
  const image = make("img", { alt: "", loading: "lazy", decoding: "async", src: item.thumbnail });
  const name = make("span", { className: "name" }, foreign(item.name));
  const button = make("button", { type: "button", onclick: () => open(item) }, image, name, make("span", { className: "count" }));
  return make("li", {}, button);
}

function updateEntry(entry, item) {
  const button = entry.firstElementChild;
  if (item === current) button.setAttribute("aria-current", "true");
  else button.removeAttribute("aria-current");
  const { candidates, error } = item.answers.get(choice(0)) ?? {};
  const count = candidates ? `${filter(candidates, thresholds()).filter(({ label }) => !hidden.has(label)).length} found` : error ? "failed" : "waiting";
  setText(button.lastElementChild, count);
  button.lastElementChild.dataset.kind = error ? "bad" : "";
}

function updateStrip(item) {
  const entry = [...byId("pictures").children].find((each) => each.keyOfEntry === item);
  if (entry) updateEntry(entry, item);
}

function say(text, isError = false) {
  const element = byId("notice");
  element.hidden = !text;
  element.dataset.kind = isError ? "bad" : "";
  setText(element, text);
}

// --- camera ----------------------------------------------------------------------------------------------------------

async function toggleCamera() {
  if (camera?.isOn) {
    camera.stop();
    return;
  }
  camera = new Camera({ onFrame: takeFrame, onState: say, onEnd: cameraEnded });
  say("The browser asks whether this page may use the camera.");
  byId("camera").disabled = true; // a second click would start a second one, which nothing stops
  try {
    await camera.start({ ...JSON.parse(choice(0)), ...CAMERA_CANDIDATES });
  } catch (error) {
    say(error.message, true);
    return;
  } finally {
    byId("camera").disabled = false;
  }
  live = null;
  selected = [null, null];
  setText(byId("camera"), "Stop camera");
  byId("camera").setAttribute("aria-pressed", "true");
  byId("strip").hidden = true;
  show();
}

function takeFrame({ picture: frame, answer }) {
  live = { picture: frame, answer, candidates: fromAnswer(answer) };
  show();
}

function cameraEnded(reason) {
  setText(byId("camera"), "Use camera");
  byId("camera").setAttribute("aria-pressed", "false");
  say(reason, Boolean(reason));
  showStrip();
  show();
}

// --- taking along ----------------------------------------------------------------------------------------------------

const answered = () =>
  items
    .map((item) => ({ name: item.name, ...item.answers.get(choice(0)) }))
    .filter(({ answer }) => answer)
    .map(({ name, answer, candidates }) => ({
      name,
      answer,
      found: filter(candidates, thresholds()).filter(({ label }) => !hidden.has(label)),
    }));

/** The thresholds and classes of this page as parameters of a request. */
function asked() {
  const { score, iouThreshold } = thresholds();
  const rows = [...byId("classes").children].map((row) => row.keyOfEntry);
  const labels = modelOf(0)?.labels ?? [];
  const shown = labels.filter((label) => !hidden.has(label));
  const classes = rows.some((label) => hidden.has(label)) ? shown.map((label) => className(label, labels.indexOf(label))).join(",") : undefined;
  return { ...JSON.parse(choice(0)), score_threshold: score, iou_threshold: iouThreshold, classes };
}

async function copyCurl() {
  const line = byId("curl");
  line.hidden = false;
  setText(line, curlLine(current.name, asked()));
  say((await copy(line.textContent, line)) ? "The curl line is copied." : "Copy the selected line by hand; the browser does not let this page.");
}

async function savePicture() {
  const [source, name] = camera?.isOn ? [live.picture, "camera"] : [picture, current.name];
  try {
    download(await annotated(source, visible(0)), `${stem(name)}.found.png`);
  } catch (error) {
    say(`The picture can't be made: ${error.message}`, true);
  }
}

function save(kind) {
  const results = answered();
  const name = results.length > 1 ? "found" : `${stem(results[0].name)}.found`;
  const { score, iouThreshold } = thresholds();
  if (kind === "coco") download(jsonBlob(asCoco(results)), `${name}.coco.json`);
  else download(jsonBlob(asJson(results, { score_threshold: score, iou_threshold: iouThreshold })), `${name}.json`);
}

// --- wiring ----------------------------------------------------------------------------------------------------------

export function setUp() {
  for (const side of [0, 1]) {
    viewers.push(
      new Viewer(byId(`canvas-${side}`), {
        onSelect: (each) => select(side, each, { fromList: false }),
        onStep: (by) => step(side, by),
        onMove: (view) => viewers[1 - side].setView(view),
      }),
    );
    byId(`canvas-${side}`).addEventListener("focus", () => {
      if (active === side) return;
      active = side;
      refilter();
    });
  }
  setUpSources();
  setUpControls();
  show();
}

function setUpSources() {
  for (const [button, input] of [["choose", "files"], ["choose-folder", "folder"]]) {
    byId(button).addEventListener("click", () => byId(input).click());
    byId(input).addEventListener("change", () => {
      add([...byId(input).files]);
      byId(input).value = "";
    });
  }
  byId("try-sample").addEventListener("click", () => addSample().catch((error) => say(error.message, true)));
  byId("camera").addEventListener("click", toggleCamera);
  byId("clear").addEventListener("click", clear);
  const view = byId("detect");
  view.addEventListener("dragover", (event) => {
    event.preventDefault();
    view.classList.add("dragging");
  });
  view.addEventListener("dragleave", (event) => {
    if (!view.contains(event.relatedTarget)) view.classList.remove("dragging");
  });
  view.addEventListener("drop", async (event) => {
    event.preventDefault();
    view.classList.remove("dragging");
    add(await dropped(event.dataTransfer));
  });
  document.addEventListener("paste", (event) => {
    if (view.hidden || !event.clipboardData.files.length) return;
    event.preventDefault();
    add([...event.clipboardData.files]);
  });
}

function setUpControls() {
  let isDue = false;
  const soon = () => {
    showThresholds();
    if (isDue) return;
    isDue = true;
    requestAnimationFrame(() => {
      isDue = false;
      refilter();
      for (const item of items) updateStrip(item);
    });
  };
  for (const id of ["score", "iou"]) byId(id).addEventListener("input", soon);
  byId("defaults").addEventListener("click", () => {
    useDefaults();
    soon();
  });
  for (const id of ["model", "compare"]) {
    byId(id).addEventListener("change", () => {
      if (id === "model") {
        useDefaults();
        camera?.stop();
      }
      work();
      showStrip();
      show();
    });
  }
  byId("all-classes").addEventListener("click", () => setAllClasses(true));
  byId("no-classes").addEventListener("click", () => setAllClasses(false));
  byId("found").addEventListener("keydown", listKey);
  byId("retry").addEventListener("click", retry);
  const zoom = { "zoom-in": (viewer) => viewer.zoomBy(1.5), "zoom-out": (viewer) => viewer.zoomBy(1 / 1.5), fit: (viewer) => viewer.fit() };
  for (const [id, act] of Object.entries(zoom)) byId(id).addEventListener("click", () => act(viewers[active]));
  byId("copy-curl").addEventListener("click", copyCurl);
  byId("save-json").addEventListener("click", () => save("json"));
  byId("save-coco").addEventListener("click", () => save("coco"));
  byId("save-picture").addEventListener("click", savePicture);
}
