// The query language, as far as the page has to know it: a query taken apart into terms, and put together again.
// The server reads it for good; what it would refuse passes here as it stands.

const NEXT_SIGN = /\\.|(?<![^\s:])"(?:\\.|[^"\\])*"|(?<!\S)([+-])(?!\S)/gsu;
const WEIGHT = /^((?:\d+(?:\.\d+)?|\.\d+)(?:e[+-]?\d+)?):(?=[\p{L}"'])/iu;
const ITEM = /^item:([0-9a-f]{16})$/;
const PLAIN = /^\p{L}[\p{L}\p{N}\s,.!?()]*$/u;

/**
 * A term is `{ raw, sign, weight, item, text }`: as it is written without its sign, "+" or "-", a number, and the id of
 * an item or a text.
 */
export function split(query) {
  const terms = [];
  let sign = "+";
  let from = 0;
  const first = /^\s*([+-])(?=\s|[\p{L}"'])/u.exec(query);
  if (first) {
    sign = first[1];
    from = first[0].length;
  }
  const push = (to) => {
    const raw = query.slice(from, to).trim();
    if (raw) terms.push(term(raw, sign));
  };
  NEXT_SIGN.lastIndex = from;
  for (let found; (found = NEXT_SIGN.exec(query)); ) {
    if (!found[1]) continue;
    push(found.index);
    sign = found[1];
    from = found.index + 1;
  }
  push(query.length);
  return terms;
}

function term(raw, sign) {
  const weight = WEIGHT.exec(raw);
  const body = weight ? raw.slice(weight[0].length) : raw;
  const item = ITEM.exec(body)?.[1];
  const quoted = /^(["'])(.*)\1$/su.exec(body);
  const text = (quoted ? quoted[2] : body).replace(/\\([-+:"'\\])/g, "$1");
  return { raw, sign, weight: weight ? Number(weight[1]) : 1, item, text };
}

/** Return a term without its sign, as the query language has it. */
export function written({ weight, item, text }) {
  const quoted = `"${text.trim().replace(/["\\]/g, "\\$&")}"`;
  const body = item ? `item:${item}` : PLAIN.test(text.trim()) ? text.trim() : quoted;
  return weight === 1 ? body : `${weight}:${body}`;
}

/** Return the query of what stands in the box and the terms beside it. */
export function joined(draft, terms) {
  const rest = terms.filter((one) => one.item || one.text.trim());
  const said = rest.map((one, at) => (at || draft.trim() || one.sign === "-" ? `${one.sign} ` : "") + written(one));
  return [draft.trim(), ...said].filter(Boolean).join(" ");
}

/** Return `[draft, terms]`: a text that begins a query stays in the box, all else becomes a term beside it. */
export function apart(query) {
  const [first, ...rest] = split(query);
  if (!first) return ["", []];
  const stays = first.sign === "+" && first.weight === 1 && !first.item;
  return stays ? [first.raw, rest] : ["", [first, ...rest]];
}
