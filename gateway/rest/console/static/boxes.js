// Thresholds and non-maximum suppression, as the gateway does both: in 32-bit floats, in the same order of operations.
// The gateway compares boxes before it clips them to the picture, and this page has them only after that: of boxes that
// reach past the picture's border, one more or less may stay here.

const f32 = Math.fround;
const TINY = 2 ** -126; // the smallest normal 32-bit float

export const LIMIT = 500; // detections of one picture, the gateway's own default

/** One found object: `box` is [x1, y1, x2, y2] in pixels of the picture. */
export const fromAnswer = (detections) =>
  detections.map(({ label, class_id: classId, score, box }) => ({
    label,
    classId,
    score: f32(score),
    box: [f32(box.x1), f32(box.y1), f32(box.x2), f32(box.y2)],
  }));

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
 * overlap a better one of their class by more than `iouThreshold`, and the best `limit` of them.
 */
export function filter(candidates, { score, iouThreshold, limit = LIMIT }) {
  const [least, most] = [f32(score), f32(iouThreshold)];
  const kept = [];
  const byClass = new Map();
  for (const candidate of candidates) {
    if (kept.length === limit) break;
    if (!(candidate.score > least)) continue;
    const size = area(candidate.box);
    const better = byClass.get(candidate.classId) ?? [];
    if (better.some((each) => iou(each.box, candidate.box, f32(each.size + size)) > most)) continue;
    better.push({ box: candidate.box, size });
    byClass.set(candidate.classId, better);
    kept.push(candidate);
  }
  return kept;
}
