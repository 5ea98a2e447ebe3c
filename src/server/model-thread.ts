/**
 * The thread that holds models: it opens a run with its model on the first question and answers what
 * pages ask of it. The server's own thread stays free, since running a model blocks the one it runs in.
 */
import { statSync } from "node:fs";
import { join } from "node:path";

import { tokenText } from "../analysis/codes.ts";
import { attribute, singleToken } from "../analysis/attribute.ts";
import type { Likeness } from "../analysis/feature-query.ts";
import { openFeatures, type Features } from "../analysis/features.ts";
import { DIRECT_FORMS, whyNoEffects, type DirectForm } from "../analysis/logits.ts";
import { cosinesWith } from "../analysis/neighbors.ts";
import { steering, type Edit } from "../analysis/steer.ts";
import { checkLatents } from "../analysis/write-point.ts";
import type { RunConfig } from "../config.ts";
import { openDevice } from "../device/device.ts";
import { messageOf, UserError } from "../error.ts";
import { generate, type GenerateOptions } from "../model/generate.ts";
import { loadModel } from "../model/model.ts";
import { workerPort } from "../platform.node.ts";
import { loadSae } from "../sae/formats.ts";
import type { Sae } from "../sae/sae.ts";
import {
  effectsOf,
  neighborFacts,
  neighborsOf,
  type NeighborFacts,
  type NeighborsOfLatent,
} from "../workbench/feature-facts.ts";
import { estimateRun, type RunEstimate } from "../workbench/estimate.ts";
import { openModelRun, saeFolder, type ModelRun } from "../workbench/model-run.ts";
import { textCodes, type TextCodes } from "../workbench/text-codes.ts";

/** A run's autoencoder with its features, where there are any, and its model once somebody asks for it. */
interface Opened {
  sae: Sae;
  features: Features | undefined;
  /** What is the same for all latents, worked out once. */
  facts: () => Promise<NeighborFacts>;
  withModel: () => Promise<ModelRun>;
  close: () => Promise<void>;
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
    return textCodes(await (await open()).withModel(), text);
  },

  async logits({ open }: Call, latent: number, form: DirectForm, top: number) {
    const run = await (await open()).withModel();
    return only(effectsOf(run, [latent], { form, top }));
  },

  async neighbors({ open }: Call, latent: number, top: number): Promise<NeighborsOfLatent> {
    const { sae, features, facts } = await open();
    const named = requireFeatures(features);
    return only(neighborsOf(sae, named, await facts(), [latent], { top }));
  },

  /**
   * The cosine of the latent's decoder direction with that of every latent. Like it are those with a
   * larger one than 999 of 1,000 random pairs of latents have, and the 20 nearest in any case.
   */
  async likeness({ open }: Call, latent: number): Promise<Likeness> {
    const { sae, facts } = await open();
    checkLatents(sae, [latent]);
    const { W_dec, spec } = sae;
    const { chance } = await facts();
    const cosines = cosinesWith(W_dec, spec.dOut, latent);
    const falling = Float32Array.from(cosines).sort().reverse();
    // The first is the latent itself.
    const least = Math.min(chance.decoder.oneInThousand, falling[Math.min(20, falling.length - 1)]);
    return { cosines, least };
  },

  /**
   * Both for many latents, with the effects in all direct forms: what single ones cost is mostly the
   * matrices. Where the model cannot be had, `logits` is null; where latents have no such effects too,
   * and `noLogitsBecause` says why.
   */
  async details(
    { open, signal }: Call,
    latents: number[],
    top: { logits: number; neighbors: number },
  ) {
    const { sae, features, facts, withModel } = await open();
    const named = requireFeatures(features);
    const had = await withModel().catch((error: unknown) => {
      if (error instanceof UserError) return undefined;
      throw error;
    });
    const why = had && (await whyNoEffects(had.sae, had.model, had.places));
    const run = why === undefined ? had : undefined;
    const device = await openDevice("cpu");
    try {
      const logits = latents.map((): Record<string, unknown> | null => (run ? {} : null));
      for (const form of run ? DIRECT_FORMS : []) {
        signal.throwIfAborted();
        let i = 0;
        for await (const effect of effectsOf(run!, latents, { form, top: top.logits, device }))
          logits[i++]![form] = effect;
      }
      const because = why === undefined ? {} : { noLogitsBecause: why };
      const found: {
        logits: (typeof logits)[number];
        noLogitsBecause?: string;
        neighbors: NeighborsOfLatent;
      }[] = [];
      const options = { top: top.neighbors, device };
      for await (const neighbors of neighborsOf(sae, named, await facts(), latents, options))
        found.push({ logits: logits[found.length], ...because, neighbors });
      return found;
    } finally {
      await device.close();
    }
  },

  async attribute({ open, signal }: Call, request: AttributeRequest) {
    const { sae, model, places } = await (await open()).withModel();
    const { text, position, token, against } = request;
    return attribute(sae, model, text, {
      ...{ ...places, position, signal },
      ...(token !== undefined && { token: singleToken(model, token) }),
      ...(against !== undefined && { against: singleToken(model, against) }),
    });
  },

  async steer({ open, signal, tell }: Call, { prompt, edits, settings }: SteerRequest) {
    const { sae, model, places } = await (await open()).withModel();
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
    const model = await loadModel(source, FROM_CACHE);
    try {
      const { folder: _folder, ...info } = model.info;
      const hookPoints = model.hookPoints();
      return { ...info, hookPoints: hookPoints.map((name) => ({ name, width: model.hookWidth(name) })) }; // prettier-ignore
    } finally {
      await model.close();
    }
  },

  estimate: (_: Call, config: RunConfig): Promise<RunEstimate | undefined> =>
    estimateRun(config, FROM_CACHE),
};

function requireFeatures(features: Features | undefined): Features {
  if (features) return features;
  throw new UserError("neighbours are named by the feature index; make one first");
}

/** What comes of the one latent that was asked for. */
async function only<T>(found: AsyncIterable<T>): Promise<T> {
  for await (const one of found) return one;
  throw new Error("a latent was asked for and none came");
}

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
  void run.then((opened) => opened.close()).catch(() => undefined);
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

/** Questions are asked while a name is typed, and by others than the owner: only jobs fetch models. */
const FROM_CACHE = { download: false };

async function openAll(folder: string): Promise<Opened> {
  const { sae } = await loadSae(saeFolder("", folder));
  // Labels that are damaged cost the names; the run's page says so.
  const features = await openFeatures(`${folder}/features`, () => undefined).catch(
    (error: unknown) => {
      if (error instanceof UserError) return undefined;
      throw error;
    },
  );
  let facts: Promise<NeighborFacts> | undefined;
  let run: Promise<ModelRun> | undefined;
  return {
    ...{ sae, features },
    facts: () => (facts ??= neighborFacts(sae, features)),
    // A model that was not there may be by the next time.
    withModel: () =>
      (run ??= openModelRun("", folder, "this", sae, FROM_CACHE).catch((error: unknown) => {
        run = undefined;
        throw error;
      })),
    close: async () => (await run)?.model.close(),
  };
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
