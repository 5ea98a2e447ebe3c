/** Random settings: whatever is legal trains without NaN, whatever is not is refused in words. */
import { afterAll, expect, test } from "vitest";

import { memorySource, type RowSource } from "../activation-source.ts";
import { saeSchema, trainSchema } from "../config.ts";
import { openDevice } from "../device/device.ts";
import { UserError } from "../error.ts";
import { Rng } from "../rng.ts";
import { joinedSource, pairedSource } from "../zipped-source.ts";
import { Trainer } from "./train.ts";

const device = await openDevice("cpu", { threads: 2 });
afterAll(() => device.close());

class Choice {
  readonly #rng: Rng;
  constructor(seed: number) {
    this.#rng = new Rng(seed, "fuzz");
  }
  of<T>(...values: T[]): T {
    return values[this.#rng.int(values.length)];
  }
  whole(from: number, to: number): number {
    return from + this.#rng.int(to - from + 1);
  }
  /** Between 10^from and 10^to. */
  power(from: number, to: number): number {
    return 10 ** (from + (to - from) * this.#rng.uniform());
  }
  /** Some of the settings, so that defaults are met too. */
  some<T extends object>(settings: T): Partial<T> {
    return Object.fromEntries(
      Object.entries(settings).filter(() => this.#rng.int(2) === 1),
    ) as Partial<T>;
  }
}

type Structure = "autoencoder" | "transcoder" | "crosscoder";

function legal(c: Choice, structure: Structure) {
  const dSae = c.whole(1, 70);
  const architecture = c.of("topk", "relu", "batchTopk", "jumprelu", "gated");
  const width = c.whole(1, dSae);
  const k = c.whole(1, dSae);
  const penalised = {
    ...{ coefficientUnits: c.of("inputRms", "raw"), sparsityWarmupSteps: c.whole(0, 9) },
    targetL0: c.whole(1, dSae),
  };
  const topk = {
    ...{ kStart: c.whole(k, dSae), kAnnealSteps: c.whole(0, 15), auxK: c.whole(1, dSae) },
    ...{ auxKCoefficient: c.power(-3, 1), thresholdRate: undefined },
    auxKVariant: c.of("summed", "openai", "eleuther", "saelens"),
  };
  const own = {
    topk: { k, ...c.some(topk) },
    batchTopk: { k, ...c.some({ ...topk, thresholdRate: c.power(-3, 0) }) },
    relu: {
      ...c.some({ ...penalised, l1: c.power(-3, 2) }),
      ...c.of(
        { loss: "mean" },
        { pEnd: c.power(-1, 0), pAnnealStart: c.whole(0, 30), pUpdates: 3 },
      ),
    },
    gated: c.some({ ...penalised, l1: c.power(-3, 2), auxCoefficient: c.power(-2, 1) }),
    jumprelu: {
      ...c.some({ ...penalised, l0Coefficient: c.power(-3, 1), tanhScale: c.power(-1, 1) }),
      ...c.some({ bandwidth: c.power(-3, 1), initialThreshold: c.power(-3, 1) }),
      ...c.some({ preActCoefficient: c.power(-4, 0), preActOn: c.of("dead", "all") }),
      ...c.of({ sparsityLoss: c.of("step", "tanh") }, { sparsityLoss: "quadratic", targetL0: 3 }),
    },
  }[architecture];
  const sae = {
    ...{ architecture, dSae, ...own },
    ...c.some({
      matryoshkaWidths: width < dSae ? [width] : [],
      applyBDecToInput: structure === "transcoder" ? false : c.of(true, false),
      ...{ init: c.of("tied", "xavier", "data"), unitNormDecoder: c.of(true, false) },
      decoderBiasInit: c.of("mean", "zero", "geometricMedian"),
      normalizeActivations: c.of(
        ...["none", "expectedAverageNorm", "rms"],
        ...(structure !== "crosscoder" ? ["whitening"] : []),
        ...(structure === "autoencoder" ? ["layerNorm"] : []),
      ),
      ...(structure === "transcoder" && { skip: c.of(true, false) }),
    }),
  };
  if ("thresholdRate" in sae && sae.thresholdRate === undefined) delete sae.thresholdRate;
  const train = {
    ...{ steps: 20, logEvery: 5, batchSize: c.whole(1, 40), learningRate: c.power(-4, -2) },
    ...c.some({
      ...{ warmupSteps: c.whole(0, 9), decaySteps: c.whole(0, 9), deadAfterTokens: c.whole(1, 99) },
      ...{ schedule: c.of("constant", "linear", "cosine"), clipGradNorm: c.power(-2, 2) },
      ...{ emaDecay: c.of(0, 0.9), beta1: c.of(0, 0.9), beta2: c.of(0.9, 0.999) },
      ...{ resampleEvery: c.whole(0, 9), resampleUntil: c.whole(0, 15), eps: c.power(-10, -3) },
      ...{ finalLearningRate: c.of(0, 0.3, 1), shuffle: c.of(true, false) },
      ...{ bufferRows: c.whole(1, 99), mixing: c.of("store", "window") },
    }),
  };
  return { sae, train };
}

function rowsOf(c: Choice, rows: number, width: number): RowSource {
  const scale = c.power(-3, 3);
  const rng = new Rng(c.whole(0, 1e6), "data");
  const kind = c.of("gaussian", "offset", "some zero rows", "rank 1", "one large column");
  const data = Float32Array.from({ length: rows * width }, (_, i) => {
    const column = i % width;
    if (kind === "some zero rows" && Math.floor(i / width) % 3 === 0) return 0;
    if (kind === "rank 1") return scale * ((Math.floor(i / width) % 7) - 3) * (column + 1);
    const factor = kind === "one large column" && column === 0 ? 1000 : 1;
    return scale * factor * (rng.normal() + (kind === "offset" ? 20 : 0));
  });
  data[0] += scale; // Never all of it 0.
  return memorySource(data, width);
}

function source(c: Choice, structure: Structure): RowSource {
  // Whitening needs some variance.
  const rows = c.whole(2, 90);
  const inputs = rowsOf(c, rows, c.whole(1, 19));
  if (structure === "transcoder") return pairedSource(inputs, rowsOf(c, rows, c.whole(1, 19)));
  if (structure === "autoencoder") return inputs;
  return joinedSource([inputs, ...c.of([], [1], [1, 2]).map(() => rowsOf(c, rows, inputs.dIn))]);
}

/** All that legal settings are drawn for, by seeds that the test below runs through. */
const draws = Array.from({ length: 90 }, (_, seed) => {
  const c = new Choice(seed);
  const structure = c.of<Structure>("autoencoder", "autoencoder", "transcoder", "crosscoder");
  return { seed, structure, ...legal(c, structure), source: source(c, structure) };
});

/** They are about disk and logging, budgets and other runs. */
const elsewhere = [
  ...["dSae", "expansion", "architecture", "epochs", "tokens", "steps", "from", "logEvery"],
  ...["validateEvery", "checkpointEvery", "keepCheckpoints", "earlyStopPatience"],
  "earlyStopMinDelta",
];

test("every setting of the autoencoder and of training is drawn", () => {
  const known = [...saeSchema.options, trainSchema].flatMap((schema) => Object.keys(schema.shape));
  const drawn = new Set(
    draws.flatMap(({ sae, train }) => [...Object.keys(sae), ...Object.keys(train)]),
  );
  const left = known.filter((name) => !drawn.has(name) && !elsewhere.includes(name));
  expect([...new Set(left)]).toEqual([]);
});

test.each(draws)(
  "legal settings train twenty steps without NaN ($seed, $structure)",
  async ({ seed, sae, train, source }) => {
    const options = { sae, train, source, seed };
    const what = JSON.stringify({ sae, train });
    const trainer = await Trainer.create(device, options as never);
    let steps = 0;
    for await (const metrics of trainer.fit({ validation: source })) {
      steps = metrics.step;
      const { terms, validation } = metrics;
      for (const [name, value] of Object.entries({ ...metrics, ...terms, ...validation?.terms }))
        // With a single row there is no variance to explain.
        if (typeof value === "number" && name !== "fvu")
          expect(value, `${name} at step ${steps}: ${what}`).toSatisfy(Number.isFinite);
    }
    expect(steps).toBe(20);
    const folded = (await trainer.sae()).fold();
    trainer.close();
    for (const weights of [folded.W_enc, folded.b_enc, folded.W_dec, folded.b_dec])
      expect(weights.every(Number.isFinite), what).toBe(true);
  },
);

const x = memorySource(new Float32Array(90).fill(1), 9);
const pair = pairedSource(x, x);

const wrong: [string, Record<string, unknown>, Record<string, unknown>, RegExp, RowSource?][] = [
  [
    "k above dSae",
    { architecture: "topk", k: 71, dSae: 70 },
    {},
    /k must be at most dSae \(70\); got 71/,
  ],
  [
    "auxK above dSae",
    { architecture: "topk", k: 2, dSae: 7, auxK: 8 },
    {},
    /auxK must be at most dSae/,
  ],
  [
    "kStart below k",
    { architecture: "topk", k: 5, kStart: 3 },
    {},
    /kStart must be at least k \(5\)/,
  ],
  ["widths that fall", { matryoshkaWidths: [9, 4] }, {}, /matryoshkaWidths must rise/],
  ["a width above dSae", { dSae: 5, k: 2, matryoshkaWidths: [9] }, {}, /at most dSae \(5\)/],
  [
    "a setting of another architecture",
    { architecture: "topk", l1: 3 },
    {},
    /l1 does not exist here/,
  ],
  [
    "quadratic without a target",
    { architecture: "jumprelu", sparsityLoss: "quadratic" },
    {},
    /needs sae.targetL0/,
  ],
  [
    "p-annealing of a mean",
    { architecture: "relu", loss: "mean", pEnd: 0.5 },
    {},
    /needs sae.loss sum/,
  ],
  ["a negative coefficient", { architecture: "relu", l1: -1 }, {}, /l1 must be at least 0; got -1/],
  [
    "a bandwidth of 0",
    { architecture: "jumprelu", bandwidth: 0 },
    {},
    /bandwidth must be more than 0/,
  ],
  ["an unknown architecture", { architecture: "gatde" }, {}, /did you mean gated/],
  ["a decay of 1", {}, { emaDecay: 1 }, /emaDecay must be less than 1/],
  ["a clip of 0", {}, { clipGradNorm: 0 }, /clipGradNorm must be more than 0/],
  ["two budgets", {}, { steps: 3, epochs: 1 }, /only one of epochs, tokens and steps/],
  ["an unknown way to begin", { init: "date" }, {}, /did you mean data/],
  ["whitening what does not vary", { normalizeActivations: "whitening" }, {}, /variance is 0/],
  ["a skip connection without a target", { skip: true }, {}, /sae.skip is for transcoders/],
  [
    "a transcoder that subtracts its bias from the input",
    ...([{ applyBDecToInput: true }, {}, /cannot be true for a transcoder/, pair] as const),
  ],
  [
    "a transcoder on rows normalised one by one",
    ...([{ normalizeActivations: "layerNorm" }, {}, /use rms or whitening/, pair] as const),
  ],
  [
    "a whitened crosscoder",
    ...([
      { normalizeActivations: "whitening" },
      {},
      /is for one hook point/,
      joinedSource([x, x]),
    ] as const),
  ],
  [
    "a crosscoder of different widths",
    ...([{}, {}, /must have one width; these have 9, 5/] as const),
    joinedSource([x, memorySource(new Float32Array(50).fill(1), 5)]),
  ],
];

test.each(wrong)("%s is refused in words", async (_, sae, train, message, source = x) => {
  const options = { sae, train, source };
  const created = Trainer.create(device, options as never);
  await expect(created).rejects.toThrow(UserError);
  await expect(created).rejects.toThrow(message);
});
