/** A latent as a terminal shows it. */
import { isAligned, isSpecific, type BestLabel } from "../analysis/concepts.ts";
import { histogramEdge, type Feature } from "../analysis/features.ts";
import type { LogitEffect } from "../analysis/logits.ts";
import { MIN_TOGETHER, type CoMeasure, type CoNeighbor } from "../analysis/neighbors.ts";
import type { SuspectKind, Suspects } from "../analysis/suspects.ts";
import type { TrueLogitEffect } from "../analysis/true-logits.ts";
import type { NearRows } from "../workbench/feature-facts.ts";
import { short } from "../readable.ts";
import { table } from "./terminal.ts";

type Named<T extends LogitEffect> = Omit<T, "top" | "bottom"> & {
  top: ({ text: string } & T["top"][number])[];
  bottom: ({ text: string } & T["bottom"][number])[];
  writesTo: string;
};

/** Everything that `lens feature` shows; with --json as it is. */
export interface FeatureView {
  run: string;
  model: string;
  hookPoint: string;
  dSae: number;
  /** Tokens and documents of the text that the statistics are from. */
  positions: number;
  textDocuments: number;
  feature: Feature;
  label: BestLabel | undefined;
  /** How the latent fires on a text that was given. */
  text?: { pieces: string[]; values: number[] };
  /** Null where latents have no such effect. */
  logits: Named<LogitEffect> | Named<TrueLogitEffect> | null;
  noLogitsBecause?: string;
  neighbors: { decoder: NearRows; encoder: NearRows };
  /** Where it was counted how latents fire together; by each measure. */
  coActivation?: Record<CoMeasure, (CoNeighbor & { label: string })[]>;
  suspects?: Suspects;
}

export interface TextOptions {
  /** Examples shown. */
  examples: number;
  /** Whether the terminal shows colours; otherwise firing tokens stand in brackets. */
  isColoured: boolean;
}

export function featureText(view: FeatureView, options: TextOptions): string {
  const { feature, text, coActivation, suspects } = view;
  return [
    headText(view),
    ...(text ? [`on your text\n${marked(text.pieces, text.values, feature.max, options)}`] : []),
    histogramText(feature),
    examplesText(feature, options),
    view.logits ? logitsText(view.logits) : `logits: none. ${view.noLogitsBecause}`,
    neighborsText("decoder", "writes", view.neighbors.decoder),
    neighborsText("encoder", "reads", view.neighbors.encoder),
    ...(coActivation ? [togetherText(coActivation.phi)] : []),
    ...(suspects ? [suspectsText(suspects, feature.latent)] : []),
  ].join("\n\n");
}

function headText({ feature, label, positions, textDocuments, ...view }: FeatureView): string {
  const { latent, firings, density, documents, mean, max, topTokens, tokenTypes } = feature;
  const lines = [
    `latent ${latent} of ${short(view.dSae)}, ${view.hookPoint} of ${view.model}, ${view.run}`,
    firings === 0
      ? `never fires in ${short(positions)} tokens of ${short(textDocuments)} held-out documents`
      : `fires at ${short(firings)} of ${short(positions)} held-out tokens (${percent(density)}), in ${short(documents)} of ${short(textDocuments)} documents; mean ${short(mean)} where it fires, largest ${short(max)}`,
    label ? labelText(label) : "label    none fits",
  ];
  if (topTokens.length > 0)
    lines.push(
      `tokens   ${topTokens.map((token) => `${JSON.stringify(token.text)} ${percent(token.share)}`).join("  ")}   of its activation; ${short(tokenTypes)} kinds of token in effect`,
    );
  return lines.join("\n");
}

function labelText(label: BestLabel): string {
  const { name, auc, precision, recall, atThreshold, positives } = label;
  const trust = isSpecific(label)
    ? ""
    : isAligned(label)
      ? "; it fires for other things too"
      : "; it does not fit well";
  return `label    ${name}   AUC ${auc.toFixed(3)} (chance 0.5), precision ${percent(precision)}, recall ${percent(recall)}, F1 ${percent(atThreshold.f1)}, on ${short(positives)} tokens with it that had no part in choosing it${trust}`;
}

const BAR = 40;

/** Activations where it fires, octave by octave. */
function histogramText({ histogram, firings }: Feature): string {
  if (firings === 0) return "activations: none";
  const { firstBin, counts } = histogram;
  const octaves = new Map<number, number>();
  counts.forEach((n, i) => {
    const octave = Math.floor((firstBin + i) / 4);
    octaves.set(octave, (octaves.get(octave) ?? 0) + n);
  });
  const most = Math.max(...octaves.values());
  const rows = [...octaves].map(([octave, n]) => [
    short(histogramEdge(octave * 4)),
    "█".repeat(Math.round((BAR * n) / most)) || (n > 0 ? "▏" : ""),
    short(n),
  ]);
  const wide = (c: number) => Math.max(...rows.map((row) => row[c].length));
  const lines = rows.map(
    ([from, bar, n]) => `  ${from.padStart(wide(0))} ${bar.padEnd(BAR)} ${n.padStart(wide(2))}`,
  );
  return ["activations, from … to twice that (tokens)", ...lines].join("\n");
}

function examplesText({ top }: Feature, options: TextOptions): string {
  if (top.length === 0) return "examples: none";
  const lines = top.slice(0, options.examples).map((example) => {
    const { value, pieces, values, cutBefore, cutAfter } = example;
    const text = marked(pieces, values, top[0].value, options).replaceAll("\n", "⏎");
    return `  ${value.toFixed(2).padStart(6)}  ${cutBefore ? "… " : ""}${text}${cutAfter ? " …" : ""}`;
  });
  return ["strongest examples", ...lines].join("\n");
}

/** From faint to strong, as backgrounds of a 256-colour terminal. */
const SHADES = [230, 223, 216, 209, 202];

/** Pieces with those that fire marked: by colour, or as ‹weak› and «more than half the largest». */
export function marked(
  pieces: readonly string[],
  values: readonly number[],
  largest: number,
  { isColoured }: Pick<TextOptions, "isColoured">,
): string {
  return pieces
    .map((piece, i) => {
      const share = values[i] / largest;
      if (!(values[i] > 0)) return piece;
      if (!isColoured) return share > 0.5 ? `«${piece}»` : `‹${piece}›`;
      const shade = SHADES[Math.min(Math.floor(share * SHADES.length), SHADES.length - 1)];
      return `\x1b[30;48;5;${shade}m${piece}\x1b[0m`;
    })
    .join("");
}

const MEANING = {
  raw: "decoder row through the unembedding",
  folded: "decoder row through the final norm's gain and the unembedding",
  centred: "decoder row through the final norm's gain and the unembedding, centred",
  true: "mean change where it fires, later layers run again",
} as const;

const BLOCKS = "▁▂▃▄▅▆▇█";

function logitsText(effect: NonNullable<FeatureView["logits"]>): string {
  const { form, top, bottom, histogram, mean, std, skewness, excessKurtosis } = effect;
  const most = Math.log1p(Math.max(...histogram.counts));
  const line = histogram.counts
    .map((n) => (n === 0 ? " " : BLOCKS[Math.floor((Math.log1p(n) / most) * (BLOCKS.length - 1))]))
    .join("");
  const cells = (one: (typeof top)[number] | undefined) => {
    if (!one) return ["", ""];
    const interval = "low" in one ? ` [${signed(one.low)}, ${signed(one.high)}]` : "";
    return [JSON.stringify(one.text), signed(one.value) + interval];
  };
  const rows = Array.from({ length: Math.max(top.length, bottom.length) }, (_, i) => [
    ...cells(top[i]),
    ...cells(bottom[i]),
  ]);
  const lines = [
    `logits (${form}): ${MEANING[form]}; written at ${effect.writesTo}`,
    indented(table(["raised", "", "lowered", ""], rows)),
    `  ${signed(histogram.low)} ${line} ${signed(histogram.high)}   (tokens of the vocabulary, bars logarithmic)`,
    `  mean ${Math.abs(mean) < 1e-6 * std ? "0" : signed(mean)}, standard deviation ${short(std)}, skewness ${signed(skewness)}, excess kurtosis ${signed(excessKurtosis)}`,
  ];
  if ("randomStd" in effect)
    lines.push(
      `  ${effect.documents} documents, a position of each, ${short(effect.amount)} units added; tokens chosen on half of them and measured, with 95 % intervals, on the other half`,
      `  random directions of this length: standard deviation ${short(effect.randomStd)}; correlation over the vocabulary with raw ${effect.agreement.raw.toFixed(2)}, folded ${effect.agreement.folded.toFixed(2)}, centred ${effect.agreement.centred.toFixed(2)}`,
    );
  return lines.join("\n");
}

function neighborsText(side: string, verb: string, { nearest, chance }: NearRows): string {
  const rows = nearest.map(({ latent, cosine, label }) => [
    String(latent),
    cosine.toFixed(3),
    label,
  ]);
  return [
    `nearest by what it ${verb} (${side} cosine; a random direction's nearest: ${chance.nearestToRandom.toFixed(2)}, one random pair in a thousand: ${chance.oneInThousand.toFixed(2)})`,
    indented(table(["latent", "cosine", "label"], rows)),
  ].join("\n");
}

function togetherText(found: readonly (CoNeighbor & { label: string })[]): string {
  const rows = found.map(({ latent, phi, jaccard, pmi, together, expected, label }) => [
    String(latent),
    phi.toFixed(3),
    jaccard.toFixed(3),
    pmi.toFixed(2),
    short(together),
    short(Math.round(expected)),
    label,
  ]);
  if (rows.length === 0) return `fires together with nothing at ${MIN_TOGETHER} positions or more`;
  const head = ["latent", "phi", "Jaccard", "PMI (bits)", "together", "by chance", "label"];
  return `fires together with, by phi (0: independent)\n${indented(table(head, rows))}`;
}

const SUSPICIONS: Record<SuspectKind, string> = {
  duplicate: "duplicates",
  split: "may be split with",
  absorbed: "may be absorbed:",
};

function suspectsText({ suspects, pairs }: Suspects, latent: number): string {
  const lines = suspects.map(({ kind, latents, evidence }) => {
    const { decoderCosine, jaccard, phi, together, expected, profile, response } = evidence;
    const other = latents[0] === latent ? latents[1] : latents[0];
    const who =
      kind === "absorbed" ? `${latents[0]} stays silent where ${latents[1]} fires` : String(other);
    return `  ${SUSPICIONS[kind]} ${who}   decoder cosine ${decoderCosine.toFixed(2)}, Jaccard ${jaccard.toFixed(3)}, phi ${phi.toFixed(3)}, together ${short(together)} (by chance ${short(Math.round(expected))}), same tokens ${profile.toFixed(2)}, response ${response[0].toFixed(2)}`;
  });
  return [
    `suspects among the ${pairs} pairs with the latents nearest by decoder: ${lines.length === 0 ? "none" : ""}`.trimEnd(),
    ...lines,
  ].join("\n");
}

function indented(text: string): string {
  return text.replaceAll(/^/gm, "  ");
}

function signed(value: number): string {
  return `${value < 0 ? "−" : "+"}${short(Math.abs(value))}`;
}

function percent(share: number): string {
  return `${Number((share * 100).toPrecision(share < 0.1 ? 2 : 3))} %`;
}
