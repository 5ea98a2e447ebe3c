/** `lens attribute`: which latents a next-token prediction comes from. */
import { mkdir, writeFile } from "node:fs/promises";
import { dirname } from "node:path";
import type { Command } from "commander";

import { attribute, singleToken, type Attribution } from "../analysis/attribute.ts";
import { attributionFigure } from "../analysis/attribution-figure.ts";
import { renderPng } from "../analysis/plots.ts";
import { UserError } from "../error.ts";
import { featuresForNames, meaningOf, openModelRun } from "../workbench/model-run.ts";
import { numberOf } from "./generate.ts";
import { interruptible } from "./interrupt.ts";
import { Progress } from "./progress.ts";
import { shortPath, table, Terminal } from "./terminal.ts";

interface Options {
  runs: string;
  text?: string;
  position: string;
  token?: string;
  against?: string;
  measure?: string;
  top: string;
  integrated: string;
  at?: string;
  out?: string;
  seed: string;
  quiet?: boolean;
  json?: boolean;
}

const MEASURES = ["centred", "logit", "logprob"] as const;

export function define(command: Command): void {
  command
    .argument("[run]", "a run: id, folder or `latest`", "latest")
    .description(
      "Take every latent that fires away, at one position after the other, and see what becomes of " +
        "the model's prediction of a token after a text; beside it the linear estimates of the same.",
    )
    .option("--text <text>", "the text")
    .option(
      "--position <integer>",
      "token of the text to predict after; below 0 from its end",
      "-1",
    )
    .option("--token <text>", 'the token that is predicted (" dog"); absent: the most likely one')
    .option("--against <text>", "a second token: the difference of their logits is explained")
    .option(
      "--measure <name>",
      "without --against: centred (logit less the mean of all), logit, or logprob (default: centred)",
    )
    .option("--top <integer>", "contributions to show", "20")
    .option("--integrated <integer>", "steps of integrated gradients; 0: none", "0")
    .option("--at <hookPoint>", "of a crosscoder: at which of its hook points")
    .option("--out <file>", "a bar chart: a path that ends in .svg or .png")
    .option("--runs <folder>", "the folder that holds the run folders", "runs")
    .option("--seed <integer>", "of the random directions that chance is told by", "0")
    .option("--quiet", "print errors and the result only")
    .option("--json", "print the result as JSON")
    .action((id: string, options: Options) => interruptible((signal) => run(id, options, signal)));
}

async function run(id: string, options: Options, signal: AbortSignal): Promise<void> {
  const terminal = new Terminal(options);
  const { text, measure, out } = options;
  if (text === undefined) throw new UserError('give the text: --text "Once upon a time"');
  if (measure !== undefined && !MEASURES.some((known) => known === measure))
    throw new UserError(`measure must be one of ${MEASURES.join(", ")}; got ${measure}`);
  if (measure !== undefined && options.against !== undefined)
    throw new UserError("--against explains a difference of logits, so it takes no --measure");
  if (out !== undefined && !/\.(svg|png)$/.test(out))
    throw new UserError(`out must end in .svg or .png; got ${out}`);
  const { folder, model, sae, places } = await openModelRun(options.runs, id, "attribution");
  let progress: Progress | undefined;
  try {
    const chosen = (name: "token" | "against") =>
      options[name] === undefined ? {} : { [name]: singleToken(model, options[name]) };
    const result = await attribute(sae, model, text, {
      ...{ ...places, at: options.at, ...chosen("token"), ...chosen("against"), signal },
      ...(measure !== undefined && { measure: measure as (typeof MEASURES)[number] }),
      position: numberOf("position", options.position),
      integratedSteps: numberOf("integrated", options.integrated),
      seed: numberOf("seed", options.seed),
      onProgress: (done, total) => {
        progress ??= new Progress({
          ...{ label: "attributing", unit: "passes", total, quiet: terminal.quiet },
        });
        progress.update(done);
      },
    });
    progress?.end();
    const top = numberOf("top", options.top);
    const features = await featuresForNames(folder, terminal);
    const meaning = (latent: number) => meaningOf(features, latent);
    terminal.result(result, resultText(result, top, meaning));
    if (out !== undefined) {
      const { svg } = await attributionFigure(result, Math.min(top, 40), meaning);
      await mkdir(dirname(out), { recursive: true });
      await writeFile(out, out.endsWith(".png") ? await renderPng(svg) : svg);
      terminal.note(`figure: ${shortPath(out)}`);
    }
    const [first] = result.latents;
    if (first)
      terminal.next(
        `ablate ${first.latent} ${id} --runs ${options.runs}`,
        "what the model loses without the strongest of them",
      );
  } catch (error) {
    progress?.stop();
    throw error;
  } finally {
    await model.close();
  }
}

const EXPLAINED = {
  centred: "its logit less the mean of all logits",
  logit: "its logit",
  logprob: "the logarithm of its probability",
  difference: "the difference of the two logits",
} as const;

function resultText(result: Attribution, top: number, meaning: (latent: number) => string): string {
  const { tokens, position, token, against, measure, value, hookPoint } = result;
  const { contributions, latents, completeness, correlations, chance, integrated } = result;
  const percent = (p: number) => `${(100 * p).toFixed(1)} %`;
  const name = (t: NonNullable<typeof against>) => `${JSON.stringify(t.text)} (${percent(t.probability)})`; // prettier-ignore
  const before = tokens.slice(0, position + 1).join("");
  const lines = [
    `after ${JSON.stringify(before)}: ${name(token)}${against ? ` rather than ${name(against)}` : ""}`,
    `explained: ${EXPLAINED[measure]}, ${fixed(value)} nats; latents at ${hookPoint}`,
  ];
  if (contributions.length === 0) return [...lines, "no latent fires on this text"].join("\n");
  const cell = (v: number | undefined) => (v === undefined ? "" : fixed(v));
  lines.push(
    "",
    table(
      [
        ...["position", "token", "latent", "activation", "ablation", "gradient"],
        ...(integrated ? ["integrated"] : []),
        ...["direct", "stands for"],
      ],
      contributions
        .slice(0, top)
        .map((c) => [
          ...[String(c.position), JSON.stringify(tokens[c.position]), String(c.latent)],
          ...[fixed(c.activation), fixed(c.ablation), fixed(c.gradient)],
          ...(integrated ? [cell(c.integrated)] : []),
          ...[cell(c.direct), meaning(c.latent)],
        ]),
    ),
    `the first ${Math.min(top, contributions.length)} of ${contributions.length} (latent, position) pairs; of ${chance.draws} random directions as long, 95 % have an effect of at most ${fixed(chance.size95)}`,
    "",
    `at all positions together: ${latents
      .slice(0, 8)
      .map((l) => `${l.latent} ${fixed(l.ablation)} (${l.positions})`)
      .join(", ")}`,
  );
  const { latents: own, decoderBias, error, rest, constant, sum } = completeness;
  lines.push(
    `direct path: latents ${fixed(own)} + decoder bias ${fixed(decoderBias)} + SAE error ${fixed(error)} + rest of the model ${fixed(rest)} + constant ${fixed(constant)} = ${fixed(sum)}`,
  );
  if (integrated)
    lines.push(
      `integrated gradients: they sum to ${fixed(integrated.sum)}; without any latent it is ${fixed(integrated.withoutLatents)}, a difference of ${fixed(value - integrated.withoutLatents)}`,
    );
  const r = (v: number | null) => (v === null ? "too few" : v.toFixed(3));
  lines.push(
    `correlation with ablation: gradient ${r(correlations.gradient)}` +
      (integrated ? `, integrated ${r(correlations.integrated!)}` : "") +
      `; at the predicting position: direct ${r(correlations.direct)} (with the direct ablation ${r(correlations.directWithDirectAblation)})`,
  );
  return lines.join("\n");
}

const fixed = (v: number) => v.toFixed(3);
