// A film that starts at the moment that was found, and its time line with all the moments that were.

import { original, thumbnail } from "./api.js";
import { el, icon } from "./dom.js";
import { clock, percent, stretch } from "./format.js";

/** Marks are as opaque as a moment is sure, but none is fainter than this. */
const FAINTEST = 0.3;
const STEP_S = 0.1;

const PLAY = "M8 5.5v13l10.5-6.5z";
const PAUSE = "M8.5 6v12M15.5 6v12";
const SOUND = "M4 9.5v5h3.5l5 4v-13l-5 4zM16 9a4.2 4.2 0 0 1 0 6";
const MUTED = "M4 9.5v5h3.5l5 4v-13l-5 4zM16 9.5l5 5m0-5-5 5";
const FULL = "M4.5 9.5v-5h5m5 0h5v5m0 5v5h-5m-5 0h-5v-5";

/**
 * Return `{ video, bar, mark, toggle }` for a frame's film: a player that starts at `start_s`, and what it is controlled
 * with. `mark(moments)` shows the stretches that were found, `toggle()` plays or pauses; `onPlay()` is told when it
 * plays, `onUnplayable()` if the browser cannot play it.
 */
export function player(id, start_s, { onPlay, onUnplayable }) {
  const video = el("video", { playsinline: true, preload: "metadata", poster: thumbnail(id, 640), src: original(id), "aria-label": "Film" });
  const play = () => video.play().catch(() => {}); // without a gesture of the person the browser may refuse to
  const toggle = () => (video.paused ? play() : video.pause());
  const button = (name, click) => el("button", { type: "button", class: name, on: { click } });
  const playing = button("play", toggle);
  const sound = button("sound", () => (video.muted = !video.muted));
  const full = button("full", () => (video.requestFullscreen ?? video.webkitEnterFullscreen).call(video));
  const slider = el("input", { type: "range", min: 0, max: 0, step: STEP_S, value: 0, "aria-label": "Time" });
  const marks = el("div", { class: "marks" });
  const head = el("span", { class: "head" });
  const time = el("span", { class: "time" });
  const bar = el(
    "div",
    { class: "player", role: "group", "aria-label": "Player" },
    el("div", { class: "line" }, slider, marks, head),
    el("div", { class: "controls" }, playing, time, sound, full),
  );
  let found = [];

  const isTimed = () => video.duration > 0 && video.duration < Infinity;
  const share = (at_s) => `${(100 * at_s) / video.duration}%`;
  const lay = () => {
    if (!isTimed()) return;
    slider.max = video.duration;
    marks.replaceChildren(
      ...found.map((moment) => {
        const sure = moment.confidence === null ? "" : `, ${percent(moment.confidence)} sure`;
        const seek = () => {
          video.currentTime = moment.t_start_s;
          play();
        };
        const label = `${stretch(moment)}${sure}`;
        const mark = el("button", { type: "button", title: label, "aria-label": `Moment at ${label}`, on: { click: seek } });
        mark.style.left = share(moment.t_start_s);
        mark.style.width = share(moment.t_end_s - moment.t_start_s);
        mark.style.setProperty("--sure", Math.max(FAINTEST, moment.confidence ?? 1));
        return mark;
      }),
    );
  };
  const tick = () => {
    if (!isTimed()) return;
    head.style.left = share(video.currentTime);
    slider.value = video.currentTime;
    time.textContent = `${clock(video.currentTime)} / ${clock(video.duration)}`;
    slider.setAttribute("aria-valuetext", `${clock(video.currentTime)} of ${clock(video.duration)}`);
  };
  let frame = 0;
  const follow = () => {
    tick();
    cancelAnimationFrame(frame);
    if (!video.paused) frame = requestAnimationFrame(follow);
  };
  const show = (control, path, label) => {
    control.replaceChildren(icon(path));
    control.setAttribute("aria-label", label);
    control.title = label;
  };
  const tell = () => {
    show(playing, video.paused ? PLAY : PAUSE, video.paused ? "Play" : "Pause");
    show(sound, video.muted ? MUTED : SOUND, video.muted ? "Sound on" : "Sound off");
  };

  show(full, FULL, "Full screen");
  tell();
  video.addEventListener("loadedmetadata", () => {
    lay();
    video.currentTime = start_s;
    if (!matchMedia("(prefers-reduced-motion: reduce)").matches) play();
  });
  for (const event of ["seeking", "durationchange", "playing"]) video.addEventListener(event, follow);
  for (const event of ["play", "pause", "volumechange"]) video.addEventListener(event, tell);
  video.addEventListener("play", onPlay);
  video.addEventListener("click", toggle);
  video.addEventListener("error", onUnplayable);
  // Of the whole screen there is only the film: there the browser's own controls have to do.
  video.addEventListener("fullscreenchange", () => (video.controls = document.fullscreenElement === video));
  slider.addEventListener("input", () => (video.currentTime = slider.value));
  const mark = (moments) => {
    found = moments.toSorted((one, other) => one.t_start_s - other.t_start_s);
    lay();
  };
  return { video, bar, mark, toggle };
}
