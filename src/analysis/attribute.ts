/**
 * Attribution: which latents, at which positions, brought a next-token prediction about.
 *
 * The prediction is one number m of the logits l after a position: see `Measure`. For every latent f
 * that fires at a position q up to there (beginning-of-sequence tokens left out), with activation a and
 * direction d (P⁻¹ W_dec[f], write-point.ts), what it contributes is told in four ways. All have the
 * same sign: above 0, m is larger for it.
 *
 * ablation   m − m(a d taken away at q), the later layers run again: the exact effect of this one
 *            removal. Removals of several latents do not add up to the sum of theirs.
 * gradient   a ∂m/∂a by central differences, (m(a + εa) − m(a − εa)) / 2ε with ε = 1/64: the linear
 *            estimate of the same (attribution patching; Syed et al. 2023, arXiv 2310.10348)
 * integrated a · mean over α of ∂m/∂a where all latents at all positions are scaled by α = (k + ½)/n
 *            and errors kept (integrated gradients; Sundararajan et al. 2017, eq. 1, as in Marks et al.
 *            2024): these add up to m − m(no latents) but for the steps' coarseness
 * direct     what a d adds to m along the residual stream alone, with the final norm's scale σ held at
 *            what it is: h·(a d), h = (u − mean u)/σ, u = gain ⊙ Σ_v c_v W_U[v], c = ∂m/∂l. Other
 *            positions than the predicting one have no direct path. m is exactly the sum of these, of
 *            the decoder's bias, of the SAE's error, of what other parts of the model write, and of the
 *            norm's bias; `completeness` shows it. `directAblation`: the same path, exactly, with the
 *            norm's scale as it becomes.
 */
import { UserError } from "../error.ts";
import { logSumExp } from "../model/generate.ts";
import type { Model } from "../model/model.ts";
import { Rng } from "../rng.ts";
import type { Sae } from "../sae/sae.ts";
import { joinHeads, tokenText } from "./codes.ts";
import { pearson } from "./correlation.ts";
import { directPath, measured, type Completeness, type Measure } from "./direct-path.ts";
import {
  directionsAt,
  logitsOf,
  rowsAtOnce,
  writePointOf,
  type CleanRow,
  type Places,
  type Variant,
  type WritePoint,
} from "./write-point.ts";

export interface AttributeOptions extends Places {
  /** Token of the text, from 0, or from the end below 0, after which the prediction is. Default -1. */
  position?: number;
  /** The token whose prediction is explained; absent: the most likely one. */
  token?: number;
  /** A second token: explained is the difference of the two logits. */
  against?: number;
  /** What is explained where there is no second token. Default centred. */
  measure?: Exclude<Measure, "difference">;
  /** Steps of integrated gradients; 0 (default) leaves them out: each costs twice the ablations. */
  integratedSteps?: number;
  seed?: number;
  onProgress?: (done: number, total: number) => void;
  signal?: AbortSignal;
}

/** A latent at a position, and what it contributes to the prediction. */
export interface Contribution {
  /** Token of the text, from 0. */
  position: number;
  latent: number;
  activation: number;
  ablation: number;
  gradient: number;
  integrated?: number;
  /** At the predicting position only. */
  direct?: number;
  directAblation?: number;
}

export interface Attribution {
  hookPoint: string;
  measure: Measure;
  /** Characters of the text's tokens, and their ids. */
  tokens: string[];
  ids: number[];
  position: number;
  token: { id: number; text: string; probability: number };
  against?: { id: number; text: string; probability: number };
  /** m of the model as it is. */
  value: number;
  /** By falling size of `ablation`. */
  contributions: Contribution[];
  /** Each latent taken away at all of its positions together, by falling size. */
  latents: { latent: number; positions: number; ablation: number }[];
  completeness: Completeness;
  /** m with all latents at all positions taken away, and the sum of the integrated gradients beside the difference. */
  integrated?: { withoutLatents: number; sum: number };
  /** Pearson correlations with ablation; null for fewer than 3 pairs or no variance. */
  correlations: {
    /** Over all contributions. */
    gradient: number | null;
    integrated?: number | null;
    /** Over those at the predicting position: of `direct` with the total and the direct ablation. */
    direct: number | null;
    directWithDirectAblation: number | null;
  };
  /** Random directions in the place of latents: as many draws, of the length of contributions drawn at random; 95 % have an effect of at most this size. */
  chance: { draws: number; size95: number };
}

const EPSILON = 1 / 64;
const CHANCE_DRAWS = 100;

/**
 * @throws UserError for text without tokens or longer than the model's context, a position outside it,
 * tokens that there are not, or an SAE and hook points that do not fit.
 */
export async function attribute(
  sae: Sae,
  model: Model,
  text: string,
  options: AttributeOptions,
): Promise<Attribution> {
  const { integratedSteps = 0, seed = 0, onProgress, signal } = options;
  const point = writePointOf(sae, model, options);
  if (!(Number.isInteger(integratedSteps) && integratedSteps >= 0))
    throw new UserError(
      `integratedSteps must be a whole number of at least 0; got ${integratedSteps}`,
    );
  const { ids, starts, ends } = model.tokenizer.encode(text);
  const position = positionIn(ids.length, options.position ?? -1, text);
  const { bosId } = model.tokenizer;
  const offset = bosId === null ? 0 : 1;
  const tokens = Int32Array.of(...(bosId === null ? [] : [bosId]), ...ids.slice(0, position + 1));
  const clean = await cleanPass(sae, model, point, tokens);
  const { logits } = clean;

  const measure = options.against === undefined ? (options.measure ?? "centred") : "difference";
  const best = logits.indexOf(logits.reduce((a, b) => Math.max(a, b)));
  const { token = best, against } = options;
  for (const id of [token, ...(against === undefined ? [] : [against])]) checkToken(model, id);
  const m = (row: Float32Array) => measured(measure, row, token, against);
  const value = m(logits);

  const directions = directionsAt(sae, point);
  const firing: Firing[] = [];
  for (let q = offset; q < tokens.length; q++) {
    const x = clean.x.subarray(q * sae.spec.dIn, (q + 1) * sae.spec.dIn);
    sae.encode(x).forEach((a, latent) => {
      if (a > 0) firing.push({ at: q, latent, a, part: directions(latent, x).map((d) => a * d) });
    });
  }
  const byLatent = new Map<number, Firing[]>();
  for (const one of firing) byLatent.set(one.latent, [...(byLatent.get(one.latent) ?? []), one]);
  const rng = new Rng(seed, "attribution chance");
  const drawn = Array.from({ length: firing.length > 0 ? CHANCE_DRAWS : 0 }, () => {
    const { at, part } = firing[rng.int(firing.length)];
    const direction = part.map(() => rng.normal());
    const scale = Math.hypot(...part) / Math.hypot(...direction);
    return new Map([[at, direction.map((v) => v * scale)]]);
  });
  const effects = effectsOf(model, point, clean, m, {
    total: firing.length * (3 + 2 * integratedSteps) + byLatent.size + drawn.length + 1,
    ...(onProgress && { onProgress }),
    ...(signal && { signal }),
  });

  const ablation = await effects(firing.length, (i) => scaled([firing[i]], -1));
  const gradient = await derivatives(effects, firing, 1);
  let integrated: { each: Float64Array; withoutLatents: number } | undefined;
  if (integratedSteps > 0) {
    const each = new Float64Array(firing.length);
    for (let k = 0; k < integratedSteps; k++) {
      const slopes = await derivatives(effects, firing, (k + 0.5) / integratedSteps);
      slopes.forEach((slope, i) => (each[i] += slope / integratedSteps));
    }
    const [without] = await effects(1, () => scaled(firing, -1));
    integrated = { each, withoutLatents: without };
  }
  const groups = [...byLatent];
  const whole = await effects(groups.length, (i) => scaled(groups[i][1], -1));
  const chance = await effects(drawn.length, (i) => drawn[i]);

  const last = tokens.length - 1;
  const path = await directPath(sae, model, point, {
    ...{ measure, logits, token, against, value, x: clean.x.subarray(last * sae.spec.dIn) },
    ...{ residual: clean.last.subarray(last * model.info.dModel), written: valuesAt(clean, last) },
    parts: firing.filter(({ at }) => at === last),
  });
  const contributions = firing.map(({ at, latent, a }, i): Contribution => ({
    ...{ position: at - offset, latent, activation: a },
    ...{ ablation: value - ablation[i], gradient: gradient[i] },
    ...(integrated && { integrated: integrated.each[i] }),
    ...(at === last && path.of(latent)),
  }));
  const here = contributions.filter(({ direct }) => direct !== undefined);
  const column = (list: Contribution[], key: keyof Contribution) => list.map((c) => c[key]!);
  const withAblation = (list: Contribution[], key: keyof Contribution) =>
    pearson(column(list, key), column(list, "ablation"));
  const shown = tokenText(model);
  const logSum = logSumExp(logits);
  const named = (id: number) => ({
    ...{ id, text: shown(id), probability: Math.exp(logits[id] - logSum) },
  });
  const sizes = chance.map((after) => Math.abs(value - after)).sort();
  return {
    ...{ hookPoint: point.hookPoint, measure, position, value },
    tokens: Array.from(ids, (_, i) => text.slice(starts[i], ends[i])),
    ids: [...ids],
    token: named(token),
    ...(against !== undefined && { against: named(against) }),
    contributions: contributions.toSorted((a, b) => Math.abs(b.ablation) - Math.abs(a.ablation)),
    latents: groups
      .map(([latent, members], i) => ({
        ...{ latent, positions: members.length, ablation: value - whole[i] },
      }))
      .toSorted((a, b) => Math.abs(b.ablation) - Math.abs(a.ablation)),
    completeness: path.completeness,
    ...(integrated && {
      integrated: {
        withoutLatents: integrated.withoutLatents,
        sum: integrated.each.reduce((a, b) => a + b, 0),
      },
    }),
    correlations: {
      gradient: withAblation(contributions, "gradient"),
      ...(integrated && { integrated: withAblation(contributions, "integrated") }),
      direct: withAblation(here, "direct"),
      directWithDirectAblation: pearson(column(here, "direct"), column(here, "directAblation")),
    },
    chance: {
      draws: drawn.length,
      size95: sizes[Math.ceil(0.95 * sizes.length) - 1] ?? NaN,
    },
  };
}

/** A latent that fires. */
interface Firing {
  /** Position in the row, a beginning-of-sequence token counted. */
  at: number;
  latent: number;
  a: number;
  /** a d, its part of the activation at the write point; [width]. */
  part: Float64Array;
}

/** `factor` times the parts of latents, by position. */
function scaled(firing: readonly Firing[], factor: number): Map<number, Float64Array> {
  const added = new Map<number, Float64Array>();
  for (const { at, part } of firing) {
    let sum = added.get(at);
    if (!sum) added.set(at, (sum = new Float64Array(part.length)));
    for (let c = 0; c < part.length; c++) sum[c] += factor * part[c];
  }
  return added;
}

/** m with something added to the clean activations, of `count` variants that are made as they are needed. */
type Effects = (
  count: number,
  variant: (i: number) => ReadonlyMap<number, Float64Array>,
) => Promise<Float64Array>;

function effectsOf(
  model: Model,
  point: WritePoint,
  clean: CleanPass,
  m: (logits: Float32Array) => number,
  {
    total,
    onProgress,
    signal,
  }: { total: number } & Pick<AttributeOptions, "onProgress" | "signal">,
): Effects {
  const { vocabSize } = model.info;
  const atOnce = rowsAtOnce(model, clean.row.tokens.length, "last");
  let done = 0;
  return async (count, variant) => {
    const values = new Float64Array(count);
    for (let from = 0; from < count; from += atOnce) {
      signal?.throwIfAborted();
      const some = Array.from({ length: Math.min(atOnce, count - from) }, (_, i): Variant => ({
        ...{ row: clean.row, added: variant(from + i) },
      }));
      const logits = await logitsOf(model, point, some, "last");
      for (const n of some.keys())
        values[from + n] = m(logits.subarray(n * vocabSize, (n + 1) * vocabSize));
      onProgress?.((done += some.length), total);
    }
    return values;
  };
}

/** a ∂m/∂a of each, by central differences, where all latents are scaled by `alpha`. */
async function derivatives(
  effects: Effects,
  firing: readonly Firing[],
  alpha: number,
): Promise<Float64Array> {
  const base = alpha === 1 ? new Map<number, Float64Array>() : scaled(firing, alpha - 1);
  const values = await effects(2 * firing.length, (i) => {
    const one = firing[i >> 1];
    const sign = i % 2 === 0 ? 1 : -1;
    const step = scaled([one], sign * EPSILON).get(one.at)!;
    const under = base.get(one.at);
    return new Map(base).set(one.at, under ? step.map((v, c) => v + under[c]) : step);
  });
  return Float64Array.from(firing, (_, i) => (values[2 * i] - values[2 * i + 1]) / (2 * EPSILON));
}

/** A text as the model has it. */
interface CleanPass {
  row: CleanRow;
  /** What the SAE reads; [length, dIn]. */
  x: Float32Array;
  last: Float32Array; // [length, dModel], the last residual stream
  logits: Float32Array; // [vocabSize], after the last token
}

async function cleanPass(
  sae: Sae,
  model: Model,
  { inputs, hookPoint, residual }: WritePoint,
  tokens: Int32Array,
): Promise<CleanPass> {
  const last = model.lastResidual();
  const wanted = [...inputs, hookPoint, last, ...(residual === null ? [] : [residual])];
  const { activations, logits } = await model.forward({
    ...{ tokens, batch: 1, length: tokens.length, capture: [...new Set(wanted)], logits: "last" },
  });
  return {
    row: {
      ...{ tokens, values: activations[hookPoint] },
      residual: residual === null ? undefined : activations[residual],
    },
    x: joinHeads(
      sae.spec,
      inputs.map((name) => activations[name]),
    ),
    last: activations[last],
    logits: logits!,
  };
}

function valuesAt({ row: { values, tokens } }: CleanPass, position: number): Float32Array {
  const width = values.length / tokens.length;
  return values.subarray(position * width, (position + 1) * width);
}

function positionIn(length: number, position: number, text: string): number {
  if (length === 0) throw new UserError("the text has no tokens: there is no prediction after it");
  const at = position < 0 ? length + position : position;
  if (!Number.isInteger(position) || at < 0 || at >= length)
    throw new UserError(
      `position must be a token of the text, 0 to ${length - 1} or -1 to -${length} from its end; got ${position} (the text ${JSON.stringify(text.slice(0, 60))} has ${length} token${length === 1 ? "" : "s"})`,
    );
  return at;
}

function checkToken({ info }: Model, id: number): void {
  if (!(Number.isInteger(id) && id >= 0 && id < info.vocabSize))
    throw new UserError(`token must be an id from 0 to ${info.vocabSize - 1}; got ${id}`);
}

/**
 * The token that a text is.
 * @throws UserError, with the pieces it has, when it is not exactly one.
 */
export function singleToken(model: Pick<Model, "tokenizer">, text: string): number {
  const { ids } = model.tokenizer.encode(text);
  if (ids.length === 1) return ids[0];
  const pieces = Array.from(ids, (id) => JSON.stringify(tokenText(model)(id)));
  const hint = /^\s/.test(text) ? "" : "; words within a text begin with a space";
  throw new UserError(
    `${JSON.stringify(text)} is ${ids.length === 0 ? "no token" : `${ids.length} tokens (${pieces.join(", ")})`}, and one is wanted${hint}`,
  );
}
