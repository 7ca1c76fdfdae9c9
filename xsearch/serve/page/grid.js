// Hits as a justified grid: rows of one height, as wide as the page. Only what is near the window is in the document.

import { thumbnail } from "./api.js";
import { el, icon } from "./dom.js";
import { nameOf, percent, stretch } from "./format.js";

const GAP_PX = 6;
const ASPECTS = [0.45, 2.6];
const TEXT_ASPECT = 1.4;
/** So long a tile has to stay before its picture is asked for: what flies past is not. */
const SETTLED_MS = 80;
const LEAST_SURE = 0.01;
const PLAY = "M8 5.5v13l10.5-6.5z";

/**
 * Return rows `{ top, height, first, lefts, widths }` of items with these aspects (width by height), from the item
 * `first` and the height `top` on. A row takes in items until it is `width` wide at about the height `target`; the last
 * one is not stretched to it.
 */
export function justified(aspects, width, target, first = 0, top = 0) {
  const rows = [];
  const close = (from, to, height) => {
    const widths = aspects.slice(from, to).map((aspect) => aspect * height);
    const lefts = [];
    widths.reduce((left, one) => (lefts.push(left), left + one + GAP_PX), 0);
    rows.push({ top, height, first: from, lefts, widths });
    top += height + GAP_PX;
  };
  const fitting = (from, to, sum) => (width - (to - from - 1) * GAP_PX) / sum;
  let [from, sum] = [first, 0];
  for (let at = first; at < aspects.length; at++) {
    const [before, after] = [at > from ? fitting(from, at, sum) : Infinity, fitting(from, at + 1, sum + aspects[at])];
    if (after > target) {
      sum += aspects[at];
      continue;
    }
    // Full with this item, or already without it: whichever is nearer to the height that is wanted.
    if (before - target < target - after) {
      close(from, at, before);
      [from, sum] = [at, aspects[at]];
    } else {
      close(from, at + 1, after);
      [from, sum] = [at + 1, 0];
    }
  }
  if (from < aspects.length) close(from, aspects.length, Math.min(target, fitting(from, aspects.length, sum)));
  return rows;
}

export class Grid {
  /**
   * `addressOf(hit)` is where a hit opens, `onOpen(index)` opens it, `onNearEnd()` is told when the end comes into
   * sight.
   */
  constructor(root, { addressOf, onOpen, onNearEnd }) {
    Object.assign(this, { root, addressOf, onOpen, onNearEnd });
    this.hits = [];
    this.aspects = [];
    this.rows = [];
    this.tiles = new Map();
    this.active = 0;
    this.width = 0;
    this.settling = 0;
    addEventListener("scroll", () => this.schedule(), { passive: true });
    addEventListener("resize", () => this.schedule());
    new ResizeObserver(() => this.schedule()).observe(root);
    root.addEventListener("keydown", (event) => this.key(event));
    root.addEventListener("focusin", (event) => this.activate(Number(event.target.closest("[data-at]")?.dataset.at ?? 0)));
    root.addEventListener("click", (event) => {
      const tile = event.target.closest("a");
      if (!tile || event.metaKey || event.ctrlKey || event.shiftKey || event.button) return;
      event.preventDefault();
      this.onOpen(Number(tile.parentElement.dataset.at));
    });
  }

  /** Show other hits, from the beginning. */
  show(hits, isConfident) {
    this.hits = hits;
    this.isConfident = isConfident;
    this.aspects = [];
    this.rows = [];
    this.active = 0;
    for (const at of [...this.tiles.keys()]) this.drop(at);
    this.grow();
  }

  /** Show hits that were added at the end. */
  grow() {
    for (const hit of this.hits.slice(this.aspects.length)) this.aspects.push(aspectOf(hit));
    const last = this.rows.pop();
    this.lay(last?.first ?? 0, last?.top ?? 0);
    this.render();
  }

  lay(first, top) {
    this.width = this.root.clientWidth;
    this.rows.push(...justified(this.aspects, this.width, this.target(), first, top));
    // A tile whose row was laid anew lies elsewhere.
    for (const at of [...this.tiles.keys()]) if (at >= first) this.put(at);
    const end = this.rows.at(-1);
    this.root.style.height = `${end ? end.top + end.height : 0}px`;
  }

  target() {
    return this.width < 560 ? 130 : this.width < 1000 ? 180 : 230;
  }

  schedule() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      if (this.root.clientWidth !== this.width && this.root.clientWidth) {
        const kept = this.rows.length ? this.rows[this.rowAt(scrollY - this.root.offsetTop)].first : 0;
        const wasAbove = scrollY > this.root.offsetTop;
        this.rows = [];
        this.lay(0, 0);
        if (wasAbove) scrollTo(0, this.root.offsetTop + this.rows[this.rowOf(kept)].top);
      }
      this.render();
    });
  }

  /** Have in the document what lies within a window's height of the window, and what has the focus. */
  render() {
    const top = scrollY - this.root.offsetTop;
    const [first, last] = [this.rowAt(top - innerHeight), this.rowAt(top + 2 * innerHeight)];
    const wanted = new Set();
    for (const row of this.rows.slice(first, last + 1)) row.widths.forEach((_, at) => wanted.add(row.first + at));
    if (this.hits.length) wanted.add(this.active);
    for (const at of [...this.tiles.keys()]) if (!wanted.has(at)) this.drop(at);
    for (const at of [...wanted].sort((a, b) => a - b)) if (!this.tiles.has(at)) this.make(at);
    this.settling ||= setTimeout(() => this.settle(), SETTLED_MS);
    if (this.rows.length && last >= this.rows.length - 2 && this.root.clientWidth) this.onNearEnd();
  }

  settle() {
    this.settling = 0;
    for (const tile of this.tiles.values()) {
      const image = tile.querySelector("img[data-src]");
      if (!image) continue;
      image.src = image.dataset.src;
      delete image.dataset.src;
    }
  }

  /** Return the index of the row at a height, or the nearest. */
  rowAt(y) {
    return Math.max(0, this.before((row) => row.top <= y));
  }

  rowOf(at) {
    return this.before((row) => row.first <= at);
  }

  /** Return the index of the last row for which something holds, as it does for all before it. */
  before(holds) {
    let [low, high] = [0, this.rows.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (holds(this.rows[middle])) low = middle + 1;
      else high = middle;
    }
    return low - 1;
  }

  make(at) {
    const hit = this.hits[at];
    const name = nameOf(hit.path);
    const when = hit.kind === "frame" && hit.t_start_s !== null ? stretch(hit) : "";
    const sure = this.isConfident && hit.confidence >= LEAST_SURE ? percent(hit.confidence) : "";
    const kind = { image: "picture", frame: "film moment", text: "text" }[hit.kind];
    const link = el(
      "a",
      { href: this.addressOf(hit), tabindex: at === this.active ? "0" : "-1" },
      hit.kind === "text" ? el("span", { class: "text" }, hit.text ?? name) : this.picture(hit),
      el("span", { class: "name" }, name),
      el("span", { class: "unseen" }, `, ${kind} `),
      when && el("span", { class: "when" }, icon(PLAY), when),
      sure && el("span", { class: "sure" }, sure, el("span", { class: "unseen" }, " sure")),
    );
    const tile = el("div", { role: "listitem", class: `tile ${hit.kind}`, "data-at": at }, link);
    tile.setAttribute("aria-posinset", at + 1);
    tile.setAttribute("aria-setsize", -1);
    this.tiles.set(at, tile);
    this.put(at);
    // In their order, so that screen readers meet them in it.
    const next = [...this.root.children].find((other) => Number(other.dataset.at) > at);
    this.root.insertBefore(tile, next ?? null);
  }

  picture(hit) {
    const px = Math.max(this.target() * Math.max(1, aspectOf(hit)) * devicePixelRatio, 1) > 420 ? 640 : 320;
    const image = el("img", { alt: "", decoding: "async", "data-src": thumbnail(hit.item_id, px) });
    image.addEventListener("load", () => image.classList.add("loaded"));
    image.addEventListener("error", () => image.parentElement?.classList.add("broken"));
    return image;
  }

  put(at) {
    const row = this.rows[this.rowOf(at)];
    const { style } = this.tiles.get(at);
    style.transform = `translate(${row.lefts[at - row.first]}px, ${row.top}px)`;
    style.width = `${row.widths[at - row.first]}px`;
    style.height = `${row.height}px`;
  }

  drop(at) {
    const tile = this.tiles.get(at);
    // Without its address a picture that is still on its way is not fetched to the end.
    tile.querySelector("img")?.removeAttribute("src");
    tile.remove();
    this.tiles.delete(at);
  }

  activate(at) {
    this.tiles.get(this.active)?.firstElementChild.setAttribute("tabindex", "-1");
    this.active = at;
    this.tiles.get(at)?.firstElementChild.setAttribute("tabindex", "0");
  }

  /** Give a tile the focus and bring it into sight. */
  focus(at = this.active) {
    if (!this.hits.length) return;
    this.activate(Math.min(Math.max(at, 0), this.hits.length - 1));
    const row = this.rows[this.rowOf(this.active)];
    const [above, below] = [document.querySelector("header").offsetHeight + GAP_PX, GAP_PX];
    const top = this.root.offsetTop + row.top;
    if (top < scrollY + above) scrollTo(0, top - above);
    else if (top + row.height > scrollY + innerHeight - below) scrollTo(0, top + row.height - innerHeight + below);
    this.render();
    this.tiles.get(this.active).firstElementChild.focus({ preventScroll: true });
  }

  key(event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const to = {
      ArrowLeft: () => this.active - 1,
      ArrowRight: () => this.active + 1,
      ArrowUp: () => this.beside(-1),
      ArrowDown: () => this.beside(1),
      Home: () => 0,
      End: () => this.hits.length - 1,
    }[event.key];
    if (!to) return;
    event.preventDefault();
    this.focus(to());
  }

  /** Return the item above (-1) or below (1) the active one. */
  beside(step) {
    const at = this.rowOf(this.active);
    const [row, other] = [this.rows[at], this.rows[at + step]];
    if (!other) return this.active;
    const middle = row.lefts[this.active - row.first] + row.widths[this.active - row.first] / 2;
    const off = other.lefts.map((left, place) => Math.abs(left + other.widths[place] / 2 - middle));
    return other.first + off.indexOf(Math.min(...off));
  }
}

function aspectOf({ kind, width, height }) {
  if (kind === "text") return TEXT_ASPECT;
  const [least, most] = ASPECTS;
  return width && height ? Math.min(Math.max(width / height, least), most) : 1;
}
