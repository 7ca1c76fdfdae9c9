// The page: the address says what is asked and open, and everything shown follows from it.

import { get } from "./api.js";
import { el, fill } from "./dom.js";
import { bytes, count, percent } from "./format.js";
import { Grid } from "./grid.js";
import { commonFolder, showLibrary } from "./library.js";
import { FILTERS, address, isAsked, parameters, read } from "./place.js";
import { apart, joined } from "./query.js";
import { Results } from "./results.js";
import { Terms } from "./terms.js";
import { Viewer } from "./viewer.js";

const TYPING_MS = 150;
const KEPT_ANSWERS = 12;
const MOST_PICTURES = 4;
const MOST_BYTES = 32e6;
/** What is judged to be unlike counts half of what is asked, as in `xsearch query --less-like`. */
const UNLIKE = 0.5;
const NEAR_KM = 5;

const of = (id) => document.getElementById(id);
const [box, filters, status, notice, busy] = ["box", "filters", "status", "notice", "busy"].map(of);

let place = read(location.search);
/** Files that were given to search with, for as long as the page stays: an address cannot hold them. */
const files = new Map();
/** What the box and the terms stand for: they are filled only from an address that says something else. */
let said = "";
let results = null;
let pending = null;
let typing = 0;
let isTyping = false;
const answers = new Map();

history.scrollRestoration = "manual";

const terms = new Terms(of("terms"), {
  onChange: ({ isTyping: goesOn }) => asked(goesOn),
  onDrop: (key) => go({ nearest: "" }, { pictures: pictureKeys().filter((other) => other !== key) }),
});

const grid = new Grid(of("grid"), {
  addressOf: (hit) => address({ ...place, item: hit.item_id }),
  onOpen: (at) => go({ item: results.hits[at].item_id }, { opened: true }),
  onNearEnd: more,
});

const viewer = new Viewer(of("viewer"), {
  onClose: () => (history.state?.opened ? history.back() : go({ item: "" }, { isReplaced: true })),
  onStep: (step) => {
    const hit = results?.hits[indexOf(viewer.id) + step];
    if (hit) go({ item: hit.item_id }, { isReplaced: true, opened: history.state?.opened });
  },
  onLike: (id, isLiked) => {
    const rest = isLiked ? "" : place.q;
    const term = { sign: isLiked ? "+" : "-", weight: isLiked ? 1 : UNLIKE, item: id, text: "" };
    go({ q: joined(rest, [term]), item: "", nearest: "" }, { pictures: isLiked ? [] : pictureKeys() });
  },
  onNear: (item) => go({ near: `${item.gps_lat.toFixed(4)},${item.gps_lon.toFixed(4)},${NEAR_KM}`, q: "", item: "", nearest: "" }, { pictures: [] }),
  addressOf: (id) => address({ ...place, item: id }),
});

function pictureKeys() {
  return (history.state?.pictures ?? []).filter((key) => files.has(key));
}

function pictures() {
  return pictureKeys().map((key) => files.get(key));
}

/** Go to another place: its difference from this one, and what only this page knows of it. */
function go(change, { isReplaced = false, opened = false, pictures: keys = pictureKeys() } = {}) {
  place = { ...place, view: "", ...change };
  history[isReplaced ? "replaceState" : "pushState"]({ opened, pictures: keys }, "", address(place));
  isTyping = false;
  show();
}

/** Ask what stands in the box and the terms. While somebody types, one entry of the history changes. */
function asked(goesOn) {
  said = joined(box.value, terms.terms);
  const isReplaced = goesOn && isTyping;
  if (said !== place.q || place.view) go({ q: said, item: "", nearest: "" }, { isReplaced });
  isTyping = goesOn;
}

/** Show what the address says; `isBack` if one came here through the history. */
function show(isBack = false) {
  const isLibrary = place.view === "library";
  if (place.q !== said) {
    const [draft, rest] = apart(place.q);
    box.value = draft;
    terms.set(rest, pictures(), Boolean(place.q));
    said = place.q;
  } else {
    terms.set(terms.terms, pictures(), Boolean(place.q));
  }
  of("found").hidden = isLibrary;
  of("library").hidden = !isLibrary;
  of("library-link").toggleAttribute("aria-current", isLibrary);
  document.title = place.q ? `${place.q} · xsearch` : isLibrary ? "Library · xsearch" : "xsearch";
  showFilters();
  if (isLibrary) showLibrary(of("library")).catch((problem) => fill(of("library"), el("p", {}, said_of(problem))));
  else ask(isBack);
  showItem();
}

function ask(isBack) {
  const key = JSON.stringify([parameters(place, pictures()), pictureKeys()]);
  clearTimeout(typing);
  const known = answers.get(key);
  if (known && known === results && !pending) {
    rest();
    if (results.nearest !== place.nearest) present();
    if (isBack) scrollTo(0, results.scrollY);
    return;
  }
  // Not again what is under way.
  if (pending?.key === key) return;
  of("found").setAttribute("aria-busy", "true");
  if (known?.hits.length || isBack) search(key, isBack);
  else typing = setTimeout(() => search(key, isBack), box === document.activeElement ? TYPING_MS : 0);
}

async function search(key, isBack) {
  pending?.results.abort();
  const next = answers.get(key) ?? new Results(parameters(place, pictures()), pictures().map(({ file }) => file));
  const mine = (pending = { key, results: next });
  busy.hidden = false;
  try {
    if (!next.hits.length) await next.more();
    if (pending !== mine) return;
    keep(key, next);
    results = next;
    const y = isBack ? next.scrollY : 0;
    present();
    scrollTo(0, y);
  } catch (problem) {
    if (problem.name === "AbortError" || pending !== mine) return;
    status.textContent = said_of(problem);
    status.classList.add("wrong");
  }
  pending = null;
  rest();
}

function rest() {
  busy.hidden = true;
  of("found").setAttribute("aria-busy", "false");
}

function keep(key, next) {
  answers.delete(key);
  answers.set(key, next);
  if (answers.size > KEPT_ANSWERS) answers.delete(answers.keys().next().value);
}

function isPoor() {
  return isAsked(place, pictures()) && !results.goodMatch && results.hits.length > 0;
}

/** Show the results that there are. */
function present() {
  const { hits } = results;
  results.nearest = place.nearest;
  const isShown = hits.length > 0 && (!isPoor() || Boolean(place.nearest));
  grid.root.hidden = !isShown;
  grid.show(isShown ? hits : [], isAsked(place, pictures()));
  tell();
  notice.hidden = isShown;
  if (isShown) notice.replaceChildren();
  else if (hits.length) {
    const what = place.q ? `No good match for “${place.q}”` : "No good match for this picture";
    const nearest = () => go({ nearest: "1" }, { isReplaced: true });
    fill(
      notice,
      el("h2", {}, what),
      el("p", {}, "Nothing stands out from what this library has for anything at all."),
      el("button", { type: "button", on: { click: nearest } }, "Show the nearest anyway"),
    );
  } else {
    const cleared = Object.fromEntries(FILTERS.map((name) => [name, read("")[name]]));
    fill(
      notice,
      el("h2", {}, "Nothing found"),
      el("p", {}, filterCount() ? "No item meets the filters." : "The library holds no items yet: xsearch index FOLDER takes them in."),
      filterCount() > 0 && el("button", { type: "button", on: { click: () => go(cleared) } }, "Clear the filters"),
    );
  }
  viewerBounds();
}

function tell() {
  const { hits, isWhole } = results;
  const sure = Math.max(...hits.map((hit) => hit.confidence ?? 0), 0);
  const counted = (noun) => (isWhole ? count(hits.length, noun) : `${hits.length.toLocaleString("en")}+ ${noun}s`);
  status.classList.remove("wrong");
  if (!hits.length) status.textContent = "Nothing found";
  else if (!isAsked(place, pictures())) status.textContent = `From your library: ${counted("item")}`;
  else if (isPoor()) status.textContent = place.nearest ? "No good match: these are the nearest" : "No good match";
  else status.textContent = `${counted("result")}${sure ? `, the best ${percent(sure)} sure` : ""}`;
}

async function more() {
  const mine = results;
  if (!mine || mine.isWhole || mine.loading || grid.root.hidden) return;
  try {
    await mine.more();
  } catch (problem) {
    if (problem.name !== "AbortError") status.textContent = said_of(problem);
    return;
  }
  if (mine !== results) return;
  grid.grow();
  tell();
  viewerBounds();
}

function said_of(problem) {
  const told = [problem.message, problem.remedy].filter(Boolean).join("; ");
  return told.charAt(0).toUpperCase() + told.slice(1);
}

// The viewer.

function indexOf(id) {
  return results ? results.hits.findIndex((hit) => hit.item_id === id) : -1;
}

function showItem() {
  if (!place.item) {
    const at = indexOf(viewer.id);
    const wasOpen = Boolean(viewer.id);
    viewer.close();
    if (wasOpen && at >= 0 && !grid.root.hidden) grid.focus(at);
  } else if (viewer.id !== place.item) {
    viewer.open(place.item, results?.hits[indexOf(place.item)] ?? null, place.q);
    viewerBounds();
  }
}

function viewerBounds() {
  if (!place.item || !results) return;
  const at = indexOf(place.item);
  viewer.bound(at > 0, at >= 0 && at < results.hits.length - 1);
  if (at > results.hits.length - 10) more();
}

// Filters.

function filterCount() {
  const nothing = read("");
  return FILTERS.filter((name) => place[name] !== nothing[name]).length;
}

function showFilters() {
  for (const name of FILTERS) {
    const control = filters.elements[name];
    if (name === "folder" && ![...control.options].some(({ value }) => value === place.folder)) {
      control.append(el("option", { value: place.folder }, place.folder));
    }
    if (control.value !== place[name]) control.value = place[name];
  }
  of("filter-count").hidden = !filterCount();
  of("filter-count").textContent = filterCount();
}

let folders = null;

async function offerFolders() {
  folders ??= get("facets");
  const found = (await folders).folders.toSorted((one, other) => one.path.localeCompare(other.path));
  const base = commonFolder(found.map(({ path }) => path));
  const options = found.map(({ path, count: n }) => el("option", { value: path, title: path }, `${path.slice(base.length) || path} (${n})`));
  fill(filters.elements.folder, el("option", { value: "" }, "All folders"), ...options);
  showFilters();
}

of("filter-button").addEventListener("click", () => {
  filters.hidden = !filters.hidden;
  of("filter-button").setAttribute("aria-expanded", String(!filters.hidden));
  if (filters.hidden) return;
  filters.elements.kind.focus();
  offerFolders().catch(() => (folders = null)); // the other filters do without
});
filters.addEventListener("change", ({ target }) => go({ [target.name]: target.value.trim(), nearest: "" }));
filters.addEventListener("submit", (event) => event.preventDefault());
filters.addEventListener("reset", (event) => {
  event.preventDefault();
  go({ ...Object.fromEntries(FILTERS.map((name) => [name, read("")[name]])), nearest: "" });
});

// The box, and pictures that are chosen, dropped or pasted.

box.addEventListener("input", () => asked(true));
of("search").addEventListener("submit", (event) => {
  event.preventDefault();
  // What was typed as several terms comes apart into them.
  const [draft, rest] = apart(joined(box.value, terms.terms));
  box.value = draft;
  terms.set(rest, pictures(), Boolean(place.q));
  answers.clear(); // meanwhile there may be more in the library
  asked(false);
  show();
  if (matchMedia("(pointer: coarse)").matches) box.blur(); // the keyboard covers half of the screen
});

function take(given) {
  const found = [...given].filter((file) => file.type.startsWith("image/") || /\.(hei[cf]|avif|jp2|tiff?)$/i.test(file.name));
  const fitting = found.filter((file) => file.size <= MOST_BYTES);
  if (!fitting.length) {
    status.textContent = found.length ? `A picture to search with has at most ${bytes(MOST_BYTES)}` : "That is not a picture";
    status.classList.add("wrong");
    return;
  }
  const keys = fitting.map((file) => {
    const key = crypto.randomUUID?.() ?? `${Date.now()} ${files.size}`; // absent where the page is not on a secure address
    files.set(key, { key, file, url: URL.createObjectURL(file) });
    return key;
  });
  go({ item: "", nearest: "" }, { pictures: [...pictureKeys(), ...keys].slice(-MOST_PICTURES) });
}

of("pick").addEventListener("click", () => of("file").click());
of("file").addEventListener("change", () => {
  take(of("file").files);
  of("file").value = "";
});
document.addEventListener("paste", (event) => {
  if (!event.clipboardData.files.length) return;
  event.preventDefault();
  take(event.clipboardData.files);
});

const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
document.addEventListener("dragover", (event) => {
  if (!hasFiles(event)) return;
  event.preventDefault();
  of("drop").hidden = false;
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) of("drop").hidden = true;
});
document.addEventListener("drop", (event) => {
  of("drop").hidden = true;
  if (!hasFiles(event)) return;
  event.preventDefault();
  take(event.dataTransfer.files);
});

// Keys, links and the history.

document.addEventListener("keydown", (event) => {
  if (viewer.id || event.altKey || event.ctrlKey || event.metaKey) return;
  const isWriting = event.target.closest("input, select, textarea");
  if (event.key === "/" && !isWriting) {
    event.preventDefault();
    box.focus();
    box.select();
  } else if (event.key === "ArrowDown" && event.target === box) {
    event.preventDefault();
    grid.focus();
  } else if (event.key === "Escape" && event.target === box) {
    event.preventDefault(); // it would empty the box
    box.blur();
  } else if (event.key === "Escape" && !filters.hidden) {
    of("filter-button").click();
    of("filter-button").focus();
  } else if (event.key === "Escape") {
    if (place.view) go({});
    box.focus();
  } else if (!isWriting && event.target === document.body && event.key.startsWith("Arrow") && !grid.root.hidden) {
    event.preventDefault();
    grid.focus();
  }
});

// Links within the page need not load it anew; a click that asks for a new tab gets one.
document.addEventListener("click", (event) => {
  const link = event.target.closest("a[href]");
  if (!link || event.defaultPrevented || link.target || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
  const to = new URL(link.href.baseVal ?? link.href, location.href);
  if (to.origin !== location.origin || to.pathname !== location.pathname || to.hash) return;
  event.preventDefault();
  go({ ...read(to.search) }, { pictures: [] });
  scrollTo(0, 0);
});

addEventListener("popstate", () => {
  place = read(location.search);
  isTyping = false;
  show(true);
});
addEventListener("scroll", () => results && !of("found").hidden && (results.scrollY = scrollY), { passive: true });

history.replaceState({ pictures: [] }, "", address(place));
show(true);
