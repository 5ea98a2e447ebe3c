/** Random settings: whatever is legal trains without NaN, whatever is not is refused in words. */
import { afterAll, expect, test } from "vitest";

import { memorySource } from "../activation-source.ts";
import { openDevice } from "../device/device.ts";
import { UserError } from "../error.ts";
import { Rng } from "../rng.ts";
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

function legal(c: Choice) {
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
      ...{ matryoshkaWidths: width < dSae ? [width] : [], applyBDecToInput: c.of(true, false) },
      ...{ init: c.of("tied", "xavier"), unitNormDecoder: c.of(true, false) },
      decoderBiasInit: c.of("mean", "zero", "geometricMedian"),
      normalizeActivations: c.of("none", "expectedAverageNorm", "rms"),
    }),
  };
  if ("thresholdRate" in sae && sae.thresholdRate === undefined) delete sae.thresholdRate;
  const train = {
    ...{ steps: 20, logEvery: 5, batchSize: c.whole(1, 40), learningRate: c.power(-4, -2) },
    ...c.some({
      ...{ warmupSteps: c.whole(0, 9), decaySteps: c.whole(0, 9), deadAfterTokens: c.whole(1, 99) },
      ...{ schedule: c.of("constant", "linear", "cosine"), clipGradNorm: c.power(-2, 2) },
      ...{ emaDecay: c.of(0, 0.9), resampleEvery: c.whole(0, 9), beta1: c.of(0, 0.9) },
    }),
  };
  return { sae, train };
}

function source(c: Choice) {
  const dIn = c.whole(1, 19);
  const rows = c.whole(1, 90);
  const scale = c.power(-3, 3);
  const rng = new Rng(c.whole(0, 1e6), "data");
  const kind = c.of("gaussian", "offset", "some zero rows");
  const data = Float32Array.from({ length: rows * dIn }, (_, i) => {
    if (kind === "some zero rows" && Math.floor(i / dIn) % 3 === 0) return 0;
    return scale * (rng.normal() + (kind === "offset" ? 20 : 0));
  });
  data[0] += scale; // Never all of it 0.
  return memorySource(data, dIn);
}

test.each(Array.from({ length: 60 }, (_, seed) => seed))(
  "legal settings train twenty steps without NaN (%i)",
  async (seed) => {
    const c = new Choice(seed);
    const options = { ...legal(c), source: source(c), seed };
    const trainer = await Trainer.create(device, options as never);
    const validation = options.source;
    let steps = 0;
    for await (const metrics of trainer.fit({ validation })) {
      steps = metrics.step;
      for (const [name, value] of Object.entries({ ...metrics, ...metrics.terms }))
        // With a single row there is no variance to explain.
        if (typeof value === "number" && name !== "fvu")
          expect(value, `${name} at step ${steps}: ${JSON.stringify(options)}`).toSatisfy(
            Number.isFinite,
          );
    }
    expect(steps).toBe(20);
    await trainer.sae();
    trainer.close();
  },
);

const wrong: [string, Record<string, unknown>, Record<string, unknown>, RegExp][] = [
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
];

test.each(wrong)("%s is refused in words", async (_, sae, train, message) => {
  const options = { sae, train, source: memorySource(new Float32Array(90).fill(1), 9) };
  const created = Trainer.create(device, options as never);
  await expect(created).rejects.toThrow(UserError);
  await expect(created).rejects.toThrow(message);
});
