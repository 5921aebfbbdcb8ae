// Thresholds and non-maximum suppression, as the gateway does both: in 32-bit floats, in the same order of operations.
// Like the gateway it compares boxes as the model gives them, and clips to the picture what stays.

const f32 = Math.fround;
const TINY = 2 ** -126; // the smallest normal 32-bit float

export const LIMIT = 500; // detections of one picture, the gateway's own default

/** The candidates of an answer that was not clipped: `box` is [x1, y1, x2, y2] in pixels of the picture, `whole` also beyond it. */
export function fromAnswer({ image: { width, height }, detections }) {
  const clip = (value, end) => Math.min(Math.max(value, 0), end);
  return detections.map(({ label, class_id: classId, score, box }) => {
    const [x1, y1, x2, y2] = [box.x1, box.y1, box.x2, box.y2].map(f32);
    const clipped = [clip(x1, width), clip(y1, height), clip(x2, width), clip(y2, height)];
    return { label, classId, score: f32(score), box: clipped, whole: [x1, y1, x2, y2] };
  });
}

const side = (from, to) => Math.max(f32(to - from), 0);

export const area = ([x1, y1, x2, y2]) => f32(side(x1, x2) * side(y1, y2));

/** Intersection over union; 0 where both have no area. */
export function iou(one, other, areas = f32(area(one) + area(other))) {
  const width = side(Math.max(one[0], other[0]), Math.min(one[2], other[2]));
  const height = side(Math.max(one[1], other[1]), Math.min(one[3], other[3]));
  const intersection = f32(width * height);
  return f32(intersection / Math.max(f32(areas - intersection), TINY));
}

/**
 * The detections that stay, of candidates that come best first: those that score more than `score`, less those that
 * overlap a better one of their class by more than `iouThreshold`, and the best `limit` of them; less those that lie
 * outside of the picture.
 */
export function filter(candidates, { score, iouThreshold, limit = LIMIT }) {
  const [least, most] = [f32(score), f32(iouThreshold)];
  const kept = [];
  const byClass = new Map();
  for (const candidate of candidates) {
    if (kept.length === limit) break;
    if (!(candidate.score > least)) continue;
    const size = area(candidate.whole);
    const better = byClass.get(candidate.classId) ?? [];
    if (better.some((each) => iou(each.whole, candidate.whole, f32(each.size + size)) > most)) continue;
    better.push({ whole: candidate.whole, size });
    byClass.set(candidate.classId, better);
    kept.push(candidate);
  }
  return kept.filter(({ box }) => area(box) > 0);
}
