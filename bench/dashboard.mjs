/* global document, location, requestAnimationFrame, Event -- what runs in the page */
// How quick the dashboard is: node bench/dashboard.mjs [--run RUN_FOLDER] [--latents 131072] [--only PART] [--json FILE]
// Takes a finished run (absent: the newest of runs/ with features), and an index of as many latents
// generated from it. Needs a Chromium (CHROMIUM, or /usr/bin/chromium). No peer is measured: theirs need
// services that are not there; the numbers stand beside the targets they were built for.
import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { createReadStream, existsSync } from "node:fs";
import { cp, mkdir, mkdtemp, open, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { availableParallelism, cpus, tmpdir } from "node:os";
import { basename, join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { parseArgs, promisify } from "node:util";
import { createGunzip, gzip } from "node:zlib";
import { chromium } from "playwright-core";

const { values: flags } = parseArgs({
  options: {
    run: { type: "string" },
    latents: { type: "string", default: "131072" },
    only: { type: "string" },
    json: { type: "string" },
  },
});
const median = (values) => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)];
const results = [];
const note = (what, value, target) => {
  results.push({ what, value, target });
  console.log(`${what.padEnd(64)} ${String(value).padStart(12)}   target ${target}`);
};

const folder = await mkdtemp(join(tmpdir(), "lens-bench-"));
const source = flags.run ?? (await newestRun("runs"));
const small = basename(source);
await cp(source, join(folder, small), { recursive: true });
const big = "generated";
await generate(join(folder, small), join(folder, big), Number(flags.latents));

const server = spawn(process.execPath, ["bin/lens.js", "serve", folder, "--port", "0", "--json"], {
  stdio: ["ignore", "pipe", "inherit"],
});
const [said] = await once(server.stdout, "data");
const { url, port } = JSON.parse(String(said));
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--enable-unsafe-swiftshader"],
});
console.log(
  `${cpus()[0].model.trim()}, ${availableParallelism()} cores, Chromium ${browser.version()}\n`,
);
try {
  const parts = { firstPage, featurePages, sorting, panning, readers, pageChanges };
  for (const [name, measure] of Object.entries(parts))
    if (!flags.only || flags.only === name) await measure();
} finally {
  await browser.close();
  server.kill();
  await rm(folder, { recursive: true, force: true });
}
if (flags.json) await writeFile(flags.json, JSON.stringify(results, null, 2) + "\n");

async function fresh() {
  const context = await browser.newContext({ viewport: { width: 1280, height: 860 } });
  return { context, page: await context.newPage() };
}

async function firstPage() {
  const times = [];
  let script = 0;
  for (let i = 0; i < 7; i++) {
    const { context, page } = await fresh();
    script = 0;
    const session = await context.newCDPSession(page);
    await session.send("Network.enable");
    const scripts = new Set();
    session.on("Network.responseReceived", ({ requestId, type }) => {
      if (type === "Script") scripts.add(requestId);
    });
    session.on("Network.loadingFinished", ({ requestId, encodedDataLength }) => {
      if (scripts.has(requestId)) script += encodedDataLength;
    });
    const began = performance.now();
    await page.goto(url, { waitUntil: "commit" });
    await page.getByText("Scores are measured").waitFor();
    times.push(performance.now() - began);
    await page.waitForTimeout(300);
    await context.close();
  }
  note("first page usable, cold cache (ms, median of 7)", Math.round(median(times)), "< 1000");
  note("its script, compressed (kB)", (script / 1000).toFixed(1), "< 300");
}

async function featurePages() {
  for (const [run, name] of [
    [small, "built-in run"],
    [big, `${flags.latents} latents`],
  ]) {
    const { context, page } = await fresh();
    await page.goto(`${url}#/run/${run}/feature/1`);
    await page.getByRole("heading", { name: "Latent 1", exact: true }).waitFor();
    // In the page, from the change of the address to the examples of the latent being there.
    const times = await page.evaluate(async (run) => {
      const times = [];
      for (let i = 0; i < 60; i++) {
        const latent = 7 * i + 10;
        const began = performance.now();
        location.hash = `#/run/${run}/feature/${latent}`;
        for (;;) {
          await new Promise((done) => requestAnimationFrame(done));
          if (document.querySelector("h1")?.textContent === `Latent ${latent}`) break;
        }
        times.push(performance.now() - began);
      }
      return times;
    }, run);
    note(`a feature page, ${name} (ms, median of 60)`, median(times).toFixed(1), "< 100");
    await context.close();
  }
}

async function sorting() {
  const { context, page } = await fresh();
  await page.goto(`${url}#/run/${big}/features`);
  await page.getByRole("gridcell").first().waitFor({ timeout: 60_000 });
  const box = page.getByRole("searchbox", { name: "Query over features" });
  for (const query of [
    "sort:-max",
    "density<0.001 sort:-auc",
    "label:animal -is:dead",
    "dog sort:density",
  ]) {
    const times = [];
    for (let i = 0; i < 5; i++) {
      await box.fill("latent:0");
      await page.getByText(/^1 of /).waitFor();
      // From the change of the query to the next frame that shows what was found.
      times.push(
        await page.evaluate(async (query) => {
          const began = performance.now();
          const input = document.querySelector("[data-search]");
          input.value = query;
          input.dispatchEvent(new Event("input", { bubbles: true }));
          for (;;) {
            await new Promise((done) => requestAnimationFrame(done));
            if (!document.querySelector("#query-result").textContent.startsWith("1 of")) break;
          }
          return performance.now() - began;
        }, query),
      );
    }
    note(`${query}, ${flags.latents} rows, to the frame (ms, median of 5)`, median(times).toFixed(1), "< 50"); // prettier-ignore
  }
  await context.close();
}

async function panning() {
  const { context, page } = await fresh();
  await page.goto(`${url}#/run/${big}/features?view=map`);
  await page.getByText("trustworthiness").waitFor({ timeout: 60_000 });
  await page.waitForTimeout(2500);
  const { x, y, width, height } = await page.locator(".map").boundingBox();
  await page.evaluate(() => {
    globalThis.frames_ = [];
    const tick = (at) => {
      globalThis.frames_.push(at);
      requestAnimationFrame(tick);
    };
    requestAnimationFrame(tick);
  });
  await page.mouse.move(x + width / 2, y + height / 2);
  await page.mouse.down();
  const began = performance.now();
  for (let i = 0; performance.now() - began < 4000; i++)
    await page.mouse.move(
      x + width / 2 + 80 * Math.sin(i / 8),
      y + height / 2 + 60 * Math.cos(i / 8),
    );
  await page.mouse.up();
  const frames = await page.evaluate(() => globalThis.frames_.slice(-120));
  const gaps = frames.slice(1).map((at, i) => at - frames[i]);
  note(`map of ${flags.latents}: frames a second while dragged, in software`, (1000 / median(gaps)).toFixed(1), "usable"); // prettier-ignore
  await context.close();
}

/** 200 who read features one after the other: with half a second for each, and as fast as they come. */
async function readers() {
  const began = performance.now();
  await fetch(`${url}api/runs/${small}/features/0`);
  note("the first feature of a run, its index not open yet (ms)", Math.round(performance.now() - began), ""); // prettier-ignore
  const slow = await read200(500);
  note("200 readers, a page each half second: p99 (ms)", slow.p99.toFixed(1), "< 100");
  note("their requests a second, of 400 that they would make", slow.rate, "");
  const fast = await read200(0);
  note("200 readers without a pause: p99 (ms)", fast.p99.toFixed(1), "");
  note("their requests a second", fast.rate, "");
}

/** In a process of their own: what this one has to clean up is not theirs. */
async function read200(pause) {
  const args = [fileURLToPath(new URL("lens/readers.mjs", import.meta.url)), port, small, pause];
  const { stdout } = await promisify(execFile)(process.execPath, args.map(String));
  return JSON.parse(stdout);
}

async function pageChanges() {
  const { context, page } = await fresh();
  const session = await context.newCDPSession(page);
  await page.goto(`${url}#/run/${small}/feature/1`);
  await page.getByRole("heading", { name: "Latent 1", exact: true }).waitFor();
  const heap = async () => {
    await session.send("HeapProfiler.collectGarbage");
    return (await session.send("Runtime.getHeapUsage")).usedSize / 1e6;
  };
  const seen = [];
  for (let n = 0; n <= 1000; n += 100) {
    if (n > 0)
      await page.evaluate(
        async ([run, n]) => {
          const pages = [`run/${run}/features`, `run/${run}/training`, ""];
          for (let i = 0; i < 100; i++) {
            const latent = (n + 31 * i) % 2000;
            location.hash =
              i % 4 === 3 ? `#/${pages[(i >> 2) % 3]}` : `#/run/${run}/feature/${latent}`;
            await new Promise((done) => setTimeout(done, 60));
          }
        },
        [small, n],
      );
    seen.push(await heap());
  }
  note("heap after 200, 600, 1000 page changes (MB)", [2, 6, 10].map((i) => seen[i].toFixed(1)).join(", "), "flat"); // prettier-ignore
  await context.close();
}

async function newestRun(runs) {
  for (const name of (await readdir(runs)).toSorted().toReversed())
    if (existsSync(join(runs, name, "features", "map", "map.json"))) return join(runs, name);
  throw new Error("no run with features and a map: npm start, then lens feature map");
}

/** A run folder whose index has as many latents, each like one of the run's. */
async function generate(from, to, latents) {
  const zip = promisify(gzip);
  await mkdir(join(to, "features", "map"), { recursive: true });
  await cp(join(from, "config.json"), join(to, "config.json"));
  const index = JSON.parse(await readFile(join(from, "features", "index.json"), "utf8"));
  const labels = JSON.parse(await readFile(join(from, "features", "labels.json"), "utf8"));
  const lines = createInterface(
    createReadStream(join(from, "features", "features.jsonl.gz")).pipe(createGunzip()),
  );
  const stored = [];
  for await (const line of lines) stored.push(JSON.parse(line));
  const own = index.dSae;
  const jitter = (i) => 1 + 0.1 * Math.sin(12.9898 * i);
  const columns = {};
  for (const name of Object.keys(index.columns))
    columns[name] = Array.from({ length: latents }, (_, i) => {
      const value = index.columns[name][i % own];
      return ["mean", "max"].includes(name) ? value * jitter(i) : value;
    });
  const file = await open(join(to, "features", "features.jsonl.gz"), "w");
  let at = 0;
  for (let i = 0; i < latents; i++) {
    const line = await zip(JSON.stringify({ ...stored[i % own], latent: i }) + "\n", { level: 1 });
    [columns.offset[i], columns.bytes[i]] = [at, line.length];
    await file.write(line);
    at += line.length;
  }
  await file.close();
  const many = (values) => Array.from({ length: latents }, (_, i) => values[i % own]);
  await writeFile(
    join(to, "features", "index.json"),
    JSON.stringify({ ...index, dSae: latents, columns }),
  );
  await writeFile(join(to, "features", "labels.json"), JSON.stringify({ ...labels, best: many(labels.best) })); // prettier-ignore
  const map = JSON.parse(await readFile(join(from, "features", "map", "map.json"), "utf8"));
  const spread = (values, phase) =>
    Array.from({ length: latents }, (_, i) => {
      const value = values[i % own];
      return value === null ? null : value + 0.3 * Math.sin(78.233 * i + phase);
    });
  map.maps = map.maps.map((one) => ({
    ...one,
    count: latents,
    x: spread(one.x, 0),
    y: spread(one.y, 2),
  }));
  await writeFile(join(to, "features", "map", "map.json"), JSON.stringify(map));
}
