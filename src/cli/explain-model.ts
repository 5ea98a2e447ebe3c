/** The part of `lens explain` that asks a language model: what it will cost, the asking, what came of it. */
import { join } from "node:path";

import type { EncodedText } from "../analysis/encoded-text.ts";
import { Endpoint, type EndpointOptions } from "../analysis/endpoint.ts";
import { writeExplanations, type Explanations } from "../analysis/explanations.ts";
import { explainByModel, SCORERS, type ModelExplanation, type Scorer } from "../analysis/judge.ts";
import { nearestName, UserError } from "../error.ts";
import { numberOf } from "./generate.ts";
import { Interrupted } from "./interrupt.ts";
import { Progress } from "./progress.ts";
import { short } from "../readable.ts";
import { shortPath, table, type Terminal } from "./terminal.ts";

export interface ModelOptions {
  endpoint?: string;
  model?: string;
  keyFrom: string;
  scorers: string;
  concurrency: string;
  retries: string;
  timeout: string;
  maxRequests?: string;
  priceIn?: string;
  priceOut?: string;
  dryRun?: boolean;
}

/** What the flags ask for, checked before anything is read. */
export interface Asking {
  scorers: Scorer[];
  endpoint: Omit<EndpointOptions, "cache" | "signal">;
  maxRequests: number;
  /** Per million tokens. */
  prices: { in: number; out: number } | undefined;
  isDry: boolean;
}

/** Undefined when no endpoint is asked for. @throws UserError for flags that do not fit. */
export function askingOf(options: ModelOptions): Asking | undefined {
  const { endpoint: url, model, keyFrom, maxRequests, priceIn, priceOut } = options;
  if (url === undefined) {
    if (model !== undefined || options.dryRun)
      throw new UserError("--model and --dry-run go with --endpoint URL: the base URL of an OpenAI-compatible server"); // prettier-ignore
    return undefined;
  }
  if (model === undefined)
    throw new UserError(`--endpoint needs --model NAME: see what GET ${url}/models lists`);
  const whole = (name: string, text: string, least: number) => {
    const value = numberOf(name, text);
    if (!Number.isInteger(value) || value < least)
      throw new UserError(`${name} must be a whole number of at least ${least}; got ${text}`);
    return value;
  };
  const price = (name: string, text: string | undefined) => (text === undefined ? 0 : numberOf(name, text)); // prettier-ignore
  return {
    scorers: scorersOf(options.scorers),
    endpoint: {
      ...{ url, model, key: process.env[keyFrom] },
      concurrency: whole("concurrency", options.concurrency, 1),
      retries: whole("retries", options.retries, 0),
      timeoutMs: 1000 * whole("timeout", options.timeout, 1),
    },
    maxRequests: maxRequests === undefined ? Infinity : whole("maxRequests", maxRequests, 0),
    prices:
      priceIn === undefined && priceOut === undefined
        ? undefined
        : { in: price("priceIn", priceIn), out: price("priceOut", priceOut) },
    isDry: options.dryRun ?? false,
  };
}

function scorersOf(text: string): Scorer[] {
  const names = text.split(",").filter((name) => name !== "");
  const unknown = names.find((name) => !SCORERS.some((scorer) => scorer === name));
  if (unknown === undefined) return SCORERS.filter((scorer) => names.includes(scorer));
  const near = nearestName(unknown, SCORERS);
  throw new UserError(
    `scorers must be some of ${SCORERS.join(", ")}; got ${unknown}${near ? `. Did you mean ${near}?` : ""}`,
  );
}

interface Setting {
  /** The run's folder. */
  folder: string;
  text: EncodedText;
  explanations: Explanations;
  latents: readonly number[];
  seed: number;
  terminal: Terminal;
  signal: AbortSignal;
}

/** What asking would take, beyond what is answered already. */
export interface Cost {
  requests: number;
  cached: number;
  promptTokens: number;
  answerTokens: number;
  /** In the currency of the prices; absent without prices. */
  price?: number;
}

/**
 * Asks about the latents, writes explanations.json after each, and returns what was found by latent.
 * @throws UserError when more requests than allowed are needed, or nothing at all was answered.
 */
export async function explainLatents(
  asking: Asking,
  setting: Setting,
): Promise<{ cost: Cost; found: Map<number, ModelExplanation>; failed: Map<number, string> }> {
  const { folder, text, explanations, latents, seed, terminal, signal } = setting;
  const cache = join(folder, "answers");
  const { scorers } = asking;
  const judge = { scorers, seed };
  const dry = await Endpoint.open({ ...asking.endpoint, cache, dry: true });
  for (const latent of latents) await explainByModel(text, latent, dry, judge);
  const cost = costOf(dry, asking.prices);
  terminal.note(costText(cost, latents.length, asking));
  const found = new Map<number, ModelExplanation>();
  const failed = new Map<number, string>();
  if (asking.isDry) return { cost, found, failed };
  if (cost.requests > asking.maxRequests)
    throw new UserError(
      `${short(cost.requests)} requests are needed and --max-requests allows ${short(asking.maxRequests)}: ask about fewer latents or with fewer --scorers, or allow more`,
    );
  const endpoint = await Endpoint.open({ ...asking.endpoint, cache, signal });
  const progress = new Progress({
    ...{ label: "asking", unit: "latents", total: latents.length, quiet: terminal.quiet },
  });
  const queue = [...latents];
  const dir = join(folder, "features");
  // One after the other, as each lane's latents come to an end.
  let written = Promise.resolve();
  const lane = async () => {
    for (let latent = queue.shift(); latent !== undefined; latent = queue.shift()) {
      const onText = (so: string) => {
        const [, words = ""] = /EXPLANATION:\s*(.*)/i.exec(so) ?? [];
        progress.update(found.size + failed.size, `${latent}: ${words}`);
      };
      const answer = await explainByModel(text, latent, endpoint, { ...judge, onText });
      if ("explanation" in answer) {
        found.set(latent, answer);
        const own = explanations.latents[latent];
        const others = (own.models ?? []).filter((one) => one.model !== answer.model || one.prompts !== answer.prompts); // prettier-ignore
        own.models = [...others, answer];
        written = written.then(() => writeExplanations(dir, explanations));
        await written;
      } else failed.set(latent, answer.missing);
      progress.update(found.size + failed.size, "");
    }
  };
  try {
    // Each lane has several questions at a time: the endpoint holds back what is too many.
    const lanes = Math.min(asking.endpoint.concurrency!, latents.length);
    await Promise.all(Array.from({ length: lanes }, lane));
    progress.end();
  } catch (error) {
    progress.stop();
    await written;
    if (signal.aborted)
      throw new Interrupted(
        `stopped after ${found.size} of ${latents.length} latents; what was answered is kept in ${shortPath(cache)}: the same command goes on`,
      );
    throw error;
  }
  if (found.size === 0)
    throw new UserError(
      `no latent could be explained: ${[...new Set(failed.values())].slice(0, 3).join("; ")}. Check ${asking.endpoint.url} and run the same command again: what was answered is kept`,
    );
  return { cost, found, failed };
}

function costOf({ counts }: Endpoint, prices: Asking["prices"]): Cost {
  const { sent: requests, cached, promptTokens, answerTokens } = counts;
  return {
    ...{ requests, cached, promptTokens, answerTokens },
    ...(prices && { price: (promptTokens * prices.in + answerTokens * prices.out) / 1e6 }),
  };
}

function costText(cost: Cost, latents: number, { endpoint, scorers }: Asking): string {
  const { requests, cached, promptTokens, answerTokens, price } = cost;
  return (
    `${endpoint.model} at ${endpoint.url} about ${short(latents)} latents (${["explanation", ...scorers].join(", ")}): ` +
    `${short(requests)} requests, about ${short(promptTokens)} tokens to read and ${short(answerTokens)} to write (4 characters each)` +
    (price === undefined ? "" : `, for about ${price.toFixed(2)}`) +
    (cached > 0 ? `; ${short(cached)} more are answered already` : "")
  );
}

/** What the model said, the best scored first, with what is missing. */
export function modelTable(
  found: ReadonlyMap<number, ModelExplanation>,
  failed: ReadonlyMap<number, string>,
  scorers: readonly Scorer[],
): string {
  const cell = (one: ModelExplanation, scorer: Scorer) => {
    const score = one.scores.find((s) => s.scorer === scorer)?.score;
    return score ? `${score.value.toFixed(2)} (${score.low.toFixed(2)}–${score.high.toFixed(2)})` : "–"; // prettier-ignore
  };
  const mean = ({ scores }: ModelExplanation) =>
    scores.reduce((sum, { score }) => sum + score.value, 0) / Math.max(scores.length, 1);
  const rows = [...found].sort(([, a], [, b]) => mean(b) - mean(a));
  const lines = [
    table(
      ["latent", ...scorers, "explanation"],
      rows.map(([latent, one]) => [
        String(latent),
        ...scorers.map((scorer) => cell(one, scorer)),
        one.explanation,
      ]),
    ),
    "",
    "Scores on test documents: 0 is chance, 1 without fault, with 95 % intervals.",
  ];
  const missing = [
    ...[...found].flatMap(([latent, one]) => one.missing.map((why) => `${latent}: ${why}`)),
    ...[...failed].map(([latent, why]) => `${latent}: no explanation: ${why}`),
  ];
  if (missing.length > 0)
    lines.push("", `Missing (the same command asks for these again):`, ...missing.map((why) => `  ${why}`)); // prettier-ignore
  return lines.join("\n");
}
