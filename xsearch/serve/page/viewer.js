// One hit, large: the picture, the film or the text, what is known of it, and where it shows what was asked.

import { get, original, thumbnail } from "./api.js";
import { el, fill, icon } from "./dom.js";
import { player } from "./film.js";
import { bytes, day, nameOf, percent, stretch } from "./format.js";
import { draw } from "./heat.js";
import { split } from "./query.js";
import { Zoom } from "./zoom.js";

const PREVIEW_PX = 640;
const LARGE_PX = 2560;
/** A picture is not drawn larger than so many times its own pixels. */
const MOST_ENLARGED = 3;
const GAP_PX = 14;
/** Other moments of a film are marked if they are at least so sure. */
const LEAST_SURE = 0.05;

const CLOSE = "m6 6 12 12M18 6 6 18";
const BACK = "m14.5 5-7 7 7 7";
const ON = "m9.5 5 7 7-7 7";
const INFO = "M12 11v6M12 7.2v.3M12 3.5a8.5 8.5 0 1 0 0 17 8.5 8.5 0 0 0 0-17z";

export class Viewer {
  /**
   * `onClose()`, `onStep(step)` to another hit, `onLike(id, isLiked)` to find more or less like an item, `onNear(item)`
   * to look around its position, `addressOf(id)` of another item.
   */
  constructor(dialog, actions) {
    this.dialog = dialog;
    this.actions = actions;
    this.isHeated = false;
    this.aborting = new AbortController();
    const button = (name, label, keys, path, click) =>
      el("button", { type: "button", class: name, title: `${label} (${keys})`, "aria-label": label, on: { click } }, icon(path));
    this.figure = el("figure");
    this.stage = el("div", { class: "stage" }, this.figure);
    this.back = button("back", "Previous", "←", BACK, () => actions.onStep(-1));
    this.on = button("on", "Next", "→", ON, () => actions.onStep(1));
    this.panel = el("aside", { "aria-label": "About it" });
    this.screen = el(
      "div",
      { class: "screen" },
      this.stage,
      this.back,
      this.on,
      button("about", "Details", "i", INFO, () => this.toggleDetails()),
      button("close", "Close", "Esc", CLOSE, () => actions.onClose()),
    );
    dialog.append(this.screen, this.panel);
    this.zoom = new Zoom(this.stage, actions.onStep);
    new ResizeObserver(() => this.fit()).observe(this.stage);
    dialog.addEventListener("cancel", (event) => {
      event.preventDefault();
      actions.onClose();
    });
    dialog.addEventListener("keydown", (event) => this.key(event));
  }

  get id() {
    return this.dialog.open ? this.shown : "";
  }

  /** Show an item; `hit` if it is one, `query` what was asked, "" if nothing. */
  async open(id, hit, query) {
    this.clear();
    Object.assign(this, { shown: id, hit, query, item: null, explained: null });
    if (!this.dialog.open) this.dialog.showModal();
    this.dialog.focus();
    const { signal } = this.aborting;
    if (hit) this.present(hit);
    try {
      const item = await get(`items/${encodeURIComponent(id)}`, {}, signal);
      this.item = item;
      if (!hit) this.present({ ...item, score: null, confidence: null });
      this.tell({ ...item, ...hit, path: hit?.path ?? item.path });
    } catch (problem) {
      if (problem.name !== "AbortError") fill(this.panel, ...complaint(problem));
    }
  }

  close() {
    this.clear();
    if (this.dialog.open) this.dialog.close();
  }

  /** Say whether there is a hit before and after this one. */
  bound(hasBefore, hasAfter) {
    this.back.disabled = !hasBefore;
    this.on.disabled = !hasAfter;
    // A button that is disabled loses the focus, and the keys with it.
    if (this.dialog.open && !this.dialog.contains(document.activeElement)) this.dialog.focus();
  }

  clear() {
    this.aborting.abort();
    this.aborting = new AbortController();
    // A player that is only taken out of the page would go on loading its film.
    for (const video of this.dialog.querySelectorAll("video")) {
      video.pause();
      video.removeAttribute("src");
      video.load();
    }
    this.film?.bar.remove();
    this.figure.replaceChildren();
    this.panel.replaceChildren();
    this.film = null;
    this.canvas = null;
    this.still = null;
    this.maps = null;
    this.note = null;
    this.zoom.take(null);
  }

  present(shown) {
    this.size = [shown.width || 4, shown.height || 3];
    this.figure.className = shown.kind;
    if (shown.kind === "text") this.figure.replaceChildren(el("blockquote", { tabindex: "0" }, shown.text ?? nameOf(shown.path)));
    else if (shown.kind === "frame") this.presentFilm(shown);
    else this.presentPicture(shown);
    this.fit();
    this.panel.replaceChildren(el("h1", {}, nameOf(shown.path)));
  }

  presentPicture({ item_id: id, path }) {
    const image = el("img", { alt: nameOf(path), src: thumbnail(id, PREVIEW_PX), draggable: "false" });
    image.addEventListener("load", () => {
      if (this.item?.width || this.hit?.width) return;
      this.size = [image.naturalWidth, image.naturalHeight];
      this.fit();
    });
    this.canvas = el("canvas", { "aria-hidden": "true" });
    this.figure.replaceChildren(image, this.canvas);
    this.zoom.take(this.figure);
    const swap = (source) => {
      const large = new Image();
      large.src = source;
      return large.decode().then(() => {
        if (image.isConnected && this.shown === id) image.src = source;
      });
    };
    // Browsers show no TIFF and not every HEIC: then a large thumbnail has to do.
    swap(original(id)).catch(() => swap(thumbnail(id, LARGE_PX)).catch(() => {}));
  }

  presentFilm({ item_id: id, path, t_start_s: start_s }) {
    this.still = el("img", { alt: nameOf(path), src: thumbnail(id, PREVIEW_PX), hidden: true });
    this.canvas = el("canvas", { "aria-hidden": "true" });
    this.film = player(id, start_s ?? 0, { onPlay: () => this.isHeated && this.choose(null), onUnplayable: () => this.unplayable() });
    this.figure.replaceChildren(this.film.video, this.still, this.canvas);
    this.stage.append(this.film.bar);
    if (this.hit) this.film.mark([this.hit]);
    if (!this.query) return;
    get(`items/${encodeURIComponent(id)}/moments`, { q: this.query }, this.aborting.signal).then(
      (moments) => this.film?.mark(moments.filter(({ item_id: at, confidence }) => at === id || confidence === null || confidence >= LEAST_SURE)),
      () => {}, // the moment itself is marked all the same
    );
  }

  unplayable() {
    if (!this.film?.video.getAttribute("src")) return;
    this.film.video.hidden = true;
    this.film.bar.hidden = true;
    this.still.hidden = false;
    this.still.src = thumbnail(this.shown, LARGE_PX);
    this.note = el("p", { class: "note" }, "This browser cannot play the film; shown is its frame.");
    this.panel.append(this.note);
    this.fit();
  }

  /** Make the figure as large as the stage allows. */
  fit() {
    const [width, height] = this.size ?? [4, 3];
    const below = this.film?.bar.offsetHeight ? this.film.bar.offsetHeight + GAP_PX : 0;
    const room = [this.stage.clientWidth, this.stage.clientHeight - below];
    const scale = Math.min(room[0] / width, room[1] / height, MOST_ENLARGED);
    const isText = this.figure.classList.contains("text");
    this.figure.style.width = isText ? "" : `${Math.round(width * scale)}px`;
    this.figure.style.height = isText ? "" : `${Math.round(height * scale)}px`;
    if (this.film) this.film.bar.style.width = this.figure.style.width;
    this.zoom.apply();
    this.drawHeat();
  }

  tell(item) {
    const like = (label, keys, isLiked) =>
      el("button", { type: "button", title: `${label} (${keys})`, on: { click: () => this.actions.onLike(item.item_id, isLiked) } }, label);
    const facts = [
      ["Sure", item.confidence != null && percent(item.confidence)],
      ["Score", item.score != null && item.score.toFixed(3)],
      ["Moment", item.kind === "frame" && item.t_start_s != null && stretch(item)],
      ["Taken", item.taken_at && day(item.taken_at)],
      ["Camera", item.camera],
      ["Size", [item.width && item.height && `${item.width} × ${item.height}`, item.bytes && bytes(item.bytes)].filter(Boolean).join(" · ")],
      ["Place", item.gps_lat != null && item.gps_lon != null && this.place(item)],
      ["Changed", item.modified && day(item.modified)],
      ["File", item.path],
    ].filter(([, value]) => value);
    fill(
      this.panel,
      el("h1", {}, nameOf(item.path)),
      item.kind !== "text" && item.text && el("p", { class: "caption" }, item.text),
      el(
        "div",
        { class: "actions" },
        like("More like this", "m", true),
        like("Less like this", "l", false),
        el("a", { href: original(item.item_id), target: "_blank", rel: "noopener" }, "Original"),
      ),
      this.why(item),
      el("dl", {}, ...facts.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)])),
      item.pair && this.pair(item.pair),
      this.note,
    );
    if (this.isHeated) this.explain();
  }

  place(item) {
    const label = `${item.gps_lat.toFixed(4)}, ${item.gps_lon.toFixed(4)}`;
    return el("button", { type: "button", class: "link", title: "What was taken near", on: { click: () => this.actions.onNear(item) } }, label);
  }

  pair(id) {
    return el("a", { class: "pair", href: this.actions.addressOf(id) }, el("img", { alt: "", src: thumbnail(id, 320) }), "belongs to this picture");
  }

  /** Return the buttons of the heat map, where there is a text that a picture could show. */
  why(item) {
    const isTold = item.kind !== "text" && split(this.query).some((term) => term.sign === "+" && !term.item);
    if (!isTold) return null;
    this.maps = el("div", { class: "maps", role: "radiogroup", "aria-label": "Where it shows" });
    this.reason = el("p", { class: "note", role: "status" });
    const ask = el("button", { type: "button", class: "ask", title: "Show where (h)", on: { click: () => this.toggleHeat() } }, "Show where");
    this.maps.append(ask);
    return el("section", { class: "why" }, el("h2", {}, "Why"), this.maps, this.reason);
  }

  toggleHeat() {
    this.isHeated = !this.isHeated;
    if (!this.isHeated || this.explained) this.choose(this.isHeated ? 0 : null);
    else this.explain();
  }

  async explain() {
    if (!this.maps) return;
    const { maps, reason } = this;
    const { signal } = this.aborting;
    reason.textContent = "Looking …";
    try {
      this.explained = await get(`items/${encodeURIComponent(this.shown)}/explain`, { q: this.query }, signal);
    } catch (problem) {
      if (problem.name !== "AbortError") reason.textContent = `${problem.message}.`;
      return;
    }
    const { text, score, words, weights } = this.explained;
    reason.textContent = "Bright is where the encoder sees the text, or the word, more than other texts. Beside a word stands what it adds to the score.";
    const names = [["all", text, score.toFixed(3)]];
    words.forEach((word, at) => names.push([word, word, `${weights[at] < 0 ? "−" : "+"}${Math.abs(weights[at]).toFixed(3)}`]));
    maps.replaceChildren(
      ...names.map(([label, title, told], at) =>
        el("label", { title }, el("input", { type: "radio", name: "map", value: at, on: { change: () => this.choose(at) } }), label, el("small", {}, told)),
      ),
      el("label", {}, el("input", { type: "radio", name: "map", value: "off", on: { change: () => this.choose(null) } }), "off"),
    );
    this.choose(0);
  }

  /** Show a map, 0 the whole text's and from 1 on the words', or none. */
  choose(map) {
    this.map = map;
    this.isHeated = map !== null;
    const button = this.maps?.querySelector(`input[value="${map ?? "off"}"]`);
    if (button) button.checked = true;
    this.figure.classList.toggle("heated", this.isHeated && Boolean(this.explained));
    if (this.still && this.film && !this.film.video.hidden) {
      this.still.hidden = !this.isHeated;
      if (this.isHeated) this.film.video.pause();
    }
    this.drawHeat();
  }

  drawHeat() {
    if (!this.canvas?.clientWidth || !this.explained || !this.isHeated) return;
    const { heat, word_heat: ofWords, grid, frame } = this.explained;
    draw(this.canvas, this.map ? ofWords[this.map - 1] : heat, grid, frame);
  }

  toggleDetails() {
    this.dialog.classList.toggle("bare");
  }

  key(event) {
    if (event.altKey || event.ctrlKey || event.metaKey || event.target.closest("video")) return;
    if (event.key.startsWith("Arrow") && event.target.closest("input")) return;
    const act = {
      ArrowLeft: () => !this.back.disabled && this.actions.onStep(-1),
      ArrowRight: () => !this.on.disabled && this.actions.onStep(1),
      h: () => this.toggleHeat(),
      i: () => this.toggleDetails(),
      m: () => this.actions.onLike(this.shown, true),
      l: () => this.actions.onLike(this.shown, false),
      " ": () => this.film.toggle(),
    }[event.key];
    if (!act || (event.key === " " && (!this.film || event.target.closest("button, a, [type=radio]")))) return;
    event.preventDefault();
    act();
  }
}

function complaint(problem) {
  return [
    el("h1", {}, "It cannot be shown"),
    el("p", {}, problem.message),
    problem.remedy && el("p", { class: "note" }, problem.remedy),
  ];
}
