/** Where we are: the hash of the address, so that every page has a link and a static host needs no rules. */
import { untrack } from "svelte";

export interface Route {
  /** Parts of the path, decoded. */
  path: string[];
  query: URLSearchParams;
}

function parse(hash: string): Route {
  const [path, query = ""] = hash.replace(/^#\/?/, "").split(/\?(.*)/s);
  return {
    path: path.split("/").filter(Boolean).map(decoded),
    query: new URLSearchParams(query),
  };
}

function decoded(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part; // an address typed by hand
  }
}

class Router {
  route = $state.raw(parse(location.hash));

  constructor() {
    addEventListener("hashchange", () => (this.route = parse(location.hash)));
  }

  /** Changes what the query says without a new entry in the history. */
  setQuery(values: Record<string, string | undefined>): void {
    const { path, query: before } = untrack(() => this.route);
    const query = new URLSearchParams(before);
    for (const [name, value] of Object.entries(values))
      if (value === undefined || value === "") query.delete(name);
      else query.set(name, value);
    if (query.toString() === before.toString()) return;
    history.replaceState(null, "", link(path, query));
    this.route = { path, query };
  }
}

export const router = new Router();

/** The address of a page of ours. */
export function link(
  path: readonly (string | number)[],
  query?: URLSearchParams | Record<string, string>,
): string {
  const search = new URLSearchParams(query).toString();
  return `#/${path.map((part) => encodeURIComponent(part)).join("/")}${search === "" ? "" : `?${search}`}`;
}

export function go(path: readonly (string | number)[], query?: Record<string, string>): void {
  location.hash = link(path, query);
}
