// What can be taken along: a curl line, JSON and COCO as the gateway writes them, and the annotated picture.

import { address, storedKey } from "./api.js";
import { make } from "./dom.js";
import { drawBoxes } from "./viewer.js";

const quoted = (text) => `'${text.replaceAll("'", `'\\''`)}'`;

/** A line for a POSIX shell. The key stays in a variable of the reader's. */
export function curlLine(fileName, parameters) {
  const key = storedKey() ? ' -H "X-API-Key: $EAGLEEYE_KEY"' : "";
  return `curl${key} --data-binary ${quoted(`@${fileName}`)} ${quoted(address("v1/detect", parameters).href)}`;
}

/** A class as the parameter `classes` takes it: its label, or its id where a label would not be read as one. */
export const className = (label, classId) => (/^[A-Za-z][\w -]*$/.test(label) ? label : String(classId));

const asDetection = ({ label, classId, score, box: [x1, y1, x2, y2] }) => ({
  label,
  class_id: classId,
  score: shortest(score),
  box: { x1: shortest(x1), y1: shortest(y1), x2: shortest(x2), y2: shortest(y2) },
});

/** The shortest decimal number that is the same 32-bit float. */
function shortest(value) {
  for (let digits = 1; digits < 10; digits++) {
    const short = Number(value.toPrecision(digits));
    if (Math.fround(short) === value) return short;
  }
  return value;
}

/** Results as `/v1/detect` answers several images: [{name, answer, found}]. */
export const asJson = (results, thresholds) => ({
  thresholds,
  results: results.map(({ name, answer, found }) => ({
    file: name,
    model: answer.model,
    image: answer.image,
    detections: found.map(asDetection),
  })),
});

/** Rows of a COCO result file, images counted from 0. */
export const asCoco = (results) =>
  results.flatMap(({ found }, imageId) =>
    found.map(({ label, classId, score, box: [x1, y1, x2, y2] }) => ({
      image_id: imageId,
      category_id: classId,
      bbox: [x1, y1, x2 - x1, y2 - y1].map((value) => shortest(Math.fround(value))),
      score: shortest(score),
      label,
    })),
  );

/** The picture in its own size with what was found drawn on it, as a PNG. */
export async function annotated(picture, found) {
  const canvas = make("canvas", { width: picture.width, height: picture.height });
  const context = canvas.getContext("2d");
  context.drawImage(picture, 0, 0);
  const unit = Math.max(1, Math.min(picture.width, picture.height) / 640);
  const font = `600 ${Math.round(12 * unit)}px system-ui, sans-serif`;
  drawBoxes(context, found, { size: [picture.width, picture.height], line: 2 * unit, font, tagHeight: 18 * unit });
  return new Promise((resolve, reject) => {
    canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Error("the browser can't encode this picture"))), "image/png");
  });
}

export function download(blob, name) {
  const link = make("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

export const jsonBlob = (value) => new Blob([JSON.stringify(value, null, 1), "\n"], { type: "application/json" });

/** A file's name without folder and suffix, and fit for one. */
export const stem = (name) => name.replace(/^.*[\\/]/, "").replace(/\.[^.]*$/, "").replace(/[^\w-]+/g, "_").slice(0, 80) || "picture";

/** Copy a text; where the browser does not allow that, leave it selected to be copied by hand. */
export async function copy(text, element) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    getSelection().selectAllChildren(element);
    return false;
  }
}
