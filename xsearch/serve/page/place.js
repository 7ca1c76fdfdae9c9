// Where one is: what is asked, how it is filtered, and what is open. The address of the page says all of it.

const DEFAULTS = {
  q: "", kind: "any", group: "moment", from: "", to: "", folder: "", size: "", near: "", nearest: "", view: "", item: "",
};

export const FILTERS = ["kind", "group", "from", "to", "folder", "size", "near"];

const DAY = /^\d{4}-\d\d-\d\d$/;
const DAY_MS = 86_400_000;

/** What is asked where nothing is: so that one can look around in a library. */
const BROWSING = "a photo";

export function read(search) {
  const given = new URLSearchParams(search);
  return Object.fromEntries(Object.entries(DEFAULTS).map(([name, value]) => [name, given.get(name) ?? value]));
}

/** Return the address of a place, relative to the page. */
export function address(place) {
  const said = new URLSearchParams();
  for (const [name, value] of Object.entries(DEFAULTS)) if (place[name] !== value) said.set(name, place[name]);
  return said.size ? `?${said}` : "./";
}

export function isAsked(place, pictures) {
  return Boolean(place.q || pictures.length);
}

/** Return what the API is asked for at a place. */
export function parameters(place, pictures) {
  const asked = { kind: place.kind, group: place.group };
  if (place.q) asked.q = place.q;
  else if (!pictures.length) asked.q = BROWSING;
  const where = condition(place);
  if (where) asked.where = where;
  if (place.near) asked.near = place.near;
  return asked;
}

/** Return the filters as a condition on metadata. */
function condition({ from, to, folder, size }) {
  const said = [];
  if (DAY.test(from)) said.push(`taken_at >= '${from}'`);
  if (DAY.test(to)) said.push(`taken_at < '${nextDay(to)}'`);
  if (folder) said.push(`starts_with(path, '${`${folder.replace(/\/$/, "")}/`.replaceAll("'", "''")}')`);
  if (Number(size) > 0) said.push(`width * height >= ${Math.round(Number(size) * 1e6)}`);
  return said.join(" AND ");
}

function nextDay(day) {
  const date = new Date(`${day}T00:00:00Z`);
  return Number.isNaN(date.valueOf()) ? day : new Date(date.valueOf() + DAY_MS).toISOString().slice(0, 10);
}
