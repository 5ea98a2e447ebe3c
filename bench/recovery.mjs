/**
 * How well every architecture recovers the directions that synthetic activations were made from:
 * independent, correlated, hierarchical and Zipf-distributed ones. See bench/README.md.
 *
 * Every training is a file in the output folder: interrupted, the same command goes on.
 */
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { Worker } from "./contest.mjs";
import { betweenMarkers, markdownTable, textTable } from "./table.mjs";

const FEATURES = 128;
const ACTIVE = 4;
const STEPS = 1500;
const WIDTHS = [32, 64, 128];

const common = {
  from: "synthetic",
  ...{ samples: 100_000, validationSamples: 10_000, dIn: 64 },
  ...{ features: FEATURES, sparsity: ACTIVE / FEATURES, noise: 0.1 },
  ...{ strengthMean: 1, strengthStd: 0.25 },
};
const kinds = {
  independent: { ...common, kind: "independent" },
  correlated: { ...common, kind: "correlated", groupSize: 8, correlation: 0.4 },
  hierarchical: { ...common, kind: "hierarchical", childrenPerParent: 3, childProbability: 0.3 },
  zipf: { ...common, kind: "zipf", zipfExponent: 1 },
};

const penalised = ({ l0, steps }) => ({
  ...{ targetL0: l0, sparsityWarmupSteps: Math.round(steps / 20) },
});
const architectures = {
  relu: (plan) => ({ architecture: "relu", ...penalised(plan) }),
  "relu, p-annealed": (plan) => ({
    ...{ architecture: "relu", ...penalised(plan) },
    ...{ pEnd: 0.5, pAnnealStart: Math.round(plan.steps / 4) },
  }),
  gated: (plan) => ({ architecture: "gated", ...penalised(plan) }),
  jumprelu: (plan) => ({ architecture: "jumprelu", ...penalised(plan) }),
  topk: ({ l0 }) => ({ architecture: "topk", k: l0 }),
  batchTopk: ({ l0 }) => ({ architecture: "batchTopk", k: l0 }),
  "matryoshka topk": ({ l0 }) => ({ architecture: "topk", k: l0, matryoshkaWidths: WIDTHS }),
  "matryoshka batchTopk": ({ l0 }) => ({
    ...{ architecture: "batchTopk", k: l0, matryoshkaWidths: WIDTHS },
  }),
};

/** A name as it is given in a list. */
const plain = (name) => name.replace(/[ ,]+/g, "_");

const HELP = `node bench/recovery.mjs [options]

  --kinds LIST           some of ${Object.keys(kinds).join(",")}
  --architectures LIST   some of ${Object.keys(architectures).map(plain).join(",")}
  --l0 N                 active latents that all are given; default: 4, as many as there are features
  --seeds LIST           default: 0,1,2
  --jobs N               trainings at a time, one thread each; default: 2
  --out FOLDER           where finished trainings are kept; default: runs/recovery
  --quick                one seed and a tenth of the steps: shows that it works
  --markdown PAGE        also write the tables between the markers of this page
`;

function readOptions() {
  try {
    const { values } = parseArgs({
      options: {
        kinds: { type: "string", default: Object.keys(kinds).join(",") },
        architectures: { type: "string" },
        l0: { type: "string", default: String(ACTIVE) },
        seeds: { type: "string" },
        jobs: { type: "string", default: "2" },
        out: { type: "string", default: "runs/recovery" },
        quick: { type: "boolean", default: false },
        markdown: { type: "string" },
        help: { type: "boolean", default: false },
      },
    });
    if (values.help) {
      process.stdout.write(HELP);
      process.exit(0);
    }
    return {
      ...values,
      kinds: chosen("kinds", values.kinds, kinds),
      architectures: chosen("architectures", values.architectures, architectures),
    };
  } catch (error) {
    process.stderr.write(`${error.message}\n\n${HELP}`);
    return process.exit(1);
  }
}

/** The names of `all` that a list asks for. */
function chosen(option, list, all) {
  const names = Object.keys(all);
  if (list === undefined) return names;
  return list.split(",").map((asked) => {
    const found = names.find((name) => plain(name) === asked);
    if (!found) throw new Error(`--${option}: there is no ${asked}`);
    return found;
  });
}

const options = readOptions();
const steps = options.quick ? STEPS / 10 : STEPS;
const seeds = (options.seeds ?? (options.quick ? "0" : "0,1,2")).split(",").map(Number);
const jobs = Number(options.jobs);
const l0 = Number(options.l0);
const train = {
  ...{ batchSize: 512, steps, learningRate: 0.01, logEvery: steps, checkpointEvery: 0 },
  ...{ warmupSteps: Math.round(steps / 20), decaySteps: Math.round(steps / 5) },
  deadAfterTokens: 50_000,
};
mkdirSync(options.out, { recursive: true });

const cells = options.kinds.flatMap((kind) =>
  seeds.flatMap((seed) =>
    options.architectures.map((architecture) => ({
      ...{ kind, seed, architecture },
      job: {
        data: kinds[kind],
        sae: { ...architectures[architecture]({ l0, steps }), dSae: 2 * FEATURES },
        ...{ train, seed },
      },
    })),
  ),
);

function pathOf({ kind, seed, architecture, job }) {
  const key = createHash("sha256").update(JSON.stringify(job)).digest("hex").slice(0, 12);
  const name = `${kind}-${plain(architecture)}-${seed}-${key}.json`;
  return join(options.out, name);
}

const here = fileURLToPath(new URL(".", import.meta.url));
const waiting = cells.filter((cell) => !existsSync(pathOf(cell)));
/** Takes from the list until it is empty. */
async function work() {
  const worker = new Worker({
    command: process.execPath,
    args: [join(here, "lens/recovery.mjs"), JSON.stringify({ threads: 1 })],
  });
  await worker.answer();
  for (let cell = waiting.shift(); cell; cell = waiting.shift()) {
    const result = await worker.ask(cell.job);
    const { kind, architecture, seed } = cell;
    if (result.failed) throw new Error(`${architecture} on ${kind}: ${result.failed}`);
    const path = pathOf(cell);
    writeFileSync(`${path}.tmp`, JSON.stringify(result));
    renameSync(`${path}.tmp`, path);
    process.stderr.write(
      `${kind} ${architecture} seed ${seed}: one-to-one ${result.oneToOne.toFixed(3)}, ` +
        `L0 ${result.l0.toFixed(2)}, FVU ${result.fvu.toFixed(4)}, ${result.seconds.toFixed(0)} s\n`,
    );
  }
  await worker.stop();
}
await Promise.all(Array.from({ length: Math.min(jobs, waiting.length) }, work));

const percent = (v) => `${(100 * v).toFixed(0)} %`;
const columns = {
  MMCS: ["mmcs", (v) => v.toFixed(3)],
  "one-to-one": ["oneToOne", (v) => v.toFixed(3)],
  "≥ 0.9": ["recovered", percent],
  "rarest quarter ≥ 0.9": ["rareRecovered", percent],
  "MMCS of latents": ["latentMmcs", (v) => v.toFixed(3)],
  FVU: ["fvu", (v) => v.toFixed(3)],
  L0: ["l0", (v) => v.toFixed(2)],
  dead: ["deadFraction", percent],
  "parent missed alone": ["missedAlone", percent],
  "with a child": ["missedWithChild", percent],
};

/** Mean ± standard deviation over the seeds. */
function summary(results, [name, text]) {
  const values = results.map((result) => result[name]);
  const mean = values.reduce((a, b) => a + b, 0) / values.length;
  if (values.length === 1) return text(mean);
  const squares = values.reduce((sum, v) => sum + (v - mean) ** 2, 0);
  return `${text(mean)} ± ${text(Math.sqrt(squares / (values.length - 1)))}`.replace(" % ±", " ±");
}

const tables = options.kinds.map((kind) => {
  const results = options.architectures.map((architecture) =>
    cells
      .filter((cell) => cell.kind === kind && cell.architecture === architecture)
      .map((cell) => JSON.parse(readFileSync(pathOf(cell), "utf8"))),
  );
  const shown = Object.entries(columns).filter(([, [name]]) => results[0][0][name] !== undefined);
  const headings = ["", ...shown.map(([heading]) => heading)];
  const rows = results.map((of, i) => [
    options.architectures[i],
    ...shown.map(([, column]) => summary(of, column)),
  ]);
  return { name: l0 === ACTIVE ? kind : `${kind} at L0 ${l0}`, headings, rows };
});
for (const { name, headings, rows } of tables)
  process.stdout.write(`${name}\n${textTable(headings, rows)}\n\n`);
if (options.markdown) {
  const page = tables.reduce(
    (text, { name, headings, rows }) => betweenMarkers(text, name, markdownTable(headings, rows)),
    readFileSync(options.markdown, "utf8"),
  );
  writeFileSync(options.markdown, page);
}
