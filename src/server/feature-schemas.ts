/** Of the API's schemas those of latents: what is known of them, what texts and the model say of them. */
import { z } from "@hono/zod-openapi";

import { anything, count, latents, maybe } from "./schemas.ts";

const example = z.object({
  value: z.number(),
  document: z.string(),
  pieces: z.array(z.string()),
  values: z.array(z.number()),
  peak: count,
  cutBefore: z.boolean(),
  cutAfter: z.boolean(),
});

const bestLabel = z.object({
  kind: z.string(),
  name: z.string(),
  positives: count,
  auc: z.number(),
  precision: maybe,
  recall: maybe,
  threshold: z.number(),
  atThreshold: z.object({ precision: maybe, recall: maybe, f1: maybe }),
  selection: z.object({ auc: z.number(), f1: maybe }),
});

export const FeatureRow = z
  .object({
    latent: count,
    firings: count,
    documents: count,
    density: z.number(),
    mean: z.number(),
    max: z.number(),
    selectivity: maybe,
    kinds: maybe,
    auc: maybe,
    f1: maybe,
    rule: maybe,
    label: z.string(),
    tokens: z.array(z.string()),
    ruleText: z.string(),
  })
  .openapi("FeatureRow");
export type FeatureRow = z.infer<typeof FeatureRow>;

export const FeaturePage = z
  .object({
    /** How many meet the query. */
    total: count,
    positions: count,
    rows: z.array(FeatureRow),
  })
  .openapi("FeaturePage");

export const FeatureDetail = z
  .object({
    run: z.string(),
    model: z.string(),
    hookPoint: z.string(),
    dSae: count,
    /** Positions and documents of the text that the statistics are from. */
    positions: count,
    textDocuments: count,
    /** 2 to the power of (bin / perOctave + first) is the lower edge of a histogram's bin. */
    histogramScale: z.object({ first: z.number(), perOctave: z.number(), bins: count }),
    feature: z.object({
      latent: count,
      firings: count,
      density: z.number(),
      documents: count,
      mean: z.number(),
      max: z.number(),
      tokenSelectivity: maybe,
      tokenTypes: maybe,
      topTokens: z.array(
        z.object({
          token: count,
          text: z.string(),
          firings: count,
          occurrences: count,
          rate: z.number(),
          share: z.number(),
        }),
      ),
      histogram: z.object({ firstBin: z.int(), counts: z.array(count) }),
      byPlace: z.array(
        z.object({ from: count, to: count.optional(), positions: count, firings: count }),
      ),
      top: z.array(example),
      random: z.array(example),
      quantiles: z.array(
        z.object({
          from: z.number(),
          to: z.number(),
          low: z.number(),
          high: z.number(),
          examples: z.array(example),
        }),
      ),
      rankSample: count,
      nearMiss: z.array(example),
      silent: z.array(example),
    }),
    label: bestLabel.nullable(),
    /** What explanations.json says of it. */
    explanation: anything.nullable(),
    /** Latents that stand out by firing together with it, or by not doing so; firings are theirs alone. */
    partners: z
      .object({
        latents,
        counts: z.array(count),
        firings: z.array(count),
        labels: z.array(z.string()),
        error: count,
      })
      .nullable(),
  })
  .openapi("Feature");
export type FeatureDetail = z.infer<typeof FeatureDetail>;

const interval = z.object({ value: maybe, low: maybe, high: maybe });
const matched = z.object({ latent: count, auc: interval, f1: interval });
const probe = z.object({ k: count, columns: latents, auc: interval });
const concept = {
  concept: z.string(),
  /** The latents with the highest AUC and F1 on other documents. */
  best: matched,
  bestF1: matched,
};
/** What is read of concepts.json. */
export const ConceptFile = z.object({
  positions: z.object({ test: count }),
  concepts: z.array(
    z.object({
      ...concept,
      positives: z.object({ test: count }),
      byChance: z.object({ auc: maybe }),
      latents: z.array(probe),
    }),
  ),
});
export const ConceptList = z
  .object({
    /** Positions of the test documents. */
    positions: count,
    concepts: z.array(
      z.object({
        ...concept,
        /** Test positions that carry it. */
        positives: count,
        /** Mean AUC that the same choice reaches for labels moved along the text. */
        chance: maybe,
        /** A linear probe on k latents; the most telling first. */
        probe: probe.nullable(),
      }),
    ),
  })
  .openapi("ConceptList");
export type ConceptList = z.infer<typeof ConceptList>;

export const TextCodes = z
  .object({
    pieces: z.array(z.string()),
    /** The latents on piece i are those from offsets[i] to offsets[i + 1], the strongest first. */
    offsets: z.array(count),
    latents,
    values: z.array(z.number()),
    /** The last token of each piece, from 0. */
    lastToken: z.array(count),
    /** What they stand for, by latent. */
    labels: z.record(z.string(), z.string()),
    /** Over the whole text, by falling largest activation; density and largest are of the indexed text. */
    top: z.array(
      z.object({
        latent: count,
        max: z.number(),
        sum: z.number(),
        pieces: count,
        density: maybe,
        largest: maybe,
        label: z.string(),
      }),
    ),
  })
  .openapi("TextCodes");
export type TextCodes = z.infer<typeof TextCodes>;

const tokenLogit = z.looseObject({ text: z.string(), token: count, value: z.number() });
export const LogitEffect = z
  .looseObject({
    latent: count,
    form: z.enum(["raw", "folded", "centred", "true"]),
    writesTo: z.string(),
    top: z.array(tokenLogit),
    bottom: z.array(tokenLogit),
    histogram: z.object({ low: z.number(), high: z.number(), counts: z.array(count) }),
    mean: z.number(),
    std: z.number(),
    skewness: maybe,
    excessKurtosis: maybe,
  })
  .openapi("LogitEffect");

const nearRows = z.object({
  nearest: z.array(z.object({ latent: count, cosine: z.number(), label: z.string() })),
  chance: z.object({ median: maybe, oneInThousand: maybe, nearestToRandom: maybe }),
});
export const Neighbors = z
  .object({
    decoder: nearRows,
    encoder: nearRows,
    /** By φ of firing; null where pairs have not been counted. */
    together: z.array(z.looseObject({ latent: count, label: z.string() })).nullable(),
    suspects: z.array(z.looseObject({ kind: z.string(), latents })).nullable(),
  })
  .openapi("Neighbors");

export const Attribution = z
  .looseObject({
    hookPoint: z.string(),
    tokens: z.array(z.string()),
    position: count,
    token: z.object({ id: count, text: z.string(), probability: z.number() }),
    value: z.number(),
    contributions: z.array(
      z.looseObject({
        position: count,
        latent: count,
        activation: z.number(),
        ablation: z.number(),
        gradient: z.number(),
      }),
    ),
    latents: z.array(z.object({ latent: count, positions: count, ablation: z.number() })),
    labels: z.record(z.string(), z.string()),
  })
  .openapi("Attribution");

const scope = {
  positions: z.enum(["prompt", "generated"]).optional(),
  from: count.optional(),
  to: count.optional(),
  when: z.strictObject({ latent: count, above: z.number().optional() }).optional(),
};
const valued = <K extends string>(kind: K) =>
  z.strictObject({ latent: count, kind: z.literal(kind), value: z.number(), ...scope });
export const Edit = z
  .discriminatedUnion("kind", [
    valued("add"),
    valued("set"),
    valued("scale"),
    valued("clamp"),
    valued("cap"),
    valued("orthogonal"),
    z.strictObject({ latent: count, kind: z.literal("ablate"), ...scope }),
  ])
  .openapi("Edit");

export const SteerRequest = z
  .strictObject({
    prompt: z.string().max(20_000),
    edits: z.array(Edit).max(64),
    maxNewTokens: z.int().min(1).max(1024).default(60),
    temperature: z.number().min(0).max(5).default(0.8),
    topK: z.int().positive().optional(),
    topP: z.number().gt(0).max(1).optional(),
    seed: z
      .int()
      .min(0)
      .max(2 ** 32 - 1)
      .default(0),
  })
  .openapi("SteerRequest");
