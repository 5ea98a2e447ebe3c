/**
 * Every metric of an SAE in its model with an interval over documents: what `evaluate` adds up by
 * document when it is asked for detail, and what becomes of the sums.
 */
import { logSumExp } from "../model/generate.ts";
import { RECONSTRUCTION_FORMULAS, rowParts, type RowSums } from "../sae/metrics.ts";
import { eachActive, type BatchCodes } from "../sae/sae-on-device.ts";
import type { RowBatch } from "./codes.ts";
import {
  differences,
  DocumentSums,
  estimates,
  MIN_UNITS,
  type Estimate,
  type Sums,
} from "./document-sums.ts";
import type { Predictions, Splice } from "./splice.ts";

/** What stands in the place of the activations: the reconstruction, 0, their mean. */
export type Replacement = "sae" | "zero" | "mean";

type RowColumn = Exclude<keyof RowSums, "width">;
const ROW_COLUMNS: readonly RowColumn[] = [
  ...(["rows", "sse", "centredError", "spread", "xSquared", "outSquared", "dot"] as const),
  ...(["cosines", "normRatios", "errorRatios", "active", "activation"] as const),
];

/** Σ over predictions of the loss, and of the divergence from the model as it is. */
type PredictionColumn = "predictions" | "clean" | Replacement | `kl.${Replacement}`;
const PREDICTION_COLUMNS: readonly PredictionColumn[] = [
  ...(["predictions", "clean", "sae", "zero", "mean"] as const),
  ...(["kl.sae", "kl.zero", "kl.mean"] as const),
];

type Predicted = Sums<PredictionColumn>;

/**
 * What a replacement does to the model's predictions; nats, means over the predictions of a token of
 * the text. CE = −log p(token); KL = Σ_v p_clean(v) (log p_clean(v) − log p(v)).
 */
const PREDICTION_FORMULAS = {
  ceClean: (s) => s.clean / s.predictions,
  ceSae: (s) => s.sae / s.predictions,
  ceZero: (s) => s.zero / s.predictions,
  ceMean: (s) => s.mean / s.predictions,
  /** CE_sae − CE_clean. */
  ceIncrease: (s) => (s.sae - s.clean) / s.predictions,
  /** (CE_zero − CE_sae) / (CE_zero − CE_clean). */
  ceLossRecovered: (s) => (s.zero - s.sae) / (s.zero - s.clean),
  /** (CE_mean − CE_sae) / (CE_mean − CE_clean). */
  ceLossRecoveredFromMean: (s) => (s.mean - s.sae) / (s.mean - s.clean),
  klSae: (s) => s["kl.sae"] / s.predictions,
  klZero: (s) => s["kl.zero"] / s.predictions,
  klMean: (s) => s["kl.mean"] / s.predictions,
  /** (KL_zero − KL_sae) / KL_zero. */
  klRecovered: (s) => (s["kl.zero"] - s["kl.sae"]) / s["kl.zero"],
  /** (KL_mean − KL_sae) / KL_mean. */
  klRecoveredFromMean: (s) => (s["kl.mean"] - s["kl.sae"]) / s["kl.mean"],
} satisfies Record<string, (sums: Predicted) => number>;

/** What a score is a share of. */
const GAPS = {
  ceLossRecovered: (s) => (s.zero - s.clean) / s.predictions,
  ceLossRecoveredFromMean: (s) => (s.mean - s.clean) / s.predictions,
} satisfies Partial<Record<keyof typeof PREDICTION_FORMULAS, (sums: Predicted) => number>>;

/** What every number of a detailed evaluation is over. */
export interface Coverage {
  /** Activations that reconstruction metrics are over: beginning-of-sequence positions are none. */
  positions: number;
  /** Predictions that CE and KL are over: those of a token of the text. */
  predictions: number;
  documents: number;
  /** Consecutive documents that the bootstrap draws together; above 1 only for very long texts. */
  documentsPerUnit: number;
}

/** Metrics with their 95 % intervals over documents. */
export interface EvaluationDetail {
  coverage: Coverage;
  reconstruction: Record<string, Estimate>;
  /** By hook point, where reconstructions were put in. */
  predictions: Record<string, Record<string, Estimate>>;
  /** What could not be said, and why. */
  notes: string[];
}

/** Sums by document of one SAE over one text. */
export class DetailSums {
  readonly #rows: DocumentSums<RowColumn>;
  readonly #spliced: { hookPoint: string; sums: DocumentSums<PredictionColumn> }[];
  readonly #mean: Float64Array;
  readonly #dSae: number;

  constructor(splices: readonly Splice[], dSae: number, units?: number) {
    this.#mean = Float64Array.from(splices.flatMap(({ mean }) => [...mean]));
    this.#dSae = dSae;
    this.#rows = new DocumentSums(ROW_COLUMNS, this.#mean.length, units);
    this.#spliced = splices.map(({ hookPoint }) => ({
      hookPoint,
      sums: new DocumentSums(PREDICTION_COLUMNS, 0, units),
    }));
  }

  /** Adds a batch's kept rows: what was to be reconstructed and what was, both [kept, d], and the latents. */
  addRows(batch: RowBatch, x: Float32Array, out: Float32Array, codes: BatchCodes): void {
    const { kept } = batch;
    const width = this.#mean.length;
    const active = new Float64Array(kept.length);
    const activation = new Float64Array(kept.length);
    eachActive(codes, kept.length, this.#dSae, (row, _latent, value) => {
      active[row]++;
      activation[row] += value;
    });
    for (const [n, at] of kept.entries()) {
      const document = batch.rows[Math.floor(at / batch.length)].documents[at % batch.length];
      const parts = rowParts(x, out, n * width, this.#mean, this.#rows.vector(document));
      const more = { rows: 1, active: active[n], activation: activation[n] };
      this.#rows.add(document, { ...parts, ...more });
    }
  }

  /** Adds Σ over a batch's predictions of one column of the `splice`-th hook point. */
  addPredictions(
    splice: number,
    column: PredictionColumn,
    { places, documents }: Predictions,
    value: (place: number) => number,
  ): void {
    const { sums } = this.#spliced[splice];
    for (const [i, place] of places.entries()) sums.add(documents[i], { [column]: value(place) });
  }

  /** The numbers, once everything is added. */
  detail(): EvaluationDetail {
    this.#centre();
    const reconstruction = estimates(this.#rows, this.#formulas(), "rows");
    const notes = notesOn(this.#rows, reconstruction);
    const predictions = Object.fromEntries(
      this.#spliced.map(({ hookPoint, sums }) => {
        const found = estimates(sums, PREDICTION_FORMULAS, "predictions");
        const gaps = estimates(sums, GAPS, "predictions");
        for (const name of Object.keys(GAPS) as (keyof typeof GAPS)[]) {
          const { value, low, high } = gaps[name];
          if (low === null || high === null || low > 0) continue;
          found[name] = { value: NaN, low: null, high: null };
          notes.push(
            `no ${name} at ${hookPoint}: replacing the activations by ${name === "ceLossRecovered" ? "0" : "their mean"} changes the loss by ${value.toPrecision(3)} nats, 95 % interval ${low.toPrecision(3)} to ${high.toPrecision(3)}, so there is no loss to recover`,
          );
        }
        return [hookPoint, found];
      }),
    );
    return { coverage: this.#coverage(), reconstruction, predictions, notes };
  }

  /** `other` − this, of every metric, on draws of the same documents. Both must be sums over the same text. */
  differences(other: DetailSums): Pick<EvaluationDetail, "reconstruction" | "predictions"> {
    this.#centre();
    other.#centre();
    const pairs = this.#spliced.map(({ hookPoint, sums }, s) => {
      const theirs = other.#spliced[s];
      const name =
        hookPoint === theirs.hookPoint ? hookPoint : `${hookPoint} → ${theirs.hookPoint}`;
      const found = differences(
        [sums, theirs.sums],
        [PREDICTION_FORMULAS, PREDICTION_FORMULAS],
        "predictions",
      );
      return [name, found] as const;
    });
    return {
      reconstruction: differences(
        [this.#rows, other.#rows],
        [this.#formulas(), other.#formulas()],
        "rows",
      ),
      predictions: Object.fromEntries(pairs),
    };
  }

  /** Σ ‖e − ē‖² of a unit from Σ ‖e‖² and Σ e; ē is the mean over the whole text, in every draw. */
  #centre(): void {
    const { rows } = this.#rows.totals();
    const mean = this.#rows.vectorTotal().map((sum) => sum / rows);
    const squared = mean.reduce((sum, v) => sum + v * v, 0);
    this.#rows.setFromVector("centredError", (errors, sums) => {
      const along = errors.reduce((sum, v, c) => sum + v * mean[c], 0);
      return sums.sse - 2 * along + sums.rows * squared;
    });
  }

  #formulas(): Record<string, (sums: Sums<RowColumn>) => number> {
    const width = this.#mean.length;
    return Object.fromEntries(
      Object.entries(RECONSTRUCTION_FORMULAS).map(([name, formula]) => [
        name,
        (sums: Sums<RowColumn>) => formula({ ...sums, width }),
      ]),
    );
  }

  #coverage(): Coverage {
    const { sums } = this.#spliced[0];
    const { documentsPerUnit, documents } = this.#rows;
    return {
      positions: this.#rows.totals().rows,
      predictions: sums.totals().predictions,
      documents,
      documentsPerUnit,
    };
  }
}

function notesOn(rows: DocumentSums<RowColumn>, found: Record<string, Estimate>): string[] {
  const units = rows.units("rows").length;
  const notes: string[] = [];
  if (units < MIN_UNITS)
    notes.push(
      `no intervals: the text has ${units} document${units === 1 ? "" : "s"}, and a bootstrap over fewer than ${MIN_UNITS} says nothing`,
    );
  const undefinedOnes = Object.keys(found).filter((name) => !Number.isFinite(found[name].value));
  if (undefinedOnes.length > 0)
    notes.push(
      `no number for ${undefinedOnes.join(", ")}: what it is divided by is 0 in this text`,
    );
  return notes;
}

/**
 * KL(clean ‖ patched) at each of some places, in float64: Σ_v p(v) (log p(v) − log q(v)).
 * Logits are [rows, length, vocabulary]; a place counts [rows, length − 1].
 */
export class Divergence {
  readonly #clean: Float32Array;
  readonly #length: number;
  readonly #vocab: number;
  /** log Σ exp of the clean logits, by place. */
  readonly #norms = new Map<number, number>();

  constructor(clean: Float32Array, length: number, vocab: number) {
    this.#clean = clean;
    this.#length = length;
    this.#vocab = vocab;
  }

  at(place: number, patched: Float32Array): number {
    const [clean, other] = [this.#row(this.#clean, place), this.#row(patched, place)];
    const norm = this.#norms.get(place) ?? logSumExp(clean);
    this.#norms.set(place, norm);
    const otherNorm = logSumExp(other);
    let sum = 0;
    for (let v = 0; v < clean.length; v++) {
      const log = clean[v] - norm;
      sum += Math.exp(log) * (log - (other[v] - otherNorm));
    }
    return Math.max(0, sum);
  }

  #row(logits: Float32Array, place: number): Float32Array {
    const steps = this.#length - 1;
    const at = Math.floor(place / steps) * this.#length + (place % steps);
    return logits.subarray(at * this.#vocab, (at + 1) * this.#vocab);
  }
}
