/**
 * The page as a static site (lens export --site): the server's answers are files. What would change or
 * compute something is refused with the reason.
 */
import { packTable, unpackTable, type PackedTable } from "../src/packed-table.ts";
import type { SiteDetail } from "../src/server/site.ts";

const meta = document.querySelector<HTMLMetaElement>('meta[name="lens-site"]');
/** Where its files lie; undefined in front of a server. */
export const siteData = meta ? new URL(`${meta.content}/`, document.baseURI).href : undefined;

const file = (path: string) => fetch(`${siteData}${path}`);
const answer = (value: unknown, status = 200) => new Response(JSON.stringify(value), { status });

let columns: { run: string; table: Promise<PackedTable> } | undefined;
function columnsOf(run: string): Promise<PackedTable> {
  if (columns?.run !== run)
    columns = {
      run,
      table: file(`${run}/columns.bin`)
        .then((response) => response.arrayBuffer())
        .then(unpackTable),
    };
  return columns.table;
}

let last: { key: string; detail: Promise<SiteDetail> } | undefined;
/** One latent by one request for its range of bytes. */
function detailOf(run: string, latent: number): Promise<SiteDetail> {
  const key = `${run} ${latent}`;
  if (last?.key !== key) last = { key, detail: readDetail(run, latent) };
  return last.detail;
}

async function readDetail(run: string, latent: number): Promise<SiteDetail> {
  const { numbers } = await columnsOf(run);
  const [from, size] = [numbers.offset[latent], numbers.bytes[latent]];
  const response = await fetch(`${siteData}${run}/details.bin`, {
    headers: { Range: `bytes=${from}-${from + size - 1}` },
  });
  let bytes = await response.arrayBuffer();
  // A host that does not know ranges sends the whole file.
  if (response.status === 200) bytes = bytes.slice(from, from + size);
  const text = new Response(bytes).body!.pipeThrough(new DecompressionStream("gzip"));
  return (await new Response(text).json()) as SiteDetail;
}

interface Said {
  annotations: { latent: number }[];
  groups: unknown[];
}

/** What the server would answer. */
export async function siteFetch(input: RequestInfo | URL, init?: RequestInit): Promise<Response> {
  const url = new URL(input instanceof Request ? input.url : input);
  const path = url.pathname.slice(url.pathname.lastIndexOf("/api/") + 5);
  const [area, run, what, latent, part] = path.split("/").map(decodeURIComponent);
  if ((init?.method ?? "GET") !== "GET")
    return answer({ error: "this is a copy to look at: run lens serve to change things" }, 501);
  if (area === "jobs") return answer([]);
  if (area === "runs" && run === undefined) return file("runs.json");
  if (area === "compare") return answer({ error: "runs are compared in lens serve" }, 501);
  if (area === "runs" && what === undefined) return file(`${run}/run.json`);
  if (what === "metrics" || what === "map" || what === "columns") {
    const response = await file(`${run}/${what}.bin`);
    return response.ok ? response : answer({ error: `${what} was not part of the copy` }, 404);
  }
  if (what === "annotations" || what === "preview" || what === "concepts")
    return file(`${run}/${what}.json`);
  if (what === "results") {
    const results = (await (await file(`${run}/results.json`)).json()) as Record<string, unknown>;
    return answer(results[latent] ?? null);
  }
  if (what === "features" && part === "annotation") {
    const said = (await (await file(`${run}/annotations.json`)).json()) as Said;
    const found = said.annotations.find((one) => one.latent === Number(latent));
    const nothing = { label: "", notes: "", tags: [], rating: null, confidence: null, version: 0, author: null, updated: null }; // prettier-ignore
    return answer(found ?? { run, latent: Number(latent), ...nothing });
  }
  if (what === "features") {
    const detail = await detailOf(run, Number(latent)).catch(() => undefined);
    if (!detail) return answer({ error: `there is no latent ${latent}` }, 404);
    if (part === "similar") return similarOf(run, Number(latent), detail);
    const form = url.searchParams.get("form") ?? "centred";
    const found = part === undefined ? detail.feature : part === "logits" ? detail.logits?.[form] : detail.neighbors; // prettier-ignore
    if (found) return answer(found);
    const why = part === "logits" ? detail.noLogitsBecause : undefined;
    return answer({ error: why ?? "this was not part of the copy" }, 404);
  }
  return answer({ error: "this is a copy to look at: run lens serve for more" }, 501);
}

/** Of the copy only the nearest are known. */
async function similarOf(
  run: string,
  latent: number,
  { neighbors }: SiteDetail,
): Promise<Response> {
  const near = neighbors as { decoder: Neighbors } | null;
  if (!near) return answer({ error: "this was not part of the copy" }, 404);
  const cosine = new Float32Array((await columnsOf(run)).numbers.firings.length).fill(NaN);
  for (const one of near.decoder.nearest) cosine[one.latent] = one.cosine;
  cosine[latent] = 1;
  const meta = { least: -1 };
  return new Response(packTable({ meta, numbers: { cosine }, texts: {} }));
}

interface Neighbors {
  nearest: { latent: number; cosine: number }[];
}

/** What the server would tell as it happens: once, what there is. */
export async function siteListen(
  path: string,
  handlers: Record<string, (data: unknown) => void>,
): Promise<void> {
  const [, run] = path.split("/").map(decodeURIComponent);
  await Promise.resolve(); // as events do, it comes after the call
  if (path === "jobs/live") return handlers.jobs?.([]);
  const { numbers } = unpackTable(await (await file(`${run}/metrics.bin`)).arrayBuffer());
  const lines = Array.from(numbers.step ?? [], (_, row) => {
    const line: Record<string, unknown> = {};
    for (const [name, values] of Object.entries(numbers)) {
      if (Number.isNaN(values[row])) continue;
      const keys = name.split(".");
      const end = keys.pop()!;
      let at = line;
      for (const key of keys) at = (at[key] ??= {}) as Record<string, unknown>;
      at[end] = values[row];
    }
    return line;
  });
  handlers.metrics?.(lines);
  handlers.preview?.(await (await file(`${run}/preview.json`)).json());
  handlers.status?.({ status: "finished", job: null });
}
