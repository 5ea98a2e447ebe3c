/**
 * A static site: the dashboard with the answers of the server written out as files, for any web host.
 * The API itself is asked, without a port, so a page shows there what it shows here.
 *
 *   index.html  assets/            the dashboard, told that it is a copy
 *   data/runs.json                 what /api/runs answers, with these runs only
 *   data/<run>/run.json  annotations.json  preview.json  concepts.json  results.json  metrics.bin  map.bin
 *   data/<run>/columns.bin         as the API's, with offset and bytes of each latent in details.bin
 *   data/<run>/details.bin         one gzip member per latent: its page, its logits in all forms, its neighbours
 */
import { cpSync, createWriteStream, existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs"; // prettier-ignore
import { once } from "node:events";
import { dirname, join } from "node:path";
import { promisify } from "node:util";
import { gzip } from "node:zlib";
import type { OpenAPIHono } from "@hono/zod-openapi";

import { UserError } from "../error.ts";
import { packTable, unpackTable } from "../packed-table.ts";
import type { Services } from "./api.ts";
import { createApp } from "./app.ts";
import { DASHBOARD } from "./page.ts";
import type { RunStore } from "./run-store.ts";
import { openServices, type ServiceOptions } from "./services.ts";

export interface SiteOptions extends ServiceOptions {
  /** Names of the runs that are shown. */
  ids: readonly string[];
  out: string;
  version: string;
  signal?: AbortSignal;
  onProgress?: (done: number, total: number) => void;
}

/** What details.bin says of a latent. */
export interface SiteDetail {
  feature: unknown;
  /** By form; null where there is no model, or no effect. */
  logits: Record<string, unknown> | null;
  /** Why there is no effect, where the model is there. */
  noLogitsBecause?: string;
  neighbors: unknown;
}

/** A browser that shows the copy may load nothing from elsewhere. */
const POLICY =
  "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'";

const NEIGHBORS = 12;
const LOGITS = 10;
/** Latents that the model is asked about at once. */
const GROUP = 256;
const zip = promisify(gzip);

/**
 * Writes the site to `out`, which must not exist or be an older one.
 * @throws UserError for a folder with something else in it, a run that there is not or whose features
 * are absent or damaged, or a dashboard that was not built.
 */
export async function exportSite(options: SiteOptions): Promise<{ bytesPerLatent: number }> {
  const { ids, out, signal, onProgress } = options;
  if (!existsSync(join(DASHBOARD, "index.html")))
    throw new UserError("the dashboard is not built: run npm run build first");
  if (existsSync(out) && !existsSync(join(out, "data", "runs.json")))
    throw new UserError(`${out} exists and is no site of Lens: choose another folder with --out`);
  const services = await openServices(options, false);
  const { runs, models, annotations } = services;
  const app = createApp({
    services,
    guard: { hosts: ["localhost"] },
    version: options.version,
    closing: new AbortController().signal,
  });
  const draft = `${out}.${process.pid}.tmp`;
  rmSync(draft, { recursive: true, force: true });
  let bytes = 0;
  let done = 0;
  let total = 0;
  try {
    total = await countLatents(runs, ids);
    mkdirSync(join(draft, "data"), { recursive: true });
    cpSync(DASHBOARD, draft, { recursive: true });
    const index = readFileSync(join(draft, "index.html"), "utf8");
    const told = `<head>\n    <meta name="lens-site" content="data" />\n    <meta http-equiv="Content-Security-Policy" content="${POLICY}" />`;
    writeFileSync(join(draft, "index.html"), index.replace("<head>", told));
    const list = (await answer(app, "runs")) as { runs: { id: string }[] };
    const shown = list.runs.filter(({ id }) => ids.includes(id));
    writeFileSync(join(draft, "data", "runs.json"), JSON.stringify({ runs: shown, broken: [], folder: "" })); // prettier-ignore
    for (const id of ids)
      bytes += await exportRun({ app, services }, id, join(draft, "data", id), () => {
        signal?.throwIfAborted();
        onProgress?.(++done, total);
      });
    rmSync(out, { recursive: true, force: true });
    mkdirSync(dirname(out), { recursive: true });
    renameSync(draft, out);
  } finally {
    rmSync(draft, { recursive: true, force: true });
    await models.close();
    await annotations.close();
  }
  return { bytesPerLatent: bytes / total };
}

async function countLatents(runs: RunStore, ids: readonly string[]): Promise<number> {
  let total = 0;
  for (const id of ids) {
    const { features, damage } = await runs.features(id);
    const [why] = Object.values(damage) as string[];
    if (why !== undefined) throw new UserError(why); // a copy could not say what is left out
    total += features.index.dSae;
  }
  return total;
}

async function exportRun(
  { app, services: { runs, models } }: { app: OpenAPIHono; services: Services },
  id: string,
  folder: string,
  onLatent: () => void,
): Promise<number> {
  mkdirSync(folder, { recursive: true });
  const path = `runs/${encodeURIComponent(id)}`;
  const save = (name: string, value: unknown) =>
    writeFileSync(join(folder, name), JSON.stringify(value));
  save("run.json", { ...((await answer(app, path)) as object), missing: [] });
  save("annotations.json", await answer(app, `${path}/annotations`));
  save("preview.json", await answer(app, `${path}/preview`));
  save("concepts.json", await answer(app, `${path}/concepts`));
  const results: Record<string, unknown> = {};
  for (const name of ["layers", "compose"])
    results[name] = await answer(app, `${path}/results/${name}`);
  save("results.json", results);
  for (const name of ["metrics", "map"]) {
    const table = await ask(app, `${path}/${name}`);
    if (table.ok)
      writeFileSync(join(folder, `${name}.bin`), Buffer.from(await table.arrayBuffer()));
  }
  const table = unpackTable(await (await ask(app, `${path}/columns`)).arrayBuffer());
  const dSae = table.numbers.firings.length;
  const offset = new Float64Array(dSae);
  const size = new Uint32Array(dSae);
  const details = createWriteStream(join(folder, "details.bin"));
  let at = 0;
  const top = { logits: LOGITS, neighbors: NEIGHBORS };
  let hasSae = true;
  for (let from = 0; from < dSae; from += GROUP) {
    const latents = Array.from({ length: Math.min(GROUP, dSae - from) }, (_, i) => from + i);
    // What cannot be had is left out: the page says so.
    const found = hasSae
      ? await models.ask("details", runs.folderOf(id), [latents, top]).catch((error: unknown) => {
          if (!(error instanceof UserError)) throw error;
          hasSae = false;
        })
      : undefined;
    for (const [i, latent] of latents.entries()) {
      const feature = await answer(app, `${path}/features/${latent}`);
      const detail: SiteDetail = { feature, logits: null, neighbors: null, ...found?.[i] };
      const line = await zip(JSON.stringify(detail));
      if (!details.write(line)) await once(details, "drain");
      [offset[latent], size[latent]] = [at, line.length];
      at += line.length;
      onLatent();
    }
  }
  details.end();
  await once(details, "close");
  const numbers = { ...table.numbers, offset, bytes: size };
  writeFileSync(join(folder, "columns.bin"), packTable({ ...table, numbers }));
  return at;
}

async function ask(app: OpenAPIHono, path: string): Promise<Response> {
  return app.request(`/api/${path}`, { headers: { Host: "localhost" } });
}

async function answer(app: OpenAPIHono, path: string): Promise<unknown> {
  const response = await ask(app, path);
  const said = (await response.json()) as { error?: string };
  if (!response.ok) throw new UserError(said.error ?? `${path} cannot be read`);
  return said;
}
