// A film that starts at the moment that was found, and its time line with all the moments that were.

import { original, thumbnail } from "./api.js";
import { el } from "./dom.js";
import { clock, percent, stretch } from "./format.js";

/** Marks are as opaque as a moment is sure, but none is fainter than this. */
const FAINTEST = 0.3;

/**
 * Return `{ video, line, mark, seek }` for a frame's film: a player that starts at `start_s`, and a time line below it.
 * `mark(moments)` shows the stretches that were found; `onUnplayable()` is told if the browser cannot play it.
 */
export function player(id, start_s, onUnplayable) {
  const video = el("video", {
    controls: true,
    playsinline: true,
    preload: "metadata",
    poster: thumbnail(id, 640),
    src: original(id),
    "aria-label": "Film",
  });
  const head = el("span", { class: "head" });
  const marks = el("div", { class: "marks" });
  const time = el("output", { class: "time", "aria-label": "Time" });
  const line = el("div", { class: "line", role: "group", "aria-label": "Time line" }, marks, head, time);
  let found = [];

  const share = (at_s) => `${(100 * at_s) / video.duration}%`;
  const seek = (at_s) => {
    video.currentTime = at_s;
    video.play().catch(() => {}); // without a gesture of the person the browser may refuse to
  };
  const lay = () => {
    if (!(video.duration > 0 && video.duration < Infinity)) return;
    marks.replaceChildren(
      ...found.map((moment) => {
        const sure = moment.confidence === null ? "" : `, ${percent(moment.confidence)} sure`;
        const mark = el("button", {
          type: "button",
          title: `${stretch(moment)}${sure}`,
          "aria-label": `Moment at ${stretch(moment)}${sure}`,
          on: { click: () => seek(moment.t_start_s) },
        });
        mark.style.left = share(moment.t_start_s);
        mark.style.width = share(moment.t_end_s - moment.t_start_s);
        mark.style.setProperty("--sure", Math.max(FAINTEST, moment.confidence ?? 1));
        return mark;
      }),
    );
  };
  const tick = () => {
    head.style.left = share(video.currentTime || 0);
    time.textContent = `${clock(video.currentTime || 0, true)} / ${clock(video.duration || 0, true)}`;
  };
  video.addEventListener("loadedmetadata", () => {
    lay();
    video.currentTime = start_s;
    if (!matchMedia("(prefers-reduced-motion: reduce)").matches) video.play().catch(() => {});
  });
  for (const event of ["timeupdate", "seeking", "durationchange"]) video.addEventListener(event, tick);
  video.addEventListener("error", onUnplayable);
  line.addEventListener("click", (event) => {
    if (event.target.closest("button") || !(video.duration > 0)) return;
    const box = line.getBoundingClientRect();
    seek(((event.clientX - box.left) / box.width) * video.duration);
  });
  const mark = (moments) => {
    found = moments.toSorted((one, other) => one.t_start_s - other.t_start_s);
    lay();
  };
  return { video, line, mark, seek };
}
