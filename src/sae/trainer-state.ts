/** Everything that a trainer knows between two steps, and what must be the same to go on from it. */
import type { ActivationSource, Cursor } from "../activation-source.ts";
import type { SaeConfig, TrainConfig } from "../config.ts";
import { UserError } from "../error.ts";
import type { StepTensor } from "./parameters.ts";
import type { AnnealState, ControlState } from "./schedules.ts";
import type { LossTerms } from "./step-result.ts";
import { whiteningTensors, type Transform, type TransformRecord } from "./transform.ts";

export interface Settings {
  sae: SaeConfig;
  train: TrainConfig;
  seed: number;
  source: ActivationSource;
}

/** Everything a trainer knows: restored from it, training goes on bit for bit. */
export interface TrainerState {
  /** Plain JSON. */
  progress: Progress;
  /** Absent tensors are all 0. */
  tensors: Partial<Record<StateTensor, Float32Array | Int32Array>>;
}

export interface Progress {
  sae: SaeConfig;
  train: TrainConfig;
  seed: number;
  dIn: number;
  dOut: number;
  heads: number[];
  transcoder: boolean;
  /** Rows in an epoch of the source. */
  rows: number;
  /** What is done to inputs and targets; of an autoencoder twice the same. */
  input: TransformRecord;
  output: TransformRecord;
  /** The unit of coefficients, see architecture.ts. */
  rho: number;
  /** Whether a selection by threshold works on dense latents. */
  dense: boolean;
  /** Running threshold of batch top-k, null before the first batch. */
  threshold: number | null;
  anneal: AnnealState;
  control: ControlState;
  /** Best validation loss, and how many validations ago that was. */
  best: { loss: number; since: number } | null;
  step: number;
  tokens: number;
  cursor: Cursor;
  /** Sums since the last metrics; their counts are the tensor windowCounts. */
  window: { sums: Record<string, number | number[]>; terms: LossTerms };
  epoch: { rows: number; terms: LossTerms };
}

export type StateTensor =
  StepTensor | `${"input" | "output"}.${(typeof whiteningTensors)[number]}` | "windowCounts";

/** Settings that may differ between a checkpoint and the run that goes on from it: none of them touches the weights. */
const freeSettings = new Set(["logEvery", "validateEvery", "checkpointEvery", "keepCheckpoints"]);

/** @throws UserError when the settings or the source are not those that the checkpoint comes from. */
export function requireSameRun(progress: Progress, { sae, train, seed, source }: Settings): void {
  const compare = (section: string, before: object, now: object) => {
    for (const key of new Set([...Object.keys(before), ...Object.keys(now)])) {
      const [was, is] = [before, now].map((o) => JSON.stringify((o as never)[key]));
      if (was !== is && !freeSettings.has(key))
        throw new UserError(
          `the checkpoint was made with ${section}${key} ${was}; now it is ${is}. Resume with the old value, or train anew.`,
        );
    }
  };
  compare("sae.", progress.sae, sae);
  // Checkpoints from before there was a choice do not say how rows were mixed.
  compare("train.", { mixing: "store", ...progress.train }, train);
  const { dIn, rows, dOut = dIn, heads = [dIn] } = source;
  const transcoder = source.dOut !== undefined;
  compare("", shapeOf(progress), { seed, dIn, dOut, heads, transcoder, rows });
}

function shapeOf({ seed, dIn, dOut, heads, transcoder, rows }: Progress): object {
  return { seed, dIn, dOut, heads, transcoder, rows };
}

export function transformTensors(
  side: "input" | "output",
  transform: Transform,
): Partial<Record<StateTensor, Float32Array>> {
  if (transform.kind !== "whiten") return {};
  return Object.fromEntries(whiteningTensors.map((name) => [`${side}.${name}`, transform[name]]));
}

export function transformFrom(
  record: TransformRecord,
  side: "input" | "output",
  tensors: TrainerState["tensors"],
): Transform {
  if (record.kind !== "whiten") return record;
  const [mean, matrix, inverse] = whiteningTensors.map(
    (name) => tensors[`${side}.${name}`] as Float32Array,
  );
  return { kind: "whiten", mean, matrix, inverse };
}
