/**
 * The thread that holds models: it opens a run with its model on the first question and answers what
 * pages ask of it. The server's own thread stays free, since running a model blocks the one it runs in.
 */
import { statSync } from "node:fs";
import { join } from "node:path";

import { tokenText } from "../analysis/codes.ts";
import { attribute, singleToken } from "../analysis/attribute.ts";
import { openFeatures, type Features } from "../analysis/features.ts";
import { logitEffects, nearestToLogits, type DirectForm } from "../analysis/logits.ts";
import { coNeighbors, cosineNull, type CosineNull } from "../analysis/neighbors.ts";
import { steering, type Edit } from "../analysis/steer.ts";
import { suspectsOf, type LatentFacts } from "../analysis/suspects.ts";
import { writePointOf } from "../analysis/write-point.ts";
import type { RunConfig } from "../config.ts";
import { messageOf, UserError } from "../error.ts";
import { generate, type GenerateOptions } from "../model/generate.ts";
import { loadModel } from "../model/model.ts";
import { workerPort } from "../platform.node.ts";
import {
  countedCoActivation,
  factsOf,
  nameOf,
  near,
  withTexts,
} from "../workbench/feature-facts.ts";
import { estimateRun, type RunEstimate } from "../workbench/estimate.ts";
import { openModelRun, type ModelRun } from "../workbench/model-run.ts";
import { textCodes, type TextCodes } from "../workbench/text-codes.ts";

/** A run with a model, and its features where there are any. */
interface Opened extends ModelRun {
  features: Features | undefined;
  /** What is the same for all latents, worked out once. */
  facts: () => Promise<Facts>;
}

interface Facts {
  chance: { decoder: CosineNull; encoder: CosineNull };
  /** Where pairs were counted; null where not. */
  pairs: LatentFacts | null;
}

async function factsOfRun({ sae }: ModelRun, features: Features | undefined): Promise<Facts> {
  const co = features && (await countedCoActivation(features));
  return {
    chance: {
      decoder: await cosineNull(sae.W_dec, sae.spec.dOut),
      encoder: await cosineNull(sae.W_enc, sae.spec.dIn),
    },
    pairs: features && co ? factsOf(features, co) : null,
  };
}

/** Runs that are kept open. */
const KEPT = 2;

export interface SteerRequest {
  prompt: string;
  edits: Edit[];
  settings: Pick<GenerateOptions, "maxNewTokens" | "temperature" | "topK" | "topP" | "seed">;
}

/** A token of one of the two texts, or its end. */
export interface SteerEvent {
  side: "default" | "steered";
  /** The token as text. */
  text: string;
  /** log p(token | tokens so far) of the model. */
  logprob: number;
  /** The whole text so far: tokens may be parts of characters. */
  whole: string;
}

export interface AttributeRequest {
  text: string;
  position: number;
  token?: string;
  against?: string;
}

/** What can be asked, with its answer. */
export const operations = {
  async analyse({ open }: Call, text: string): Promise<TextCodes> {
    return textCodes(await open(), text);
  },

  async logits({ open }: Call, latent: number, form: DirectForm, top: number) {
    const { sae, model, places } = await open();
    const { hookPoint } = writePointOf(sae, model, nearestToLogits(places));
    const options = { ...places, form, top, latents: [latent] };
    for await (const effect of logitEffects(sae, model, options))
      return { writesTo: hookPoint, ...withTexts(model, effect) };
    throw new Error("a latent was asked for and none came");
  },

  async neighbors({ open }: Call, latent: number, top: number) {
    const { sae, features, facts } = await open();
    if (!features) throw new UserError("neighbours are named by the feature index; make one first");
    const { chance, pairs } = await facts();
    const { dIn, dOut } = sae.spec;
    return {
      decoder: await near(sae.W_dec, dOut, features, { latent, top, chance: chance.decoder }),
      encoder: await near(sae.W_enc, dIn, features, { latent, top, chance: chance.encoder }),
      together:
        pairs &&
        coNeighbors(pairs.co, latent, { by: "phi", count: top }).map((one) => ({
          ...one,
          label: nameOf(features, one.latent),
        })),
      suspects: pairs && (await suspectsOf(sae, pairs, { latents: [latent] })).suspects,
    };
  },

  async attribute({ open, signal }: Call, request: AttributeRequest) {
    const { sae, model, places } = await open();
    const { text, position, token, against } = request;
    return attribute(sae, model, text, {
      ...{ ...places, position, signal },
      ...(token !== undefined && { token: singleToken(model, token) }),
      ...(against !== undefined && { against: singleToken(model, against) }),
    });
  },

  async steer({ open, signal, tell }: Call, { prompt, edits, settings }: SteerRequest) {
    const { sae, model, places } = await open();
    const { bosId, eosId } = model.tokenizer;
    const ids = Int32Array.from([
      ...(bosId === null ? [] : [bosId]),
      ...model.tokenizer.encode(prompt).ids,
    ]);
    const stopTokens = eosId === null ? [] : [eosId];
    const { hookPoint } = places;
    const intervention = steering(sae, model, edits, { hookPoint, promptLength: ids.length });
    const show = tokenText(model);
    const sides = [
      { side: "default" as const, stream: generate(model, ids, { ...settings, stopTokens }) },
      {
        side: "steered" as const,
        stream: generate(model, ids, { ...settings, stopTokens, intervention }),
      },
    ].map((one) => ({ ...one, tokens: [] as number[] }));
    const unfinished = new Set(sides);
    while (unfinished.size > 0)
      for (const one of unfinished) {
        signal.throwIfAborted();
        const { value, done } = await one.stream.next();
        if (done || value.token === eosId) {
          unfinished.delete(one);
          continue;
        }
        one.tokens.push(value.token);
        tell({
          ...{ side: one.side, text: show(value.token), logprob: value.logprob },
          whole: model.tokenizer.decode(one.tokens),
        } satisfies SteerEvent);
      }
    return { hookPoint: intervention.hookPoint };
  },

  /** A model's layers and hook points, with their widths. */
  async describe(_: Call, source: string) {
    const model = await loadModel(source);
    try {
      const { folder: _folder, ...info } = model.info;
      const hookPoints = model.hookPoints();
      return { ...info, hookPoints: hookPoints.map((name) => ({ name, width: model.hookWidth(name) })) }; // prettier-ignore
    } finally {
      await model.close();
    }
  },

  estimate: (_: Call, config: RunConfig): Promise<RunEstimate | undefined> => estimateRun(config),
};

interface Call {
  /** The run that is asked about. */
  open: () => Promise<Opened>;
  signal: AbortSignal;
  /** Something on the way to the answer. */
  tell: (event: unknown) => void;
}

export type Operations = typeof operations;
export type OperationName = keyof Operations;

/** What the server's thread sends. */
export type Question =
  | { id: number; name: OperationName; folder: string; args: unknown[] }
  | { id: number; cancel: true };

/** What comes back: events, then one answer. */
export type Answer =
  | { id: number; event: unknown }
  | { id: number; result: unknown }
  | { id: number; error: string; isUsers: boolean };

const opened = new Map<string, { stamp: string; run: Promise<Opened> }>();

async function open(folder: string): Promise<Opened> {
  const known = opened.get(folder);
  opened.delete(folder);
  const stamp = stampOf(folder);
  const isSame = known?.stamp === stamp;
  if (known && !isSame) close(known.run);
  const run = isSame ? known.run : openAll(folder);
  opened.set(folder, { stamp, run });
  const [oldest] = opened;
  if (opened.size > KEPT) {
    opened.delete(oldest[0]);
    close(oldest[1].run);
  }
  try {
    return await run;
  } catch (error) {
    opened.delete(folder);
    throw error;
  }
}

function close(run: Promise<Opened>): void {
  void run.then(({ model }) => model.close()).catch(() => undefined);
}

/** Changes when the run is trained anew, or its features are looked up (anew). */
function stampOf(folder: string): string {
  return [
    ...["sae/cfg.json", "features/index.json", "features/labels.json"],
    "features/co-activation.bin",
  ]
    .map((name) => statSync(join(folder, name), { throwIfNoEntry: false })?.mtimeMs ?? "")
    .join();
}

async function openAll(folder: string): Promise<Opened> {
  const run = await openModelRun("", folder, "this");
  // Labels that are damaged cost the names; the run's page says so.
  const features = await openFeatures(`${folder}/features`, () => undefined).catch(
    (error: unknown) => {
      if (error instanceof UserError) return undefined;
      throw error;
    },
  );
  let facts: Promise<Facts> | undefined;
  return { ...run, features, facts: () => (facts ??= factsOfRun(run, features)) };
}

/** Answers questions one after the other; a cancellation is heard in between. */
export function serveQuestions(): void {
  const port = workerPort();
  const controllers = new Map<number, AbortController>();
  let previous = Promise.resolve();
  const answer = async ({ id, name, folder, args }: Exclude<Question, { cancel: true }>) => {
    const { signal } = controllers.get(id)!;
    const post = (message: Answer) => port.post(message);
    try {
      signal.throwIfAborted();
      const call: Call = { open: () => open(folder), signal, tell: (event) => post({ id, event }) };
      const all = operations as Record<
        string,
        (call: Call, ...args: unknown[]) => Promise<unknown>
      >;
      post({ id, result: await all[name](call, ...args) });
    } catch (error) {
      post({ id, error: messageOf(error), isUsers: error instanceof UserError || signal.aborted });
    } finally {
      controllers.delete(id);
    }
  };
  port.onMessage(async (message) => {
    const question = message as Question;
    if ("cancel" in question) {
      controllers.get(question.id)?.abort(new UserError("nobody waits for the answer any more"));
      return;
    }
    controllers.set(question.id, new AbortController());
    previous = previous.then(() => answer(question));
  });
}
