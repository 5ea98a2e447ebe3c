/**
 * What each library trains with in the quality table, and the knob that sets how sparse it gets:
 * `start` is a guess for 32 active latents, `slope` how log L0 moves with the log of the knob.
 * Lens' recipe is here; the peers' are in peers/quality_*.py.
 */
const NESTED = [128, 256, 512, 1024];

/** Widths of the nested autoencoders of a dictionary of `dSae`, the whole one last. */
export const nestedWidths = (dSae) => [...NESTED.filter((width) => width < dSae), dSae];

const direct = { slope: 1, start: 32, exact: true };
/** k in training, but a threshold afterwards, an average over time: L0 is only near k. */
const average = { slope: 1, start: 32, whole: true };
const penalty = (start) => ({ slope: -1, start });

/** Where a coefficient moves L0 quickly it is the knob: the controller of targetL0 is still on its way at the end of so short a run. */
export const recipes = {
  topk: {
    lens: (k) => ({ architecture: "topk", k }),
    knobs: { lens: direct, sae_lens: direct, dictionary_learning: direct },
  },
  batchTopk: {
    lens: (k) => ({ architecture: "batchTopk", k }),
    knobs: { lens: average, sae_lens: average, dictionary_learning: average },
  },
  jumprelu: {
    // Thresholds move by about the learning rate a step, so they begin where L0 is not far off.
    lens: (targetL0) => ({ architecture: "jumprelu", targetL0, initialThreshold: 1 }),
    knobs: {
      lens: { slope: 1, start: 32 },
      sae_lens: penalty(5),
      dictionary_learning: { slope: 1, start: 32 },
    },
  },
  gated: {
    lens: (l1) => ({ architecture: "gated", l1 }),
    knobs: {
      lens: penalty(3),
      sae_lens: penalty(5),
      dictionary_learning: penalty(0.06),
    },
  },
  relu: {
    lens: (l1) => ({ architecture: "relu", l1 }),
    knobs: {
      lens: penalty(2.5),
      sae_lens: penalty(5),
      dictionary_learning: penalty(0.06),
    },
  },
  matryoshka: {
    lens: (k, widths) => ({
      ...{ architecture: "batchTopk", k },
      matryoshkaWidths: widths.slice(0, -1),
    }),
    knobs: { lens: average, sae_lens: average, dictionary_learning: average },
  },
};

/**
 * Lens' start, from activations (docs/training.md#where-weights-begin), and its schedule: warm-up over
 * 5 % of the steps, of the penalty too, and decay over the last 20 %.
 */
export function lensTraining(architecture, knob, steps, widths) {
  const sae = recipes[architecture].lens(knob, widths);
  const penalised = ["relu", "gated", "jumprelu"].includes(architecture);
  return {
    sae: {
      ...sae,
      init: "data",
      ...(penalised && { sparsityWarmupSteps: Math.round(steps / 20) }),
    },
    train: { warmupSteps: Math.round(steps / 20), decaySteps: Math.round(steps / 5) },
  };
}
