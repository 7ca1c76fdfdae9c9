// Numbers, times and names as people read them.

/** Return the last part of a path, and of a picture in an archive its name there. */
export function nameOf(path) {
  return path.split(/[\\/]/).at(-1) || path;
}

/** Return `0:12`, `1:02:03`. */
export function clock(seconds) {
  const all = Math.floor(seconds);
  const [hours, minutes, rest] = [Math.floor(all / 3600), Math.floor(all / 60) % 60, String(all % 60).padStart(2, "0")];
  return hours ? `${hours}:${String(minutes).padStart(2, "0")}:${rest}` : `${minutes}:${rest}`;
}

/** Return `from–to` of a stretch, or the one time where both are the same second. */
export function stretch({ t_start_s: start, t_end_s: end }) {
  return clock(start) === clock(end) ? clock(start) : `${clock(start)}–${clock(end)}`;
}

export function bytes(n) {
  const units = ["bytes", "kB", "MB", "GB", "TB"];
  let at = 0;
  for (; n >= 1000 && at < units.length - 1; at++) n /= 1000;
  return `${at ? n.toFixed(1) : n} ${units[at]}`;
}

export function count(n, noun) {
  return `${n.toLocaleString("en")} ${noun}${n === 1 ? "" : "s"}`;
}

export function percent(share) {
  return `${Math.round(share * 100)} %`;
}

/** Return a camera's local time, ISO 8601, as a date and a time of day. */
export function day(taken) {
  const date = new Date(taken);
  return Number.isNaN(date.valueOf())
    ? taken
    : date.toLocaleString("en-GB", { dateStyle: "long", timeStyle: taken.length > 10 ? "short" : undefined });
}
