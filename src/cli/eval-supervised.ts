/** `lens eval --supervised`: the evaluations that need labels, as tables. */
import { intervalOf, type Drawn } from "../analysis/document-draws.ts";
import type { Interval } from "../analysis/interval.ts";
import type { SupervisedName, SupervisedResult } from "../analysis/supervised.ts";
import type { Device } from "../device/device.ts";
import { UserError } from "../error.ts";
import type { Model } from "../model/model.ts";
import type { Sae } from "../sae/sae.ts";
import { hookPointsOf } from "../workbench/hook-points.ts";
import { heldOutDocuments } from "../workbench/model-run.ts";
import { packedAs } from "../workbench/reading.ts";
import type { EvalOptions } from "./eval-subject.ts";
import { Progress } from "./progress.ts";
import { type Context } from "./sources.ts";
import { short } from "../readable.ts";
import { table } from "./terminal.ts";

/** Positions read unless --supervised-tokens says otherwise. */
export const SUPERVISED_TOKENS = 120_000;

/** @throws UserError for an evaluation that does not exist, a number that is none, or text without labels. */
export async function evaluateSupervised(
  { config, terminal, signal }: Context,
  device: Device,
  model: Model,
  sae: Sae,
  options: EvalOptions,
): Promise<SupervisedResult> {
  const { SUPERVISED, superviseSae } = await import("../analysis/supervised.ts");
  const only = options.only?.split(",").map((name): SupervisedName => {
    const known = SUPERVISED.find((one) => one === name.trim());
    if (!known)
      throw new UserError(`--only must name evaluations (${SUPERVISED.join(", ")}); got ${name}`);
    return known;
  });
  const tokens = Number(options.supervisedTokens ?? SUPERVISED_TOKENS);
  if (!Number.isInteger(tokens) || tokens < 1)
    throw new UserError(`--supervised-tokens must be a whole number of 1 or more; got ${options.supervisedTokens}`); // prettier-ignore
  if (config.activations.from !== "model") throw new Error("only a model reads text");
  const packed = packedAs(config.activations);
  const { inputs: hookPoint } = hookPointsOf(model, config.activations);
  return stepProgress(terminal.quiet, (onStep) =>
    superviseSae(sae, model, heldOutDocuments(config, model), {
      ...{ device, hookPoint, tokens },
      ...packed,
      ...{ seed: config.seed, signal, ...(only && { only }), onStep },
    }),
  );
}

/** Runs what tells of its steps by name, each with a line of progress. */
export async function stepProgress<T>(
  quiet: boolean,
  run: (onStep: (name: string, done: number, total: number) => void) => Promise<T>,
): Promise<T> {
  let progress: Progress | undefined;
  let running = "";
  try {
    const result = await run((name, done, total) => {
      if (name !== running) {
        progress?.end();
        const isText = name === "text";
        const [label, unit] = [isText ? "reading" : name, isText ? "tokens" : "steps"];
        progress = new Progress({ label, unit, total, quiet });
        running = name;
      }
      progress?.update(done);
    });
    progress?.end();
    return result;
  } catch (error) {
    progress?.stop();
    throw error;
  }
}

/** What is printed as JSON: `metrics` are the numbers that comparisons are made of. */
export function supervisedRecord({ drawn, ...result }: SupervisedResult) {
  return { ...result, metrics: intervalsOf(drawn) };
}

export function intervalsOf(drawn: Record<string, Drawn>): Record<string, Interval> {
  return Object.fromEntries(Object.entries(drawn).map(([name, one]) => [name, intervalOf(one)]));
}

/** The tables of a result, for a terminal. */
export function supervisedText(result: SupervisedResult): string {
  const { train, test } = result.text;
  const size = ({ documents, sentences, tokens }: typeof train) =>
    `${short(documents)} documents (${short(sentences)} sentences, ${short(tokens)} tokens)`;
  const parts = [
    `fitted on ${size(train)}, measured on ${size(test)}; 95 % intervals over documents`,
  ];
  const { sparseProbing: probing, scr, tpp, absorption, interchange } = result;
  if (probing) {
    parts.push(probingText("sparse probing, sentences", probing.sentences));
    parts.push(probingText("sparse probing, tokens", probing.tokens));
  }
  if (scr) parts.push(scrText(scr));
  if (tpp) parts.push(tppText(tpp));
  if (absorption) parts.push(absorptionText(absorption));
  if (interchange) parts.push(interchangeText(interchange));
  for (const [name, reason] of Object.entries(result.left))
    parts.push(`${name}: left out, ${reason}`);
  return parts.join("\n\n");
}

type Found<Name extends keyof SupervisedResult> = NonNullable<SupervisedResult[Name]>;

/** 0.812 [0.790, 0.834] */
export function interval({ value, low, high }: Interval, digits = 3): string {
  const shown = (v: number) => (Number.isFinite(v) ? v.toFixed(digits) : "–");
  return `${shown(value)} [${shown(low)}, ${shown(high)}]`;
}

function probingText(
  title: string,
  { concepts, means, tooRare, ks, chance }: Found<"sparseProbing">["tokens"],
): string {
  if (concepts.length === 0) return `${title}: no concept is frequent enough`;
  const rows = means.map(({ probed, k, accuracy, auc, f1 }) => [
    ...[probed === "neurons" ? "dimensions" : probed, String(k)],
    ...[interval(accuracy), auc.toFixed(3), f1.toFixed(3)],
  ]);
  const first = ks.includes(1) ? 1 : ks[0];
  const own = concepts
    .map(({ concept, testRows, probes }) => {
      const at = (probed: string) => probes.find((p) => p.probed === probed && p.k === first)!;
      const best = at("latents");
      return { concept, testRows, best, neuron: at("neurons").scores.accuracy.value };
    })
    .sort((a, b) => b.best.scores.accuracy.value - a.best.scores.accuracy.value)
    .slice(0, 10)
    .map(({ concept, testRows, best, neuron }) => [
      ...[concept, String(best.columns?.[0] ?? ""), interval(best.scores.accuracy)],
      ...[interval(best.scores.auc), neuron.toFixed(3), String(testRows)],
    ]);
  return [
    `${title}: mean over ${concepts.length} concepts; chance ${chance}` +
      (tooRare.length > 0 ? `; too rare: ${tooRare.length}` : ""),
    table(["probe of", "k", "accuracy", "AUC", "F1"], rows),
    `the ten best by ${first === 1 ? "one latent" : `${first} latents`}`,
    table(["concept", "latent", "accuracy", "AUC", "dimension", "n"], own),
  ].join("\n");
}

/** Pairs are shown at this many latents, one for all, since the best of several would flatter. */
const SHOWN_REMOVED = 20;

function scrText({ pairs, means, chance }: Found<"scr">): string {
  const rows = pairs.map(({ target, spurious, accuracy, removed, unmeasured, testRows }) => {
    const shown = removed.find(({ n }) => n === SHOWN_REMOVED);
    return [
      ...[target, spurious, accuracy.clean.value.toFixed(3), accuracy.biased.value.toFixed(3)],
      shown ? interval(shown.toMean.score) : (unmeasured ?? "–"),
      ...[shown ? shown.toMean.null.value.toFixed(3) : "–", String(testRows)],
    ];
  });
  const average = means.map(({ n, pairs: count, toMean, toZero }) => [
    ...[String(n), interval(toMean.score), toMean.null.toFixed(3)],
    ...[interval(toZero.score), toZero.null.toFixed(3), String(count)],
  ]);
  return [
    `SCR: the share of a bias that removing n latents takes away; accuracies' chance ${chance}`,
    table(["n", "set to mean", "null", "set to 0", "null", "pairs"], average),
    `by pair, ${SHOWN_REMOVED} latents set to their mean`,
    table(["target", "spurious", "clean", "biased", "score", "null", "rows"], rows),
  ].join("\n");
}

function tppText({ concepts, removed, tooRare }: Found<"tpp">): string {
  if (removed.length === 0)
    return `TPP: fewer than two concepts are frequent enough (too rare: ${tooRare.join(", ")})`;
  const rows = removed.map(({ n, score, own, others, null: by }) => [
    ...[String(n), interval(score), interval(own), interval(others), by.value.toFixed(3)],
  ]);
  const names = concepts.map(({ concept, accuracy }) => `${concept} ${accuracy.value.toFixed(3)}`);
  return [
    `TPP: accuracy lost by the concept's own probe less that lost by the others, n latents removed`,
    table(["n", "score", "own", "others", "null"], rows),
    `probes as they are: ${names.join(", ")}`,
  ].join("\n");
}

function absorptionText({ parents, mean, tooRare }: Found<"absorption">): string {
  if (!mean) return `absorption: no concept with kinds is frequent enough (${tooRare.join(", ")})`;
  const rows = parents.map(
    ({ parent, rows: n, main, silent, fraction, full, byKind, null: by }) => [
      ...[parent, String(n), String(main.length), silent.value.toFixed(3)],
      ...[interval(fraction), by.fraction.value.toFixed(3)],
      ...[interval(full), by.full.value.toFixed(3), byKind.value.toFixed(3)],
    ],
  );
  const last = [
    ...["mean", "", "", "", interval(mean.fraction), mean.null.fraction.toFixed(3)],
    ...[interval(mean.full), mean.null.full.toFixed(3), mean.byKind.value.toFixed(3)],
  ];
  return [
    "absorption (SAEBench): the share of a concept that others than its main latents carry, on tokens that have it; null along random directions",
    table(
      ["concept", "n", "main", "silent", "fraction", "null", "full", "null", "by a kind"],
      [...rows, last],
    ),
  ].join("\n");
}

/** In the order of the table. */
const INTERCHANGED = ["latents", "all latents", "dimensions", "means", "whole"] as const;

function interchangeText({ attributes, mean, chance }: Found<"interchange">): string {
  const rows = attributes.flatMap(
    ({ attribute, scores, latents, dimensions, null: by, unmeasured }) => {
      if (unmeasured !== undefined) return [[attribute, "", unmeasured]];
      const counts: Partial<Record<string, number>> = { latents: latents.length, dimensions: dimensions.length }; // prettier-ignore
      return [
        ...INTERCHANGED.map((way) => {
          const { cause, isolation, disentangle } = scores[way]!;
          const name = counts[way] === undefined ? way : `${counts[way]} ${way}`;
          return [attribute, name, interval(disentangle), interval(cause), interval(isolation)];
        }),
        [attribute, `${latents.length} random latents`, interval(by!.disentangle), interval(by!.cause), interval(by!.isolation)], // prettier-ignore
      ];
    },
  );
  const averages = INTERCHANGED.map((way) => {
    const { cause, isolation, disentangle } = mean[way];
    return ["mean", way, interval(disentangle), interval(cause), interval(isolation)];
  });
  const known = attributes.map(({ attribute, accuracy, pairs }) => `${attribute} ${(100 * accuracy.test).toFixed(0)} % of ${accuracy.prompts} (${pairs.cause} pairs)`); // prettier-ignore
  return [
    `interchange (RAVEL): one attribute from another prompt; doing nothing or everything comes to ${chance}; intervals over heroes`,
    table(
      ["attribute", "interchanged", "disentangle", "cause", "isolation"],
      [...rows, ...averages, ["mean", "random latents", mean.null.toFixed(3), "", ""]],
    ),
    `the model's most likely token is right: ${known.join(", ")}`,
  ].join("\n");
}
