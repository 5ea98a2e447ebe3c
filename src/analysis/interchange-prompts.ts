/** Prompts of known attributes through a model: what it says next, and what it says once the last activation is another. */
import type { AttributePrompt } from "../corpus/prompts.ts";
import type { Device } from "../device/device.ts";
import { UserError } from "../error.ts";
import { logSumExp } from "../model/generate.ts";
import type { Model } from "../model/model.ts";
import type { BosRule } from "../model/packing.ts";
import { eachActive } from "../sae/sae-on-device.ts";
import type { Sae } from "../sae/sae.ts";

/** A prompt as the model read it. */
export interface ReadPrompt {
  prompt: AttributePrompt;
  /** At the last position, raw units; [dIn]. */
  x: Float32Array;
  /** Of each attribute that the next word tells, whether the most likely token of all says it right. */
  right: Record<string, boolean>;
}

/** A prompt with the latents that fire at its last position. */
export interface EncodedPrompt extends ReadPrompt {
  latents: Int32Array;
  values: Float32Array;
}

/** What the next word tells of each attribute that it tells anything of. */
export type Told = Record<string, string>;

/** What the model tells after each of `bases` with the activation at its last position replaced; bases by number. */
export type Tell = (bases: readonly number[], x: readonly ArrayLike<number>[]) => Promise<Told[]>;

/** Rows that go through the model together. */
const ROWS = 64;

interface Row {
  tokens: Int32Array;
  /** [tokens.length, dIn] */
  activations: Float32Array;
}

/**
 * Reads prompts at one hook point.
 * @throws UserError for prompts that are too long for the model, or answers that begin with the same token.
 */
export async function readPrompts(
  model: Model,
  hookPoint: string,
  prompts: readonly AttributePrompt[],
  bos: BosRule,
): Promise<{ read: ReadPrompt[]; tell: Tell }> {
  const width = model.hookWidth(hookPoint);
  const encoded = prompts.map(({ text }) => {
    const { ids } = model.tokenizer.encode(text);
    const { bosId } = model.tokenizer;
    return bos === "none" || bosId === null ? ids : Int32Array.of(bosId, ...ids);
  });
  const longest = Math.max(...encoded.map((tokens) => tokens.length));
  if (longest > model.info.contextLength)
    throw new UserError(
      `the prompts take up to ${longest} of the model's tokens, and it reads ${model.info.contextLength} at most`,
    );
  const rows: Row[] = [];
  const read: ReadPrompt[] = [];
  const answers = new Answers(model);
  await inBatches(encoded, [...prompts.keys()], async (numbers, length) => {
    const tokens = joined(numbers.map((n) => encoded[n]));
    const found = await model.forward({
      ...{ tokens, batch: numbers.length, length, capture: [hookPoint], logits: "last" },
    });
    for (const [i, n] of numbers.entries()) {
      const size = length * width;
      const activations = found.activations[hookPoint].slice(i * size, (i + 1) * size);
      rows[n] = { tokens: encoded[n], activations };
      const right = answers.right(prompts[n], answers.rowOf(found.logits!, i));
      read[n] = { prompt: prompts[n], x: activations.subarray(size - width), right };
    }
  });
  const tell: Tell = async (bases, x) => {
    const told: Told[] = [];
    const own = bases.map((n) => encoded[n]);
    await inBatches(own, [...bases.keys()], async (places, length) => {
      const patch = new Float32Array(places.length * length * width);
      for (const [i, place] of places.entries()) {
        patch.set(rows[bases[place]].activations, i * length * width);
        patch.set(x[place], ((i + 1) * length - 1) * width);
      }
      const { logits } = await model.forward({
        ...{ tokens: joined(places.map((place) => own[place])), batch: places.length, length },
        ...{ patch: { [hookPoint]: patch }, logits: "last" },
      });
      for (const [i, place] of places.entries())
        told[place] = answers.told(prompts[bases[place]], answers.rowOf(logits!, i));
    });
    return told;
  };
  return { read, tell };
}

export async function encodePrompts(
  sae: Sae,
  device: Device,
  read: readonly ReadPrompt[],
): Promise<EncodedPrompt[]> {
  const { dIn, dSae } = sae.spec;
  const encoder = sae.on(device, ROWS);
  const found: EncodedPrompt[] = [];
  try {
    for (let from = 0; from < read.length; from += ROWS) {
      const part = read.slice(from, from + ROWS);
      const x = new Float32Array(part.length * dIn);
      for (const [n, row] of part.entries()) x.set(row.x, n * dIn);
      const firing = part.map(() => ({ latents: [] as number[], values: [] as number[] }));
      eachActive(await encoder.encode(x, part.length), part.length, dSae, (row, latent, value) => {
        firing[row].latents.push(latent);
        firing[row].values.push(value);
      });
      for (const [n, { latents, values }] of firing.entries())
        found.push({
          ...{ ...part[n], latents: Int32Array.from(latents), values: Float32Array.from(values) },
        });
    }
  } finally {
    encoder.close();
  }
  return found;
}

/** Calls `run` with places of rows of one length, as many as go together. */
async function inBatches(
  rows: readonly Int32Array[],
  places: readonly number[],
  run: (places: number[], length: number) => Promise<void>,
): Promise<void> {
  const byLength = new Map<number, number[]>();
  for (const place of places) {
    const { length } = rows[place];
    byLength.set(length, [...(byLength.get(length) ?? []), place]);
  }
  for (const [length, own] of byLength)
    for (let from = 0; from < own.length; from += ROWS)
      await run(own.slice(from, from + ROWS), length);
}

function joined(rows: readonly Int32Array[]): Int32Array {
  const length = rows[0].length;
  const out = new Int32Array(rows.length * length);
  for (const [n, row] of rows.entries()) out.set(row, n * length);
  return out;
}

/** Next-token logits as answers. */
class Answers {
  readonly #model: Model;
  /** First tokens of the words of each value, by attribute; one entry for each set of answers. */
  readonly #tokens = new Map<AttributePrompt["answers"], Map<string, [string, number[]][]>>();

  constructor(model: Model) {
    this.#model = model;
  }

  rowOf(logits: Float32Array, row: number): Float32Array {
    const { vocabSize } = this.#model.info;
    return logits.subarray(row * vocabSize, (row + 1) * vocabSize);
  }

  /** The value whose tokens have the highest total probability. */
  told({ answers }: AttributePrompt, logits: Float32Array): Told {
    const told: Told = {};
    for (const [attribute, values] of this.#tokensOf(answers)) {
      const weights = values.map(([, tokens]) =>
        logSumExp(Float32Array.from(tokens, (token) => logits[token])),
      );
      told[attribute] = values[weights.indexOf(Math.max(...weights))][0];
    }
    return told;
  }

  right({ answers, values: own }: AttributePrompt, logits: Float32Array): Record<string, boolean> {
    let top = 0;
    for (let t = 1; t < logits.length; t++) if (logits[t] > logits[top]) top = t;
    return Object.fromEntries(
      [...this.#tokensOf(answers)].map(([attribute, values]) => [
        attribute,
        values.some(([value, tokens]) => value === own[attribute] && tokens.includes(top)),
      ]),
    );
  }

  #tokensOf(answers: AttributePrompt["answers"]): Map<string, [string, number[]][]> {
    const known = this.#tokens.get(answers);
    if (known) return known;
    const found = new Map<string, [string, number[]][]>();
    for (const [attribute, values] of Object.entries(answers)) {
      const taken = new Map<number, string>();
      found.set(
        attribute,
        Object.entries(values).map(([value, words]) => {
          const tokens = words.map((word) => this.#model.tokenizer.encode(` ${word}`).ids[0]);
          for (const token of tokens) {
            if ((taken.get(token) ?? value) !== value)
              throw new UserError(
                `the model's tokens do not tell ${attribute} ${value} from ${taken.get(token)}: their words begin alike`,
              );
            taken.set(token, value);
          }
          return [value, tokens];
        }),
      );
    }
    this.#tokens.set(answers, found);
    return found;
  }
}
