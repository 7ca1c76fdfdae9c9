// The hits of one query, fetched a page at a time as they are looked at.

import { search } from "./api.js";

const PAGE = 60;
/** The server shows no more of one query. */
const MOST = 10_000;

export class Results {
  /** `parameters` and `pictures` as for `search`. */
  constructor(parameters, pictures) {
    this.hits = [];
    this.isWhole = false;
    this.goodMatch = true;
    this.scrollY = 0;
    this.parameters = parameters;
    this.pictures = pictures;
    this.loading = null;
    this.aborting = new AbortController();
  }

  /** Fetch the next page; together with others that wait for it, once. Throws what `search` throws. */
  more() {
    this.loading ??= this.page().finally(() => (this.loading = null));
    return this.loading;
  }

  /** Let go of what is under way: its answer is not wanted any more. */
  abort() {
    this.aborting.abort();
    this.aborting = new AbortController();
  }

  async page() {
    const offset = this.hits.length;
    const k = Math.min(PAGE, MOST - offset);
    const found = await search({ ...this.parameters, k, offset }, this.pictures, this.aborting.signal);
    if (!offset) this.goodMatch = found.good_match;
    this.hits.push(...found.hits);
    this.isWhole = found.hits.length < k || this.hits.length >= MOST;
  }
}
