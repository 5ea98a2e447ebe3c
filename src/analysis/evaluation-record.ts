/** An evaluation as it is written down and compared: numbers, intervals, and what they are over. */
import type { Device } from "../device/device.ts";
import type { PackingRules } from "../model/packing.ts";
import type { Sae } from "../sae/sae.ts";
import { intervalOf, type Drawn } from "./document-draws.ts";
import type { Estimate } from "./document-sums.ts";
import type { ModelEvaluation, SplicedEvaluation } from "./evaluate.ts";
import type { Coverage } from "./evaluation-detail.ts";
import {
  densityDistribution,
  geometryOf,
  spreadOf,
  type DensityDistribution,
  type Geometry,
  type Spread,
} from "./geometry.ts";

/** What was measured, and how. */
export interface Circumstances extends PackingRules {
  model: string;
  hookPoints: readonly string[];
  /** What a transcoder predicts. */
  targetHookPoint?: string | undefined;
  /** Where the text comes from. */
  data: string;
  contextLength: number;
}

/** Which positions count where; the same for every evaluation, said in every one. */
export const RULES = {
  reconstruction:
    "over all positions of the text; beginning- and end-of-sequence positions and padding are not among them",
  predictions:
    "over all predictions of a token of the text, a document's first one included where a beginning-of-sequence token is before it; beginning- and end-of-sequence tokens are never predicted",
  replacement:
    "beginning- and end-of-sequence positions keep their activations; all others are replaced",
  intervals:
    "95 %, percentile bootstrap with 1,000 draws of documents; means that are subtracted stay those of the whole text",
} as const;

/** `lens eval --json`. Per-latent numbers are in `latents`. */
export interface EvaluationRecord {
  format: "lens-evaluation";
  version: 1;
  circumstances: Circumstances;
  rules: typeof RULES;
  coverage: Coverage;
  /** Name → value and interval; formulas in docs/metrics.md. */
  reconstruction: Record<string, Estimate>;
  /** By hook point where the reconstruction was put in. */
  predictions: Record<string, Record<string, Estimate>>;
  density: DensityDistribution;
  geometry: Record<keyof Geometry, Spread | null>;
  /** What could not be said, and why. */
  notes: string[];
  spliced: SplicedEvaluation[];
  latents: Record<"density" | "meanActivation" | keyof Geometry, number[] | null>;
}

/** @throws Error when the evaluation was made without detail. */
export async function evaluationRecord(
  sae: Sae,
  device: Device,
  evaluation: ModelEvaluation,
  circumstances: Circumstances,
): Promise<EvaluationRecord> {
  if (!evaluation.detail) throw new Error("the evaluation has no detail");
  const { density, meanActivation, rows, spliced } = evaluation;
  const geometry = await geometryOf(sae, device);
  const columns = Object.entries(geometry) as [keyof Geometry, Float64Array | null][];
  const over = <T>(value: (column: Float64Array) => T) =>
    Object.fromEntries(columns.map(([name, column]) => [name, column && value(column)])) as Record<
      keyof Geometry,
      T | null
    >;
  const { coverage, reconstruction, predictions, notes } = evaluation.detail.detail();
  return {
    ...{ format: "lens-evaluation", version: 1, circumstances, rules: RULES, coverage },
    ...{ reconstruction, predictions, spliced },
    density: densityDistribution(density, rows),
    geometry: over(spreadOf),
    notes,
    latents: { density: [...density], meanActivation: [...meanActivation], ...over((c) => [...c]) },
  };
}

/** A metric of two evaluations. */
export interface Compared {
  /** Name, of a prediction metric with its hook point where there are several. */
  metric: string;
  a: number;
  b: number;
  /** b − a with its interval over the same documents; `low` and `high` are null where there is none. */
  difference: Estimate;
  /** Whether the interval excludes 0. */
  differs: boolean;
}

/**
 * Statistics that both have, by name. `paired`: both were drawn from the same units by the same draws;
 * otherwise draws of the one are put together with others of the other.
 */
export function compareDrawn(
  a: Record<string, Drawn>,
  b: Record<string, Drawn>,
  paired: (metric: string) => boolean,
): Compared[] {
  return Object.entries(a).flatMap(([metric, one]) => {
    const other = b[metric] as Drawn | undefined;
    if (!other) return [];
    const count = Math.min(one.draws.length, other.draws.length);
    const shift = paired(metric) ? 0 : Math.floor(count / 2);
    const draws = Float64Array.from(
      { length: count },
      (_, i) => other.draws[(i + shift) % count] - one.draws[i],
    );
    const { value, low, high } = intervalOf({ value: other.value - one.value, draws });
    const isKnown = Number.isFinite(low) && Number.isFinite(high);
    const difference = { value, low: isKnown ? low : null, high: isKnown ? high : null };
    const differs = isKnown && (low > 0 || high < 0);
    return [{ metric, a: one.value, b: other.value, difference, differs }];
  });
}

/** Every metric of `a` and `b`, which were measured on the same text. */
export function compareEvaluations(
  a: { record: EvaluationRecord; evaluation: ModelEvaluation },
  b: { record: EvaluationRecord; evaluation: ModelEvaluation },
): Compared[] {
  const found = a.evaluation.detail!.differences(b.evaluation.detail!);
  const several = a.record.spliced.length > 1;
  const rows = (
    [one, other]: [Record<string, Estimate>, Record<string, Estimate>],
    differences: Record<string, Estimate>,
    prefix = "",
  ) =>
    Object.entries(differences).map(([name, difference]) => {
      const { low, high } = difference;
      const differs = low !== null && high !== null && (low > 0 || high < 0);
      const values = { a: one[name].value, b: other[name].value };
      return { metric: `${prefix}${name}`, ...values, difference, differs };
    });
  const spliced = Object.entries(found.predictions).flatMap(([place, differences], s) =>
    rows(
      [Object.values(a.record.predictions)[s], Object.values(b.record.predictions)[s]],
      differences,
      several ? `${place}: ` : "",
    ),
  );
  const latents = latentNumbers(a.record).map(([metric, value], i) => {
    const other = latentNumbers(b.record)[i][1];
    const difference = { value: other - value, low: null, high: null };
    return { metric, a: value, b: other, difference, differs: false };
  });
  return [
    ...rows([a.record.reconstruction, b.record.reconstruction], found.reconstruction),
    ...spliced,
    ...latents,
  ];
}

/** Numbers of the latents, which no draw of documents gives an interval. */
export function latentNumbers({ density, geometry }: EvaluationRecord): [string, number][] {
  const { alive, dead, above1Percent, above10Percent, spread } = density;
  const medians = Object.entries(geometry).flatMap(([name, column]): [string, number][] =>
    column ? [[`${name} (median)`, column.median]] : [],
  );
  return [
    ["deadFraction", dead / (alive + dead)],
    ["denseFraction", above10Percent],
    ["above1Percent", above1Percent],
    ["density (median)", spread.median],
    ...medians,
  ];
}
