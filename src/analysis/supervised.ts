/**
 * Supervised evaluation: how an SAE's latents fare where the truth is known, on text whose concepts are
 * labelled. The evaluations one by one are in supervised-*.ts; here the text is read once for all of them.
 */
import { attributePrompts } from "../corpus/prompts.ts";
import { UserError } from "../error.ts";
import type { Model } from "../model/model.ts";
import type { Document } from "../model/text.ts";
import type { Sae } from "../sae/sae.ts";
import { requireFit } from "./codes.ts";
import { moveDraws, type Drawn, type WithoutDraws } from "./document-draws.ts";
import { encodePrompts, readPrompts } from "./interchange-prompts.ts";
import { absorptionOfKinds, type AbsorptionResult } from "./supervised-absorption.ts";
import { interchange, type InterchangeResult } from "./supervised-interchange.ts";
import { sparseProbing, type ProbingResult } from "./supervised-probing.ts";
import { rawDecoder } from "./supervised-removal.ts";
import { labelledText, type LabelledText, type LabelledTextOptions } from "./supervised-rows.ts";
import { spuriousRemoval, type ScrResult } from "./supervised-scr.ts";
import { targetedPerturbation, type TppResult } from "./supervised-tpp.ts";

export const SUPERVISED = ["sparse-probing", "scr", "tpp", "absorption", "interchange"] as const;
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
  sparseProbing?: Record<"sentences" | "tokens", WithoutDraws<ProbingResult>>;
  scr?: WithoutDraws<ScrResult>;
  tpp?: WithoutDraws<TppResult>;
  absorption?: WithoutDraws<AbsorptionResult>;
  interchange?: WithoutDraws<InterchangeResult>;
  /** Evaluations that do not fit this SAE, model or text, and why. */
  left: Partial<Record<SupervisedName, string>>;
  /** What two SAEs on one text are compared by, on every draw: documents, of `interchange` heroes. */
  drawn: Record<string, Drawn>;
}

interface Step {
  seed: number;
  onProgress: (done: number, total: number) => void;
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
    ...{ left: {}, drawn: {} },
  };
  for (const name of only) {
    const onProgress = (done: number, total: number) => {
      signal?.throwIfAborted();
      onStep?.(name, done, total);
    };
    try {
      await run(name, result, { sae, model, text, options }, { seed, onProgress });
    } catch (error) {
      if (!(error instanceof UserError)) throw error;
      result.left[name] = error.message;
    }
  }
  return result;
}

interface Subject {
  sae: Sae;
  model: Model;
  text: LabelledText;
  options: SupervisedOptions;
}

/** Adds one evaluation to the result. */
async function run(
  name: SupervisedName,
  result: SupervisedResult,
  subject: Subject,
  step: Step,
): Promise<void> {
  const { sae, text } = subject;
  const kept = <T extends { drawn: Record<string, Drawn> }>(prefix: string, found: T) =>
    moveDraws(found, prefix, result.drawn);
  switch (name) {
    case "sparse-probing": {
      const half = (from: number) => ({
        ...step,
        onProgress: (done: number, total: number) =>
          step.onProgress(from * total + done, 2 * total),
      });
      const [sentences, tokens] = [text.sentences, text.tokens].map((split, i) =>
        sparseProbing(split, half(i)),
      );
      result.sparseProbing = {
        sentences: kept("sparseProbing.sentences", sentences),
        tokens: kept("sparseProbing.tokens", tokens),
      };
      return;
    }
    case "scr":
      result.scr = kept("scr", spuriousRemoval(text.sentences, rawDecoder(sae), step));
      return;
    case "tpp":
      result.tpp = kept("tpp", targetedPerturbation(text.sentences, rawDecoder(sae), step));
      return;
    case "absorption":
      result.absorption = kept("absorption", absorptionOfKinds(text.tokens, rawDecoder(sae), step));
      return;
    case "interchange":
      result.interchange = kept("interchange", await interchanged(subject, step));
      return;
    default:
      name satisfies never;
  }
}

async function interchanged({ sae, model, options }: Subject, step: Step) {
  const W_dec = rawDecoder(sae);
  const [hookPoint, ...others] = requireFit(sae, model, options.hookPoint);
  if (others.length > 0)
    throw new UserError(
      "the SAE is a crosscoder: an interchange at one of its hook points is overwritten by what the others bring",
    );
  const { read, tell } = await readPrompts(model, hookPoint, attributePrompts(), options.bos ?? "document"); // prettier-ignore
  return interchange(await encodePrompts(sae, options.device, read), tell, W_dec, step);
}
