/** Lens alone; sections as in sections.mjs. */
import { architectures } from "./architectures.mjs";
import { BATCH, count, D, failures, LATENTS, lengths, lens, ms, times } from "./common.mjs";
import { median, once, race } from "./contest.mjs";

const SLOWEST_MS = 60_000;

/** Lens alone: tokens per second and peak memory over widths and batch sizes. */
export async function scaling(context) {
  const [widths, batches] = context.quick
    ? [
        [2048, 24_576],
        [256, 4096],
      ]
    : [
        [2048, 8192, 24_576, 65_536, 131_072],
        [256, 1024, 4096, 16_384],
      ];
  const rows = [];
  const notes = [];
  for (const dSae of widths) {
    const cells = [];
    let largest = 0;
    for (const batch of batches) {
      const flop = 2 * batch * D * dSae;
      const expected = (4 * flop) / (context.peakGflops ?? 100) / 1e6;
      if (expected > SLOWEST_MS) {
        cells.push("–");
        notes.push(
          `${count(dSae)} × ${count(batch)} was left out: about ${ms(expected)} ms a step.`,
        );
        continue;
      }
      const data = context.data({ dIn: D, rows: Math.max(batch, BATCH) });
      const settings = { dIn: D, batch, data, sae: { architecture: "topk", k: 32, dSae } };
      const spec = lens(context, "train", settings, { name: `${dSae} × ${batch}` });
      const [result] = await race([spec], { rounds: 1, steps: 5, warmup: 2, log: context.log });
      if (result.failed) {
        cells.push("–");
        notes.push(`${count(dSae)} × ${count(batch)}: ${result.failed}.`);
        continue;
      }
      largest = Math.max(largest, result.last.rssMiB);
      cells.push(`${count((1000 * batch) / median(result.ms))} (${ms(median(result.ms))} ms)`);
    }
    const weights = (2 * dSae * D * 4) / 2 ** 20;
    rows.push([count(dSae), ...cells, count(largest), count(4 * weights + 1024)]);
  }
  return {
    title: "Lens, TopK k 32, 768 inputs: tokens per second over latents and batch size",
    notes: [
      "Memory is the largest peak RSS of the row's processes, Node and the activations held in memory included.",
      ...notes,
    ],
    columns: [
      "latents",
      ...batches.map((batch) => `batch ${count(batch)}`),
      "peak RSS MiB",
      "weights × 4 + 1 GiB, MiB",
    ],
    rows,
  };
}

/** Encoding for analysis against training. */
export async function encode(context) {
  const data = context.data({ dIn: D, rows: 4 * BATCH });
  const rows = [];
  const notes = ["The target is 1.5×."];
  const names = context.quick ? ["topk"] : ["topk", "batchTopk", "jumprelu"];
  for (const name of names) {
    const sae = { ...architectures[name].lens, dSae: LATENTS };
    const settings = { dIn: D, batch: BATCH, data, sae };
    const results = await race(
      ["train", "encode"].map((script) =>
        lens(context, script, settings, { name: `${name}: ${script}` }),
      ),
      { ...lengths(context), log: context.log },
    );
    if (results.some((result) => result.failed)) {
      rows.push([name, "–", "", ""]);
      notes.push(...failures(results));
      continue;
    }
    const [train, only] = results.map((result) => (1000 * BATCH) / median(result.ms));
    rows.push([name, count(train), count(only), times(only / train)]);
  }
  return {
    title: "Lens, encoding without training, codes read back: tokens per second",
    notes,
    columns: ["768 → 24,576, batch 4,096", "training", "encoding", "ratio"],
    rows,
  };
}

/** Encoding by screening against f32 products alone, on inputs made to defeat the bounds too. */
export async function strain(context) {
  const repeat = context.quick ? 3 : 7;
  const settings = { d: D, dSae: LATENTS, batch: BATCH, k: 32, repeat };
  const { results = [], failed } = await once(lens(context, "strain", settings));
  return {
    title:
      "Lens, encoding the 32 largest of 24,576 latents: inputs that suit the bounds, and others",
    notes: [
      failed
        ? `It did not run: ${failed}.`
        : "No input should make a step slower than f32 products alone by more than a third.",
    ],
    columns: ["inputs", "screened, ms", "f32 products only, ms", "ratio"],
    rows: results.map(({ name, screened, f32 }) => [
      name,
      ms(median(screened)),
      ms(median(f32)),
      times(median(screened) / median(f32)),
    ]),
  };
}

/** Training from a store on disk against training from one ready batch. */
export async function dataPath(context) {
  const rows = [];
  const notes = ["The target is at most 5 % of a step."];
  const folder = await context.store({ dIn: D, rows: 16 * BATCH });
  for (const { dSae, batch } of [
    { dSae: LATENTS, batch: BATCH },
    { dSae: 2048, batch: BATCH },
  ]) {
    const settings = {
      ...{ batch, folder, bufferRows: 4 * BATCH },
      sae: { architecture: "topk", k: 32, dSae },
    };
    const results = await race(
      [
        lens(context, "data", settings, { name: `store → ${dSae}` }),
        lens(context, "data", { ...settings, free: true }, { name: `ready batch → ${dSae}` }),
      ],
      { rounds: context.quick ? 1 : 3, steps: 16, warmup: 3, log: context.log },
    );
    const label = `768 → ${count(dSae)}, batch ${count(batch)}`;
    if (results.some((result) => result.failed)) {
      rows.push([label, "–", "", "", ""]);
      notes.push(...failures(results));
      continue;
    }
    const [stored, free] = results;
    const waits = stored.last.waits.slice(-stored.ms.length);
    const waited = waits.reduce((a, b) => a + b, 0) / stored.ms.reduce((a, b) => a + b, 0);
    rows.push([
      label,
      ms(median(stored.ms)),
      ms(median(free.ms)),
      `${(100 * (median(stored.ms) / median(free.ms) - 1)).toFixed(1)} %`,
      `${(100 * waited).toFixed(1)} %`,
    ]);
  }
  return {
    title: "Lens, the data path: f16 shards on disk, a buffer of a quarter of the store",
    notes,
    columns: [
      "TopK k 32",
      "from the store, ms",
      "from a ready batch, ms",
      "more",
      "waiting for a batch",
    ],
    rows,
  };
}

/** How well a buffer mixes rows that lie sorted by document and topic. */
export async function mixing(context) {
  const rows = context.quick ? 65_536 : 262_144;
  const batch = 1024;
  const settings = { rows, batch, buffers: [1, 1 / 4, 1 / 16, 1 / 64] };
  const { results = [], failed } = await once(lens(context, "mixing", settings));
  return {
    title: `Lens, mixing: ${count(rows)} rows sorted by document and topic, batches of ${count(batch)}`,
    notes: [
      failed
        ? `It did not run: ${failed}.`
        : "1 means that batch means stray from the mean as those of random batches do; below 1 they stray less.",
    ],
    columns: ["buffer, share of the rows", "distance of batch means, random = 1", "batches"],
    rows: results.map(({ share, ratio, batches }) => [
      share === 1 ? "all" : `1/${Math.round(1 / share)}`,
      ratio.toFixed(3),
      count(batches),
    ]),
  };
}
