/** What changes over a training run by plan: the learning rate, the penalty's exponent and coefficient. */
import type { TrainConfig } from "../config.ts";
import type { Sparsity } from "./architecture.ts";

/** min(step / steps, 1), and 1 when there is nothing to warm up; steps count from 1. */
export function warmup(step: number, steps: number): number {
  return steps > 0 ? Math.min(1, step / steps) : 1;
}

/**
 * The learning rate of a step counted from 1: the peak, times a linear rise over warmupSteps, times
 * the schedule's course from there to the last step, times a linear fall over the last decaySteps.
 */
export function learningRateAt(
  train: Pick<TrainConfig, "warmupSteps" | "decaySteps" | "schedule" | "finalLearningRate">,
  peak: number,
  step: number,
  totalSteps: number,
): number {
  const { warmupSteps, decaySteps, schedule, finalLearningRate: end } = train;
  const left = totalSteps - step + 1;
  const decay = decaySteps > 0 ? Math.min(1, left / decaySteps) : 1;
  const course = Math.max(1, totalSteps - warmupSteps);
  const done = Math.min(1, Math.max(0, step - 1 - warmupSteps) / course);
  const shape =
    schedule === "constant"
      ? 1
      : schedule === "linear"
        ? 1 - (1 - end) * done
        : end + (1 - end) * 0.5 * (1 + Math.cos(Math.PI * done));
  return peak * warmup(step, warmupSteps) * shape * decay;
}

/** Steps before a change of the exponent whose penalties decide how the coefficient follows. */
const ANNEAL_WINDOW = 10;

/** Where p-annealing stands; plain JSON in a checkpoint. */
export interface AnnealState {
  p: number;
  /** What the coefficient has been multiplied by. */
  factor: number;
  /** Sums of the penalty at p and at the next one since the window began. */
  now: number;
  next: number;
}

export const newAnneal = (): AnnealState => ({ p: 1, factor: 1, now: 0, next: 0 });

/**
 * The exponent that follows `state.p` if step (counted from 1) lies in the window before the change
 * to it, and whether that step is the last before the change. Changes are spread evenly between
 * pAnnealStart and the end, each of the same size (p-annealing: Karvonen et al. 2024, section 3).
 */
export function nextExponent(
  { pEnd, pAnnealStart, pUpdates }: Extract<Sparsity, { kind: "lp" }>,
  step: number,
  totalSteps: number,
): { p: number; changes: boolean } | null {
  const course = Math.max(0, totalSteps - pAnnealStart);
  const at = (change: number) => pAnnealStart + Math.floor((change * course) / (pUpdates + 1));
  let change = 1;
  // Changes that fall on one step are one.
  while (change <= pUpdates && (at(change) < step || at(change + 1) === at(change))) change++;
  if (change > pUpdates || step <= at(change) - ANNEAL_WINDOW) return null;
  return { p: 1 + ((pEnd - 1) * change) / pUpdates, changes: step === at(change) };
}

/** Takes a step's penalties in; at a change the coefficient follows so that the penalty stays what it was. */
export function anneal(
  state: AnnealState,
  penalties: { now: number; next: number },
  next: { p: number; changes: boolean },
): void {
  state.now += penalties.now;
  state.next += penalties.next;
  if (!next.changes) return;
  if (state.next > 0 && state.now > 0) state.factor *= state.now / state.next;
  state.p = next.p;
  state.now = 0;
  state.next = 0;
}

/** Where the target-L0 controller stands; plain JSON in a checkpoint. */
export interface ControlState {
  /** What the sparsity coefficient is multiplied by. */
  factor: number;
  /** Running mean of L0, or null before the first step. */
  l0: number | null;
  /** log(l0 / target) of the step before, or null before the first one. */
  error: number | null;
}

export const newControl = (): ControlState => ({ factor: 1, l0: null, error: null });

const L0_MEMORY = 0.9;
const INTEGRAL = 0.02;
const PROPORTIONAL = 2;
const LARGEST_MOVE = 0.1;
const LARGEST_FACTOR = 1e4;

/** What the controller is told of a batch. */
export interface ControlInput {
  /** Active latents per row. */
  l0: number;
  /** Fraction of variance unexplained, of this batch against its own mean; 0 where it has no variance. */
  fvu: number;
}

/**
 * A proportional–integral controller on the logarithm of the coefficient, e = log(L0 / target):
 * Δ log c = 0.02·g·e + 2·Δe, e limited to ±1 in the first term and the whole to ±0.1, with
 * g = max(0, 1 − FVU)² where the coefficient would rise (e > 0) and 1 where it would fall.
 *
 * Weights follow the coefficient with a lag of hundreds of steps (Adam moves them by about the
 * learning rate). Without the second term, which takes the coefficient back while L0 is still on its
 * way down, it overshoots by orders of magnitude, and the second moments that a huge penalty leaves
 * behind keep the weights where they are long afterwards. Without g a short run ends with nothing
 * reconstructed: where L0 falls slowly the coefficient goes on rising although it is too large already.
 */
export function control(state: ControlState, { l0, fvu }: ControlInput, target: number): void {
  state.l0 = state.l0 === null ? l0 : L0_MEMORY * state.l0 + (1 - L0_MEMORY) * l0;
  const error = Math.log(Math.max(state.l0, 1e-3) / target);
  const change = error - (state.error ?? error);
  state.error = error;
  const caution = error > 0 ? Math.max(0, 1 - fvu) ** 2 : 1;
  const move = INTEGRAL * caution * clamp(error, 1) + PROPORTIONAL * change;
  const factor = state.factor * Math.exp(clamp(move, LARGEST_MOVE));
  state.factor = Math.min(LARGEST_FACTOR, Math.max(1 / LARGEST_FACTOR, factor));
}

function clamp(value: number, limit: number): number {
  return Math.min(limit, Math.max(-limit, value));
}
