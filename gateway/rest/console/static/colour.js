// The colour of a label: the same as in pictures that the gateway draws, in every picture and release.

const TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let bit = 0; bit < 8; bit++) n = n & 1 ? (n >>> 1) ^ 0xedb88320 : n >>> 1;
  return n;
});

function crc32(text) {
  let sum = 0xffffffff;
  for (const byte of new TextEncoder().encode(text)) sum = (sum >>> 8) ^ TABLE[(sum ^ byte) & 255];
  return (sum ^ 0xffffffff) >>> 0;
}

const known = new Map();

/** [red, green, blue] of a label, 0 to 255. */
export function labelColour(label) {
  if (!known.has(label)) {
    const digest = crc32(label);
    const hue = (((digest >>> 20) % 180) * 2) / 60;
    const saturation = [255, 180][digest % 2] / 255;
    const value = [230, 180][(digest >>> 1) % 2];
    const channel = (n) => {
      const k = (n + hue) % 6;
      return Math.round(value * (1 - saturation * Math.max(0, Math.min(k, 4 - k, 1))));
    };
    known.set(label, [channel(5), channel(3), channel(1)]);
  }
  return known.get(label);
}

export const css = (rgb) => `rgb(${rgb.join(" ")})`;

/** Black or white, whichever reads better on a colour. */
export const textOn = ([red, green, blue]) => (0.299 * red + 0.587 * green + 0.114 * blue >= 140 ? "#000" : "#fff");
