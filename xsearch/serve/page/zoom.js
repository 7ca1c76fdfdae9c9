// A picture under fingers, mouse and wheel: zoom, pan, and swipe to the next one.

const MOST = 8;
const SWIPE_PX = 60;
const CLOSE_UP = 2.5;

export class Zoom {
  /** `onSwipe(step)` is told of a swipe to the next (1) or the one before (-1). */
  constructor(stage, onSwipe) {
    this.stage = stage;
    this.onSwipe = onSwipe;
    this.pointers = new Map();
    stage.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    stage.addEventListener("dblclick", (event) => this.target && this.at(event, this.scale > 1 ? 1 : CLOSE_UP));
    stage.addEventListener("pointerdown", (event) => this.down(event));
    stage.addEventListener("pointermove", (event) => this.move(event));
    for (const end of ["pointerup", "pointercancel"]) stage.addEventListener(end, (event) => this.up(event));
  }

  /** Begin anew with another element in the middle of the stage, or with none. */
  take(target) {
    this.target = target;
    this.pointers.clear();
    [this.scale, this.x, this.y] = [1, 0, 0];
    this.apply();
  }

  /** Zoom to a scale around a point of the window. */
  at({ clientX, clientY }, scale) {
    const box = this.stage.getBoundingClientRect();
    const [x, y] = [clientX - box.left - box.width / 2, clientY - box.top - box.height / 2];
    const to = Math.min(Math.max(scale, 1), MOST);
    this.x = x - ((x - this.x) * to) / this.scale;
    this.y = y - ((y - this.y) * to) / this.scale;
    this.scale = to;
    this.apply();
  }

  apply() {
    if (!this.target) return;
    const bound = (size, room) => Math.max(0, (size * this.scale - room) / 2);
    const [across, down] = [
      bound(this.target.offsetWidth, this.stage.clientWidth),
      bound(this.target.offsetHeight, this.stage.clientHeight),
    ];
    this.x = Math.min(Math.max(this.x, -across), across);
    this.y = Math.min(Math.max(this.y, -down), down);
    this.target.style.transform = this.scale > 1 ? `translate(${this.x}px, ${this.y}px) scale(${this.scale})` : "";
    this.stage.classList.toggle("zoomed", this.scale > 1);
  }

  wheel(event) {
    if (!this.target) return;
    event.preventDefault();
    this.at(event, this.scale * Math.exp(-event.deltaY / 400));
  }

  down(event) {
    if (event.target.closest("button, a, input") || event.button) return;
    this.pointers.set(event.pointerId, event);
    this.start = event;
    if (this.scale > 1) this.stage.setPointerCapture(event.pointerId);
  }

  move(event) {
    const before = this.pointers.get(event.pointerId);
    if (!before || !this.target) return;
    const others = [...this.pointers.values()].filter((one) => one.pointerId !== event.pointerId);
    if (others.length) {
      const [other] = others;
      const [was, is] = [distance(before, other), distance(event, other)];
      const middle = { clientX: (event.clientX + other.clientX) / 2, clientY: (event.clientY + other.clientY) / 2 };
      this.start = null;
      if (was) this.at(middle, (this.scale * is) / was);
    } else if (this.scale > 1) {
      this.x += event.clientX - before.clientX;
      this.y += event.clientY - before.clientY;
      this.apply();
    }
    this.pointers.set(event.pointerId, event);
  }

  up(event) {
    if (!this.pointers.delete(event.pointerId)) return;
    const start = this.start;
    this.start = null;
    if (!start || start.pointerId !== event.pointerId || event.pointerType === "mouse" || this.scale > 1) return;
    const [across, down] = [event.clientX - start.clientX, event.clientY - start.clientY];
    if (Math.abs(across) > SWIPE_PX && Math.abs(across) > 2 * Math.abs(down)) this.onSwipe(across < 0 ? 1 : -1);
  }
}

function distance(one, other) {
  return Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY);
}
