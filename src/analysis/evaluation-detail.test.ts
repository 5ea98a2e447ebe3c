import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { afterAll, describe, expect, it } from "vitest";
import { openDevice } from "../device/device.ts";
import { loadModel, type Model } from "../model/model.ts";
import { loadSae } from "../sae/formats.ts";
import { Sae } from "../sae/sae.ts";
import { DocumentSums, estimates } from "./document-sums.ts";
import { evaluate, evaluateAll } from "./evaluate.ts";
import {
  compareEvaluations,
  evaluationRecord,
  type EvaluationRecord,
} from "./evaluation-record.ts";
import { densityDistribution, geometryOf } from "./geometry.ts";

interface Estimated {
  value: number;
  low: number;
  high: number;
}

/** As test/oracles/evaluation.py found it. */
interface Expected {
  options: { hookPoint: string; contextLength: number; texts: string[] };
  positions: number;
  predictions: number;
  reconstruction: Record<string, Estimated>;
  prediction: Record<string, Estimated>;
  density: Record<string, unknown>;
  geometry: Record<string, number[]>;
}

const fixture = (path: string) =>
  fileURLToPath(new URL(`../../test/fixtures/${path}`, import.meta.url));
const expected = JSON.parse(readFileSync(fixture("evaluation/expected.json"), "utf8")) as Expected;
const model = await loadModel("builtin:tiny");
const { sae } = await loadSae(fixture("evaluation/sae"));
const device = await openDevice("reference");
afterAll(async () => {
  await model.close();
  await device.close();
});

const { hookPoint, contextLength, texts } = expected.options;
const documents = () => texts.map((text, i) => ({ id: String(i), text }));
const options = { hookPoint, contextLength, device, tokens: 10_000, detail: true };
const circumstances = {
  ...{ model: "builtin:tiny", hookPoints: [hookPoint], data: "texts", contextLength },
  bos: "document" as const,
};

function near(found: number, wanted: number, name: string, tolerance = 1e-5): void {
  expect(Math.abs(found - wanted), `${name}: ${found}, not ${wanted}`).toBeLessThanOrEqual(
    tolerance * Math.max(Math.abs(wanted), 1e-6),
  );
}

/** The model with each row by itself in a batch, so that its numbers cannot depend on how rows are batched. */
const byRow = new Proxy(model, {
  get(target, key) {
    if (key !== "forward") {
      const value: unknown = Reflect.get(target, key, target);
      return typeof value === "function" ? (value.bind(target) as unknown) : value;
    }
    return async (whole: Parameters<Model["forward"]>[0]) => {
      const { tokens, batch, length, patch = {} } = whole;
      const parts: Awaited<ReturnType<Model["forward"]>>[] = [];
      for (let r = 0; r < batch; r++) {
        const ends = (values: ArrayLike<number>) =>
          [r, r + 1].map((at) => (at * values.length) / batch) as [number, number];
        const mine = Object.entries(patch).map(([name, v]) => [name, v.slice(...ends(v))]);
        const row = { ...whole, tokens: tokens.slice(...ends(tokens)), batch: 1, length };
        const patched = Object.fromEntries(mine) as typeof patch;
        parts.push(await target.forward({ ...row, patch: patched }));
      }
      const joined = (of: (part: (typeof parts)[0]) => Float32Array | undefined) => {
        const pieces = parts.map((part) => of(part)!);
        const out = new Float32Array(pieces[0].length * batch);
        pieces.forEach((piece, r) => {
          out.set(piece, r * piece.length);
        });
        return out;
      };
      const names = Object.keys(parts[0].activations);
      return {
        activations: Object.fromEntries(
          names.map((name) => [name, joined((part) => part.activations[name])]),
        ),
        ...(whole.logits && { logits: joined((part) => part.logits) }),
        ...(whole.loss && { loss: joined((part) => part.loss) }),
      };
    };
  },
});

describe("a detailed evaluation", () => {
  it("has every number that PyTorch and numpy find by plain formulas in float64", async () => {
    const evaluation = await evaluate(sae, model, documents, options);
    const { coverage, reconstruction, predictions, notes } = evaluation.detail!.detail();
    expect(coverage).toEqual({
      ...{ positions: expected.positions, predictions: expected.predictions },
      ...{ documents: texts.length, documentsPerUnit: 1 },
    });
    expect(notes).toEqual([]);
    const parts = [
      [reconstruction, expected.reconstruction],
      [predictions[hookPoint], expected.prediction],
    ] as const;
    for (const [found, wanted] of parts) {
      expect(Object.keys(found)).toEqual(Object.keys(wanted));
      for (const [name, { value, low, high }] of Object.entries(wanted)) {
        near(found[name].value, value, name);
        // Other draws, of which 1,000 leave the ends uncertain by some per cent of the width.
        const slack = 0.15 * (high - low) + 1e-9;
        expect(Math.abs(found[name].low! - low), `${name} low`).toBeLessThanOrEqual(slack);
        expect(Math.abs(found[name].high! - high), `${name} high`).toBeLessThanOrEqual(slack);
      }
    }
  });

  it("has the numbers of the plain evaluation, which has no detail", async () => {
    const plain = await evaluate(sae, model, documents, { ...options, detail: false });
    const { detail, ...same } = await evaluate(sae, model, documents, options);
    expect(same).toEqual(plain);
    const { reconstruction, predictions } = detail!.detail();
    for (const name of ["l0", "l1", "mse", "fvu", "cosine"] as const)
      near(reconstruction[name].value, plain[name], name, 1e-6);
    for (const name of ["ceLossRecovered", "ceLossRecoveredFromMean"] as const)
      near(predictions[hookPoint][name].value, plain[name], name, 1e-9);
  });

  it("has the very same numbers and intervals whatever the batch, and wherever reading stops", async () => {
    for (const tokens of [10_000, 100]) {
      const [one, three, all] = await Promise.all(
        [1, 3, 64].map(async (batchRows) => {
          const run = { ...options, tokens, batchRows };
          return (await evaluate(sae, byRow, documents, run)).detail!.detail();
        }),
      );
      expect(three).toEqual(one);
      expect(all).toEqual(one);
      expect(one.coverage.positions < expected.positions).toBe(tokens === 100);
    }
  });

  it("says that there are too few documents for an interval instead of printing one", async () => {
    const few = await evaluate(sae, model, () => documents().slice(0, 4), options);
    const { reconstruction, notes } = few.detail!.detail();
    expect(reconstruction.fvu).toMatchObject({ low: null, high: null });
    expect(notes).toEqual([expect.stringContaining("no intervals: the text has 4 documents")]);
  });

  it("gives no score where an ablation does not clearly cost anything", async () => {
    const random = await loadModel(fixture("gpt2-tiny/f32"));
    try {
      const width = random.hookWidth(hookPoint);
      const ones = new Float32Array(width).fill(1);
      const spec = { selection: { architecture: "relu" }, dIn: width, dSae: 1 } as const;
      const weights = { W_enc: ones, b_enc: new Float32Array(1), W_dec: ones, b_dec: ones };
      const one = new Sae({ ...spec, applyBDecToInput: false }, weights);
      const found = await evaluate(one, random, documents, { ...options, contextLength: 32 });
      const { predictions, notes } = found.detail!.detail();
      const { ceLossRecovered, klRecovered } = predictions[hookPoint];
      expect(ceLossRecovered).toEqual({ value: NaN, low: null, high: null });
      expect(klRecovered.low).not.toBeNull();
      expect(notes).toEqual([expect.stringMatching(/^no ceLossRecovered at .*: replacing/)]);
    } finally {
      await random.close();
    }
  });

  it("finds no difference to itself, and one to an SAE without its decoder bias", async () => {
    const { b_dec, spec } = sae;
    const other = new Sae(spec, { ...sae, b_dec: b_dec.map((v) => v * 0.9) });
    const evaluations = await evaluateAll([sae, sae, other], model, documents, options);
    const records: EvaluationRecord[] = [];
    for (const [i, one] of [sae, sae, other].entries())
      records.push(await evaluationRecord(one, device, evaluations[i], circumstances));
    const at = (i: number) => ({ record: records[i], evaluation: evaluations[i] });
    for (const { metric, difference, differs } of compareEvaluations(at(0), at(1))) {
      expect(difference.value, metric).toBe(0);
      expect(differs, metric).toBe(false);
    }
    const found = compareEvaluations(at(0), at(2));
    const fvu = found.find(({ metric }) => metric === "fvu")!;
    expect(fvu.differs).toBe(true);
    expect(fvu.difference.value).toBeCloseTo(fvu.b - fvu.a, 12);
    expect(fvu.difference.low!).toBeLessThan(fvu.difference.value);
    expect(fvu.difference.high!).toBeGreaterThan(fvu.difference.value);
    // Paired draws: the spread between documents that both have in common is no part of the interval.
    const alone = records[2].reconstruction.fvu;
    expect(fvu.difference.high! - fvu.difference.low!).toBeLessThan(alone.high! - alone.low!);
  });
});

describe("latents", () => {
  it("fire as often as numpy counts", async () => {
    const { density, rows } = await evaluate(sae, model, documents, options);
    const { positions, ...found } = densityDistribution(density, rows);
    expect(positions).toBe(expected.positions);
    const { spread, histogram, ...counts } = expected.density as unknown as typeof found;
    expect(found).toMatchObject(counts);
    expect(found.histogram.counts).toEqual(histogram.counts);
    for (const [i, edge] of histogram.edges.entries())
      expect(Math.abs(found.histogram.edges[i] - edge)).toBeLessThan(1e-12);
    for (const [name, value] of Object.entries({ ...spread } as Record<string, number>))
      near(found.spread[name as keyof typeof spread], value, name, 1e-9);
  });

  it("lie to each other as PyTorch finds", async () => {
    const found = await geometryOf(sae, device);
    for (const [name, wanted] of Object.entries(expected.geometry))
      for (const [f, value] of wanted.entries())
        near(found[name as keyof typeof found]![f], value, `${name}[${f}]`);
  });
});

describe("sums by document", () => {
  it("put neighbours together when there are more documents than room, and lose nothing", () => {
    const whole = new DocumentSums<"n" | "v">(["n", "v"], 1, 4096);
    const merged = new DocumentSums<"n" | "v">(["n", "v"], 1, 16);
    for (const sums of [whole, merged])
      for (let d = 0; d < 1000; d++) {
        sums.add(d, { n: 1, v: d });
        sums.vector(d)[0] += d;
      }
    expect(merged.documentsPerUnit).toBe(64);
    expect(merged.units("n").length).toBe(16);
    expect(merged.documents).toBe(1000);
    expect(merged.totals()).toEqual(whole.totals());
    expect(merged.vectorTotal()).toEqual(Float64Array.of(499_500));
    expect(merged.of(Int32Array.of(1))).toEqual({ n: 64, v: (64 + 127) * 32 });
    const { mean } = estimates(merged, { mean: ({ n, v }) => v / n }, "n");
    expect(mean.value).toBe(499.5);
    expect(mean.low!).toBeLessThan(499.5);
    expect(mean.high!).toBeGreaterThan(499.5);
  });
});
