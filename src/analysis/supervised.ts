/**
 * Supervised evaluation: how an SAE's latents fare where the truth is known, on text whose concepts are
 * labelled. The evaluations one by one are in supervised-*.ts; here the text is read once for all of them.
 */
import { UserError } from "../error.ts";
import type { Model } from "../model/model.ts";
import type { Document } from "../model/text.ts";
import type { Sae } from "../sae/sae.ts";
import { sparseProbing, type ProbingResult } from "./supervised-probing.ts";
import { rawDecoder } from "./supervised-removal.ts";
import { labelledText, type LabelledTextOptions } from "./supervised-rows.ts";
import { spuriousRemoval, type ScrResult } from "./supervised-scr.ts";
import { targetedPerturbation, type TppResult } from "./supervised-tpp.ts";

export const SUPERVISED = ["sparse-probing", "scr", "tpp"] as const;
export type SupervisedName = (typeof SUPERVISED)[number];

export interface SupervisedOptions extends LabelledTextOptions {
  /** Absent: all of them. */
  only?: readonly SupervisedName[];
  seed?: number;
  /** Called when an evaluation begins, and with its share done. */
  onStep?: (name: SupervisedName | "text", done: number, total: number) => void;
  signal?: AbortSignal;
}

export interface SupervisedResult {
  /** Documents, tokens and sentences for fitting and for measuring. */
  text: Record<"train" | "test", { documents: number; tokens: number; sentences: number }>;
  sparseProbing?: { sentences: ProbingResult; tokens: ProbingResult };
  scr?: ScrResult;
  tpp?: TppResult;
  /** Evaluations that do not fit this SAE or this text, and why. */
  left: Partial<Record<SupervisedName, string>>;
}

/**
 * Runs the evaluations on the first `tokens` positions of `documents`. One that does not fit the SAE is
 * left out, and the result says why.
 * @throws UserError when SAE and hook points do not fit, or the text has no labels or too few documents.
 */
export async function superviseSae(
  sae: Sae,
  model: Model,
  documents: AsyncIterable<Document> | Iterable<Document>,
  options: SupervisedOptions,
): Promise<SupervisedResult> {
  const { only = SUPERVISED, seed = 0, onStep, signal } = options;
  const text = await labelledText(sae, model, documents, {
    ...options,
    onProgress: (done) => {
      signal?.throwIfAborted();
      onStep?.("text", Math.min(done, options.tokens), options.tokens);
    },
  });
  const counts = (side: "train" | "test") => ({
    documents: text.tokens[side].documents,
    ...{ tokens: text.tokens[side].rows, sentences: text.sentences[side].rows },
  });
  const result: SupervisedResult = {
    text: { train: counts("train"), test: counts("test") },
    left: {},
  };
  const runs: Record<SupervisedName, (options: Step) => void | Promise<void>> = {
    "sparse-probing": (step) => {
      const half = (from: number) => ({
        ...step,
        onProgress: (done: number, total: number) =>
          step.onProgress(from * total + done, 2 * total),
      });
      result.sparseProbing = {
        sentences: sparseProbing(text.sentences, half(0)),
        tokens: sparseProbing(text.tokens, half(1)),
      };
    },
    scr: (step) => {
      result.scr = spuriousRemoval(text.sentences, rawDecoder(sae), step);
    },
    tpp: (step) => {
      result.tpp = targetedPerturbation(text.sentences, rawDecoder(sae), step);
    },
  };
  for (const name of only) {
    const onProgress = (done: number, total: number) => {
      signal?.throwIfAborted();
      onStep?.(name, done, total);
    };
    try {
      await runs[name]({ seed, onProgress });
    } catch (error) {
      if (!(error instanceof UserError)) throw error;
      result.left[name] = error.message;
    }
  }
  return result;
}

interface Step {
  seed: number;
  onProgress: (done: number, total: number) => void;
}
