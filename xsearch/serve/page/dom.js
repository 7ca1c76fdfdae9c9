// Elements, made without markup: names of files and captions only ever become text nodes and attributes.

const SVG = "http://www.w3.org/2000/svg";

/**
 * Return an element. Properties are attributes, but for `on`, which holds listeners by event; those that are
 * undefined, null or false are left out. Children are nodes or texts,
 * left out likewise.
 */
export function el(name, properties = {}, ...children) {
  return made(document.createElement(name), properties, children);
}

/** The same for the elements of a drawing. */
export function svg(name, properties = {}, ...children) {
  return made(document.createElementNS(SVG, name), properties, children);
}

/** Return a drawing of 24 by 24 strokes, hidden from screen readers. */
export function icon(path) {
  return svg("svg", { class: "icon", viewBox: "0 0 24 24", "aria-hidden": "true" }, svg("path", { d: path }));
}

/** Put children into an element in place of those that it has, and return it. */
export function fill(element, ...children) {
  element.replaceChildren(...present(children));
  return element;
}

function made(element, { on = {}, ...attributes }, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  for (const [event, listener] of Object.entries(on)) element.addEventListener(event, listener);
  element.append(...present(children));
  return element;
}

function present(children) {
  return children.filter((child) => child !== undefined && child !== null && child !== false && child !== "");
}
