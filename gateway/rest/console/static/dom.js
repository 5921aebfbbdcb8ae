// Elements made by hand. Text is always a text node: nothing that comes from outside can become markup.

/** An element with properties, listeners (`onclick` and so on), `data` attributes, ARIA attributes, and children. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "data") Object.assign(element.dataset, value);
    else if (name.includes("-") || name === "role" || name === "for") element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children);
  return element;
}

/** An SVG element with attributes. */
export function makeSvg(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

export const byId = (id) => document.getElementById(id);

/** Set an element's text, and touch nothing if it is the same: screen readers and layout stay undisturbed. */
export function setText(element, text) {
  if (element.textContent !== String(text)) element.textContent = text;
}

/** Tell screen readers, once things have been quiet for a moment: a slider that moves says only where it ends. */
const pending = new WeakMap();
export function announce(element, text) {
  clearTimeout(pending.get(element));
  pending.set(element, setTimeout(() => setText(element, text), 600));
}

/** Text as it can stand on a picture: no characters that turn the writing direction or are not there, and not long. */
export function plain(text, most = 40) {
  const visible = text.slice(0, 4 * most).replace(/[\p{C}\p{Zl}\p{Zp}]/gu, "\u00b7");
  const characters = [...visible];
  return characters.length > most || text.length > 4 * most ? `${characters.slice(0, most).join("")}\u2026` : visible;
}

/** A text that someone else wrote, kept apart from the direction of what stands around it. */
export const foreign = (text) => make("bdi", { className: "foreign" }, text);

/** Keep one child for each key, in the order of `entries`; `create(entry)` makes one, `update(child, entry)` renews it. */
export function reconcile(parent, entries, keyOf, create, update) {
  const known = new Map([...parent.children].map((child) => [child.keyOfEntry, child]));
  let place = parent.firstElementChild;
  for (const entry of entries) {
    const key = keyOf(entry);
    let child = known.get(key);
    if (!child) {
      child = create(entry);
      child.keyOfEntry = key;
    }
    known.delete(key);
    update(child, entry);
    if (child === place) place = place.nextElementSibling;
    else parent.insertBefore(child, place);
  }
  for (const child of known.values()) child.remove();
}
