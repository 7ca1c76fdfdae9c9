// The terms of a query beside the box: texts and items to be like or unlike, each with a weight, and pictures.

import { thumbnail } from "./api.js";
import { el, fill, icon } from "./dom.js";
import { written } from "./query.js";

const WEIGHTS = [0.25, 0.5, 1, 2, 4];
const REMOVE = "m7 7 10 10M17 7 7 17";

export class Terms {
  /**
   * `onChange({ isTyping })` is told when the terms are others, `onDrop(key)` when a picture is taken out.
   */
  constructor(list, { onChange, onDrop }) {
    Object.assign(this, { list, onChange, onDrop });
    this.terms = [];
    this.pictures = [];
  }

  /** Show terms as of `query.split`, and pictures `{ key, file, url }`; the places of writing stay where nothing changed. */
  set(terms, pictures, isOffered) {
    const told = (those) => those.map((term) => term.sign + written(term)).join(" ");
    const isSame = told(terms) === told(this.terms) && terms.length === this.terms.length;
    const arePictures = pictures.map(({ key }) => key).join() === this.pictures.map(({ key }) => key).join();
    this.list.hidden = !isOffered && !terms.length && !pictures.length;
    if (isSame && arePictures && this.list.childElementCount) return;
    this.terms = isSame ? this.terms : terms;
    this.pictures = pictures;
    this.render();
  }

  add(sign) {
    this.terms = [...this.terms, { sign, weight: 1, text: "" }];
    this.render();
    this.list.querySelector("li:nth-last-child(2) input").focus();
  }

  render() {
    fill(
      this.list,
      ...this.pictures.map((picture) => this.picture(picture)),
      ...this.terms.map((term) => this.term(term)),
      el(
        "li",
        { class: "more" },
        el("button", { type: "button", on: { click: () => this.add("+") } }, "+ and"),
        el("button", { type: "button", on: { click: () => this.add("-") } }, "− without"),
      ),
    );
  }

  picture({ key, file, url }) {
    const name = file.name || "picture";
    return el(
      "li",
      { class: "term" },
      el("img", { src: url, alt: "" }),
      el("span", {}, name),
      remove(name, () => this.onDrop(key)),
    );
  }

  term(term) {
    const name = term.item ? "picture" : term.text || "new term";
    const change = (said) => {
      Object.assign(term, said);
      this.onChange({ isTyping: false });
    };
    const sign = el("button", { type: "button", class: "sign" });
    const said = () => {
      sign.textContent = term.sign === "+" ? "+" : "−";
      sign.setAttribute("aria-label", `${term.sign === "+" ? "like" : "without"} ${name}: change`);
      row.querySelector("input")?.setAttribute("aria-label", term.sign === "+" ? "And" : "Without");
      row.classList.toggle("without", term.sign === "-");
    };
    sign.addEventListener("click", () => {
      change({ sign: term.sign === "+" ? "-" : "+" });
      said();
    });
    const row = el(
      "li",
      { class: "term" },
      sign,
      term.item ? el("img", { src: thumbnail(term.item, 160), alt: "a picture of the library" }) : this.writing(term),
      el(
        "select",
        { "aria-label": `Weight of ${name}`, on: { change: (event) => change({ weight: Number(event.target.value) }) } },
        ...[...new Set([...WEIGHTS, term.weight])]
          .toSorted((one, other) => one - other)
          .map((weight) => el("option", { value: weight, selected: weight === term.weight }, `${weight} ×`)),
      ),
      remove(name, () => {
        this.terms = this.terms.filter((other) => other !== term);
        this.render();
        this.onChange({ isTyping: false });
      }),
    );
    said();
    return row;
  }

  writing(term) {
    const input = el("input", {
      type: "text",
      value: term.text,
      maxlength: 500,
      size: Math.max(term.text.length, 8),
      spellcheck: "false",
      autocomplete: "off",
    });
    input.addEventListener("input", () => {
      term.text = input.value;
      input.size = Math.max(term.text.length, 8);
      this.onChange({ isTyping: true });
    });
    input.addEventListener("keydown", (event) => event.key === "Enter" && this.onChange({ isTyping: false }));
    return input;
  }
}

function remove(name, click) {
  return el("button", { type: "button", class: "remove", "aria-label": `Remove ${name}`, on: { click } }, icon(REMOVE));
}
