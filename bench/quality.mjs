/**
 * How good the autoencoders are that Lens, SAELens and dictionary_learning train on the very same
 * activations of the built-in model, at the same number of active latents. See bench/README.md.
 *
 * Every training is a file in the output folder: interrupted, the same command goes on.
 */
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { Worker } from "./contest.mjs";
import { at, search } from "./curve.mjs";
import { lensTraining, nestedWidths, recipes } from "./recipes.mjs";
import { betweenMarkers, markdownTable, textTable } from "./table.mjs";

const here = fileURLToPath(new URL(".", import.meta.url));
const HOOK_POINT = "blocks.2.hook_resid_post";
const LIBRARIES = { lens: "Lens", sae_lens: "SAELens", dictionary_learning: "dictionary_learning" };

const { values } = parseArgs({
  options: {
    python: { type: "string", default: "python3" },
    out: { type: "string", default: "runs/quality" },
    tokens: { type: "string" },
    architectures: { type: "string", default: Object.keys(recipes).join(",") },
    libraries: { type: "string", default: Object.keys(LIBRARIES).join(",") },
    l0: { type: "string" },
    rates: { type: "string" },
    seeds: { type: "string" },
    latents: { type: "string" },
    jobs: { type: "string", default: "2" },
    quick: { type: "boolean", default: false },
    reduced: { type: "boolean", default: false },
    markdown: { type: "string" },
  },
});
function known(what, given, all) {
  const unknown = given.filter((name) => !all.includes(name));
  if (unknown.length === 0) return given;
  process.stderr.write(`${what}: there is no ${unknown.join(", ")}; there are ${all.join(", ")}\n`);
  process.exit(1);
}

const architectures = known(
  "--architectures",
  values.architectures.split(","),
  Object.keys(recipes),
);
const libraries = known("--libraries", values.libraries.split(","), Object.keys(LIBRARIES));

/** Three sizes of the experiment; the learning rate is chosen at the first target. */
const SIZES = {
  full: {
    ...{ dSae: 2048, batch: 1024, tokens: 600_000, evaluationTokens: 20_000 },
    ...{ targets: [32, 16, 64], learningRates: [2.5e-3, 1e-3, 6.25e-3], seeds: [0, 1, 2] },
    tries: 4,
  },
  reduced: {
    ...{ dSae: 512, batch: 256, tokens: 100_000, evaluationTokens: 5_000 },
    ...{ targets: [32, 16, 64], learningRates: [2.5e-3, 1e-3], seeds: [0, 1, 2] },
    tries: 3,
  },
  quick: {
    ...{ dSae: 1024, batch: 512, tokens: 50_000, evaluationTokens: 5_000 },
    ...{ targets: [32], learningRates: [2.5e-3], seeds: [0] },
    tries: 1,
  },
};
const size = SIZES[values.quick ? "quick" : values.reduced ? "reduced" : "full"];
const numbers = (given, otherwise) => (given ? given.split(",").map(Number) : otherwise);
const plan = {
  dIn: 256,
  dSae: Number(values.latents ?? size.dSae),
  batch: size.batch,
  tokens: Number(values.tokens ?? size.tokens),
  evaluationTokens: size.evaluationTokens,
  targets: numbers(values.l0, size.targets),
  learningRates: numbers(values.rates, size.learningRates),
  seeds: numbers(values.seeds, size.seeds),
};
const widths = nestedWidths(plan.dSae);
const steps = Math.floor(plan.tokens / plan.batch);
// A tenth of the run without firing is dead, for every library.
const deadAfter = Math.round(plan.tokens / 10);
const folder = join(values.out, `${plan.tokens}`);
mkdirSync(join(folder, "cells"), { recursive: true });
const say = (text) => process.stderr.write(`${text}\n`);

/** The activations in one fixed random order, as a file of float32. */
async function activations() {
  const path = join(folder, "train.f32");
  if (existsSync(path)) return path;
  const { collect, loadModel } = await import("../dist/index.js");
  const model = await loadModel("builtin:tiny");
  const { dIn, tokens } = plan;
  const store = { hookPoint: HOOK_POINT, tokens, out: join(folder, "activations"), dtype: "f32" };
  const source = await collect(model, "builtin:stories", store);
  await model.close();
  const order = { batchSize: tokens, bufferRows: tokens, seed: 0, shuffle: true };
  for await (const { data, rows } of source.batches(order)) {
    writeFileSync(`${path}.tmp`, new Uint8Array(data.buffer, data.byteOffset, rows * dIn * 4));
    break;
  }
  renameSync(`${path}.tmp`, path);
  return path;
}

const data = await activations();
const jobs = Number(values.jobs);
const settings = {
  ...{ data, dIn: plan.dIn, dSae: plan.dSae, batch: plan.batch, widths, deadAfter },
  ...{ hookPoint: HOOK_POINT, evaluationTokens: plan.evaluationTokens },
  threads: Math.max(1, Math.floor(2 / jobs)),
};
const idle = Object.fromEntries(Object.keys(LIBRARIES).map((library) => [library, []]));
const all = [];

async function workerOf(library) {
  const free = idle[library].pop();
  if (free) return free;
  const argument = JSON.stringify(settings);
  const worker = new Worker(
    library === "lens"
      ? { command: process.execPath, args: [join(here, "lens/quality.mjs"), argument] }
      : { command: values.python, args: [join(here, `peers/quality_${library}.py`), argument] },
  );
  all.push(worker);
  await worker.answer();
  return worker;
}

let running = 0;
const waiting = [];

/** One job for one of the library's processes, when fewer than `jobs` are at work. */
async function perform(library, job) {
  while (running >= jobs) await new Promise((resolve) => waiting.push(resolve));
  running++;
  try {
    const worker = await workerOf(library);
    const answer = await worker.ask(job);
    idle[library].push(worker);
    return answer;
  } catch (error) {
    return { failed: error.message };
  } finally {
    running--;
    waiting.shift()?.();
  }
}

/** Trains and evaluates, unless that has been done. */
async function cell(library, architecture, { knob, learningRate, seed }) {
  const { evaluationTokens, dSae, batch } = plan;
  const what = { library, architecture, knob, learningRate, seed };
  const lens = library === "lens" ? lensTraining(architecture, knob, steps, widths) : undefined;
  const key = createHash("sha256")
    .update(JSON.stringify({ ...what, lens, evaluationTokens, deadAfter, dSae, batch }))
    .digest("hex")
    .slice(0, 12);
  const name = join(folder, "cells", `${library}-${architecture}-${key}`);
  if (existsSync(`${name}.json`)) return JSON.parse(readFileSync(`${name}.json`, "utf8"));
  const job = lens
    ? { sae: { ...lens.sae, dSae }, train: { ...lens.train, learningRate }, seed, out: name }
    : { ...what, out: name };
  const trained = await perform(library, job);
  const evaluated = trained.failed ? trained : await perform("lens", { evaluate: name });
  const result = { ...what, ...evaluated, seconds: trained.seconds };
  const { own } = trained;
  // Other code, another order of sums: a latent at its threshold may fall on the other side.
  if (own && !result.failed && Math.abs(result.firstRows.fvu / own.fvu - 1) > 1e-3)
    result.failed =
      `${library} itself has FVU ${own.fvu} and L0 ${own.l0} on the first rows; ` +
      `read back it has ${result.firstRows.fvu} and ${result.firstRows.l0}`;
  if (result.failed) say(`${library} ${architecture} ${knob} lr ${learningRate}: ${result.failed}`);
  else {
    writeFileSync(`${name}.json`, JSON.stringify(result));
    say(
      `${library} ${architecture} knob ${knob.toPrecision(3)} lr ${learningRate} seed ${seed}: ` +
        `L0 ${result.l0.toFixed(1)}, FVU ${result.fvu.toFixed(4)}, ${result.seconds.toFixed(0)} s`,
    );
  }
  return result;
}

/**
 * The best learning rate at the first target (the grid goes on while its best is at an end, twice at
 * most), then the other targets at that rate.
 */
async function curveOf(library, architecture) {
  const knob = { ...recipes[architecture].knobs[library], tries: size.tries };
  const [first, ...others] = plan.targets;
  const curves = new Map();
  let start = knob.start;
  const tryRate = async (learningRate) => {
    const run = (value) => cell(library, architecture, { knob: value, learningRate, seed: 0 });
    const points = await search({ ...knob, start }, [first], run);
    curves.set(learningRate, points);
    const near = points.toSorted((a, b) => Math.abs(a.l0 - first) - Math.abs(b.l0 - first))[0];
    if (near && !knob.exact) start = near.knob;
  };
  const score = (rate) => at(curves.get(rate), first)?.fvu ?? Infinity;
  for (const rate of plan.learningRates) await tryRate(rate);
  const best = () => [...curves.keys()].toSorted((a, b) => score(a) - score(b))[0];
  for (let more = 0; more < 2 && plan.learningRates.length > 1; more++) {
    const rates = [...curves.keys()].toSorted((a, b) => a - b);
    if (best() === rates[0]) await tryRate(rates[0] / 2.5);
    else if (best() === rates.at(-1)) await tryRate(rates.at(-1) * 2.5);
    else break;
  }
  const learningRate = best();
  const run = (value) => cell(library, architecture, { knob: value, learningRate, seed: 0 });
  const points = await search({ ...knob, start }, others, run, curves.get(learningRate));
  return { learningRate, points };
}

/** Standard deviations over seeds at the first target, the knob as it was for the first seed. */
async function spreadOf(library, architecture, { learningRate, points }) {
  const [target] = plan.targets;
  const near = points.toSorted((a, b) => Math.abs(a.l0 - target) - Math.abs(b.l0 - target))[0];
  if (!near || plan.seeds.length < 2) return undefined;
  const runs = await Promise.all(
    plan.seeds.map((seed) => cell(library, architecture, { knob: near.knob, learningRate, seed })),
  );
  const worked = runs.filter((run) => !run.failed);
  if (worked.length < 2) return undefined;
  return {
    fvu: deviation(worked.map((run) => run.fvu)),
    ceLossRecovered: deviation(worked.map((run) => run.ceLossRecovered)),
  };
}

function deviation(values) {
  const mean = values.reduce((a, b) => a + b, 0) / values.length;
  return Math.sqrt(values.reduce((sum, v) => sum + (v - mean) ** 2, 0) / (values.length - 1));
}

const names = libraries.map((library) => LIBRARIES[library]);
const rows = [];
const worse = [];
const rates = [];

/** The libraries' standard deviations as one: the root of their mean square. */
function pooled(curves, what) {
  const spreads = curves.flatMap(({ spread }) => (spread ? [spread[what] ** 2] : []));
  return spreads.length > 0 ? Math.sqrt(spreads.reduce((a, b) => a + b) / spreads.length) : 0;
}

function report(architecture, curves) {
  const spread = {
    fvu: pooled(curves, "fvu"),
    ceLossRecovered: pooled(curves, "ceLossRecovered"),
  };
  const shown = (value) => (value > 0 ? value.toFixed(4) : "–");
  for (const target of plan.targets.toSorted((a, b) => a - b)) {
    const values = curves.map(({ points }) => at(points, target));
    rows.push([
      architecture,
      String(target),
      ...values.map((v) => (v ? v.fvu.toFixed(4) : "–")),
      shown(spread.fvu),
      ...values.map((v) => (v ? v.ceLossRecovered.toFixed(4) : "–")),
      shown(spread.ceLossRecovered),
    ]);
    const [ours, ...theirs] = values;
    if (libraries[0] !== "lens" || theirs.length === 0) continue;
    const fvu = Math.min(...theirs.map((v) => v?.fvu ?? Infinity));
    const ce = Math.max(...theirs.map((v) => v?.ceLossRecovered ?? -Infinity));
    const cell = `${architecture} at L0 ${target}`;
    if ((ours?.fvu ?? Infinity) > fvu + spread.fvu) worse.push(`FVU of ${cell}`);
    if ((ours?.ceLossRecovered ?? -Infinity) < ce - spread.ceLossRecovered)
      worse.push(`CE recovered of ${cell}`);
  }
  const each = curves.map(({ learningRate }, i) => `${names[i]} ${learningRate?.toPrecision(2)}`);
  rates.push(`Learning rates, ${architecture}: ${each.join(", ")}.`);
}

function columns() {
  const of = (what) => names.map((name) => `${what} ${name}`);
  return ["architecture", "L0", ...of("FVU"), "FVU spread", ...of("CE recovered"), "CE spread"];
}

const notes = () => [
  worse.length > 0
    ? `Lens is worse than the better peer by more than the spread in: ${worse.join("; ")}.`
    : `In no cell here is Lens worse than the better peer${plan.seeds.length > 1 ? " by more than the spread" : ""}.`,
  ...rates,
];

function writePage(path) {
  const count = (value) => value.toLocaleString("en-US");
  const list = notes().map((note) => `- ${note}`);
  const setting =
    `${plan.dIn} → ${count(plan.dSae)} latents, ${count(plan.tokens)} activations of ` +
    `\`${HOOK_POINT}\` in batches of ${count(plan.batch)}, measured on ` +
    `${count(plan.evaluationTokens)} tokens of held-out text; seeds ${plan.seeds.join(", ")}.`;
  const content = `${setting}\n\n${markdownTable(columns(), rows)}\n\n${list.join("\n")}`;
  writeFileSync(path, betweenMarkers(readFileSync(path, "utf8"), "quality", content));
}

// One architecture after the other: what is there of the table is whole.
for (const architecture of architectures) {
  const curves = await Promise.all(
    libraries.map(async (library) => {
      const curve = await curveOf(library, architecture);
      return { ...curve, spread: await spreadOf(library, architecture, curve) };
    }),
  );
  report(architecture, curves);
  if (values.markdown) writePage(values.markdown);
  say(`\n${textTable(columns(), rows)}\n`);
}
for (const worker of all) await worker.stop();
process.stdout.write(`${textTable(columns(), rows)}\n\n${notes().join("\n")}\n`);
