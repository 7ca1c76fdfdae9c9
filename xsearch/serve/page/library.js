// What there is: counts, when and where pictures were taken, how it is searched, and what could not be taken in.

import { get } from "./api.js";
import { el, fill, svg } from "./dom.js";
import { bytes, count, percent } from "./format.js";
import { address, read } from "./place.js";

const SKIPPED_SHOWN = 500;

/** Drawings are as wide as their panel, so that their letters are as large as all others. */
const PANEL = { widest: 1000, narrowest: 260, beside: 76 };
const CHART = { height: 160, head: 22, foot: 22 };
/** Beyond so many months bars would be hairs: then each is a year. */
const MOST_MONTHS = 180;
const MONTHS = ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"];

const MAP = { shape: 0.5, lowest: 240 };
const LEAST_DEGREES = 30;
/** Places nearer to one another on the map are one. */
const APART_PX = 22;
const DEGREE_KM = 111.2;
const NEAR_KM = [5, 50, 500];

/** Fill the element with what the server tells of its library. Throws Problem. */
export async function showLibrary(root) {
  root.setAttribute("aria-busy", "true");
  const [stats, facets, { total, skipped }] = await Promise.all([
    get("stats"),
    get("facets"),
    get("skipped", { k: SKIPPED_SHOWN }),
  ]).finally(() => root.removeAttribute("aria-busy"));
  const { items, index } = stats;
  const width = Math.min(Math.max(root.clientWidth - PANEL.beside, PANEL.narrowest), PANEL.widest);
  fill(
    root,
    el("h1", {}, "Library"),
    el("p", { class: "note" }, stats.data),
    el(
      "ul",
      { class: "cards" },
      card(items.image, "pictures", "image"),
      card(items.frame, "film frames", "frame"),
      card(items.text, "texts", "text"),
      card(total, "files skipped"),
      el("li", {}, el("b", {}, bytes(stats.bytes)), el("span", {}, "on disk")),
    ),
    facets.months.length > 0 && panel("When", timeline(facets.months, width)),
    facets.places.length > 0 && panel("Where", map(facets.places, width)),
    panel("Folders", folders(facets.folders)),
    panel("How it is searched", search(stats, index)),
    panel("Skipped", skippedFiles(stats.skipped, skipped, total)),
  );
}

function panel(title, ...content) {
  return el("section", { class: "panel" }, el("h2", {}, title), ...content);
}

function card(n, noun, kind = "") {
  const told = [el("b", {}, n.toLocaleString("en")), el("span", {}, noun)];
  return el("li", {}, ...(kind && n ? [el("a", { href: to({ kind }) }, ...told)] : told));
}

/** Return the address of the beginning with these filters. */
function to(filters) {
  return address({ ...read(""), ...filters });
}

function search({ encoder, dim, shards, removed_rows: removed }, index) {
  const recall = Object.entries(index.recall ?? {}).map(([modality, share]) => `${percent(share)} for ${modality} queries`);
  const rows = [
    ["Encoder", `${encoder}, ${dim} dimensions`],
    ["Index", index.kind === "exact" ? "exact: every query is compared with every vector" : `${index.kind}, ${count(index.rows, "row")}, ${bytes(index.bytes)}`],
    ["Recall@10", index.kind === "exact" ? "100 %: nothing is approximated" : `${recall.join(", ")}, as measured`],
    ["Stored in", count(shards, "shard") + (removed ? `, ${count(removed, "removed row")}` : "")],
  ];
  return el("dl", {}, ...rows.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
}

function folders(all) {
  const most = Math.max(...all.map((folder) => folder.count), 1);
  const base = commonFolder(all.map((folder) => folder.path));
  const rows = all.slice(0, 24).map(({ path, count: n }) => {
    const meter = el("meter", { value: n, max: most, "aria-label": `${n} of ${most}` });
    const name = path.slice(base.length) || path;
    return el("li", {}, el("a", { href: to({ folder: path }), title: path }, el("bdi", {}, name)), meter, el("span", {}, n.toLocaleString("en")));
  });
  return el("ul", { class: "folders" }, ...rows);
}

/** Return what all paths begin with, up to a slash. */
export function commonFolder(paths) {
  if (paths.length < 2) return "";
  let length = Math.min(...paths.map((path) => path.length));
  for (const path of paths) while (!path.startsWith(paths[0].slice(0, length))) length -= 1;
  return paths[0].slice(0, paths[0].slice(0, length).lastIndexOf("/") + 1);
}

function skippedFiles(reasons, files, total) {
  if (!total) return el("p", {}, "Nothing was left out.");
  const groups = Object.entries(reasons).map(([reason, n]) => {
    const rows = files.filter((file) => file.reason === reason).map(({ path, detail }) => el("li", {}, el("code", {}, path), detail && ` ${detail}`));
    return el("details", {}, el("summary", {}, `${reason} `, el("b", {}, n.toLocaleString("en"))), el("ul", {}, ...rows));
  });
  const rest = total > files.length && el("p", { class: "note" }, `${count(files.length, "file")} of ${total.toLocaleString("en")} named; xsearch stats --skipped names all.`);
  return el("div", { class: "skipped" }, ...groups, rest);
}

/** Return bars by month, or by year where there are many months, each a link to what was taken then. */
export function timeline(months, width) {
  const bars = binned(months);
  const most = Math.max(...bars.map((bar) => bar.count));
  const step = width / bars.length;
  const [base, room] = [CHART.height - CHART.foot, CHART.height - CHART.foot - CHART.head];
  const drawn = bars.map((bar, at) => {
    const height = bar.count ? Math.max(3, (room * bar.count) / most) : 0;
    const shape = svg("rect", { x: at * step + step * 0.1, y: base - height, width: step * 0.8, height, rx: Math.min(3, step / 4) });
    const target = svg("rect", { class: "target", x: at * step, y: 0, width: step, height: base });
    const label = `${bar.name}: ${count(bar.count, "item")}`;
    return bar.count > 0 && svg("a", { href: to({ from: bar.from, to: bar.to }), "aria-label": label }, svg("title", {}, label), target, shape);
  });
  const apart = Math.ceil(70 / step);
  const labels = bars.map((bar, at) => {
    const isFirst = bar.isYear ? at % apart === 0 : bar.from.endsWith("-01-01") || at === 0;
    return isFirst && at * step < width - 30 && svg("text", { x: at * step + 2, y: CHART.height - 5 }, bar.from.slice(0, 4));
  });
  let [shown, free] = [[], -Infinity];
  for (const label of labels.filter(Boolean)) {
    if (Number(label.getAttribute("x")) < free) continue;
    shown.push(label);
    free = Number(label.getAttribute("x")) + 62;
  }
  const scale = svg("text", { x: 2, y: 12 }, `${most.toLocaleString("en")} a ${bars[0].isYear ? "year" : "month"}`);
  const lines = [CHART.head, base].map((y) => svg("line", { x1: 0, x2: width, y1: y + 0.5, y2: y + 0.5 }));
  const names = { class: "timeline", viewBox: `0 0 ${width} ${CHART.height}`, role: "group", "aria-label": "Items by when they were taken" };
  return svg("svg", names, ...lines, scale, ...drawn, ...shown);
}

function binned(months) {
  const counts = new Map(months.filter(({ month }) => /^\d{4}-(0[1-9]|1[0-2])$/.test(month)).map(({ month, count: n }) => [month, n]));
  const number = (month) => Number(month.slice(0, 4)) * 12 + Number(month.slice(5)) - 1;
  const [first, last] = [Math.min(...[...counts.keys()].map(number)), Math.max(...[...counts.keys()].map(number))];
  if (last - first >= MOST_MONTHS) {
    const years = new Map();
    for (const [month, n] of counts) years.set(month.slice(0, 4), (years.get(month.slice(0, 4)) ?? 0) + n);
    return range(Math.floor(first / 12), Math.floor(last / 12)).map((year) => {
      const name = String(year).padStart(4, "0");
      return { name, from: `${name}-01-01`, to: `${name}-12-31`, count: years.get(name) ?? 0, isYear: true };
    });
  }
  return range(first, last).map((at) => {
    const [year, month] = [String(Math.floor(at / 12)).padStart(4, "0"), (at % 12) + 1];
    const key = `${year}-${String(month).padStart(2, "0")}`;
    const days = new Date(Date.UTC(Number(year), month, 0)).getUTCDate();
    return { name: `${MONTHS[month - 1]} ${year}`, from: `${key}-01`, to: `${key}-${days}`, count: counts.get(key) ?? 0 };
  });
}

function range(first, last) {
  return Array.from({ length: last - first + 1 }, (_, at) => first + at);
}

/** Return the places on a map, longitudes and latitudes as they are (plate carrée), each a link to what was taken there. */
export function map(places, width) {
  const view = windowOf(places, Math.max(MAP.shape, MAP.lowest / width));
  const scale = width / view.width;
  const height = view.height * scale;
  const x = (lon) => (lon - view.west) * scale;
  const y = (lat) => (view.north - lat) * scale;
  const step = [0.1, 0.25, 0.5, 1, 2, 5, 10, 30].find((degrees) => degrees * scale >= 70) ?? 30;
  const lines = [];
  for (let lon = Math.ceil(view.west / step) * step; lon <= view.west + view.width; lon += step) {
    lines.push(svg("path", { d: `M${x(lon)} 0V${height}` }), svg("text", { x: x(lon) + 3, y: height - 5 }, degrees(lon, "E", "W")));
  }
  for (let lat = Math.ceil((view.north - view.height) / step) * step; lat <= view.north; lat += step) {
    lines.push(svg("path", { d: `M0 ${y(lat)}H${width}` }), svg("text", { x: 3, y: y(lat) - 3 }, degrees(lat, "N", "S")));
  }
  const least = NEAR_KM.find((radius) => radius > (view.width * DEGREE_KM) / 120) ?? NEAR_KM.at(-1);
  const together = merged(places, APART_PX / scale);
  const most = Math.max(...together.map((place) => place.count));
  const points = together.map((place) => {
    const near = `${place.lat.toFixed(4)},${place.lon.toFixed(4)},${Math.max(least, Math.ceil(1.2 * place.reach_km))}`;
    const label = `${count(place.count, "item")} near ${degrees(place.lat, "N", "S")} ${degrees(place.lon, "E", "W")}`;
    const r = (6 + 14 * Math.sqrt(place.count / most)) * Math.min(width / 700, 1);
    return svg("a", { href: to({ near }), "aria-label": label }, svg("title", {}, label), svg("circle", { cx: x(place.lon), cy: y(place.lat), r }));
  });
  // land.svg has tenths of degrees.
  const land = svg("use", { href: "land.svg#land", class: "land", transform: `translate(${x(0)} ${y(0)}) scale(${scale / 10})` });
  const names = { class: "map", viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": "Map of where items were taken" };
  return svg("svg", names, land, svg("g", { class: "grid" }, ...lines), ...points);
}

/** Return the places with those that are nearer than `degrees` made one: their middle, and how far it is to the farthest. */
function merged(places, degrees) {
  const groups = [];
  for (const place of places) {
    const near = groups.find((group) => Math.hypot(group.lat - place.lat, group.lon - place.lon) < degrees);
    if (!near) {
      groups.push({ ...place, held: [place] });
      continue;
    }
    const share = place.count / (near.count + place.count);
    near.lat += (place.lat - near.lat) * share;
    near.lon += (place.lon - near.lon) * share;
    near.count += place.count;
    near.held.push(place);
  }
  const km = (one, other) =>
    DEGREE_KM * Math.hypot(one.lat - other.lat, (one.lon - other.lon) * Math.cos((one.lat * Math.PI) / 180));
  return groups.map((group) => ({ ...group, reach_km: Math.max(...group.held.map((place) => km(group, place))) }));
}

/** Return the part of the globe with all places; `shape` is the map's height by its width. */
function windowOf(places, shape) {
  const [lats, lons] = [places.map(({ lat }) => lat), places.map(({ lon }) => lon)];
  const [south, north, west, east] = [Math.min(...lats), Math.max(...lats), Math.min(...lons), Math.max(...lons)];
  const width = Math.min(360, Math.max((east - west) * 1.25, ((north - south) * 1.25) / shape, LEAST_DEGREES));
  const height = Math.min(width * shape, 180);
  const centre = { lat: (south + north) / 2, lon: (west + east) / 2 };
  return {
    width,
    height,
    west: Math.min(Math.max(centre.lon - width / 2, -180), 180 - width),
    north: Math.max(Math.min(centre.lat + height / 2, 90), height - 90),
  };
}

function degrees(value, positive, negative) {
  return `${Number(Math.abs(value).toFixed(2))}° ${value < 0 ? negative : positive}`;
}
