// What the page asks the server for, under /api/v1.

const ROOT = "api/v1";

/** What the server says is wrong (RFC 9457), and what mends it. */
export class Problem extends Error {
  constructor(status, { title, detail, remedy }) {
    super(detail || title || `the server answered ${status}`);
    this.status = status;
    this.remedy = remedy || "";
  }
}

export function thumbnail(id, px) {
  return `${ROOT}/items/${encodeURIComponent(id)}/thumbnail?px=${px}`;
}

export function original(id) {
  return `${ROOT}/items/${encodeURIComponent(id)}/original`;
}

export function get(path, parameters = {}, signal = undefined) {
  const said = new URLSearchParams(parameters);
  return answer(`${ROOT}/${path}${said.size ? `?${said}` : ""}`, { signal });
}

/** Return the answer to a query; pictures are files. */
export function search(parameters, pictures, signal) {
  if (!pictures.length) return get("search", parameters, signal);
  const body = new FormData();
  for (const [name, value] of Object.entries(parameters)) body.append(name, value);
  for (const picture of pictures) body.append("image", picture, picture.name || "picture");
  return answer(`${ROOT}/search`, { method: "POST", body, signal });
}

async function answer(address, options) {
  const response = await fetch(address, options).catch((error) => {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, { detail: "The server cannot be reached", remedy: "is `xsearch serve` still running?" });
  });
  if (response.ok) return response.json();
  throw new Problem(response.status, await response.json().catch(() => ({})));
}
