/** What latents fire on in a text that a person gives. */
import { encodeText, piecesOf } from "../analysis/codes.ts";
import { openDevice } from "../device/device.ts";
import { UserError } from "../error.ts";
import type { ModelRun } from "./model-run.ts";

/** Pieces of a text, joined exactly its characters; the latents that fire on piece i are those from offsets[i] to offsets[i + 1], the strongest first. */
export interface TextCodes {
  pieces: string[];
  offsets: Int32Array; // [pieces + 1]
  latents: Int32Array;
  values: Float32Array;
  /** The last token of each piece, from 0; more than the piece's number where a character takes several. */
  lastToken: Int32Array; // [pieces]
}

/**
 * Encodes a text. A piece of several tokens (one character split into bytes) has the larger activation.
 * Text longer than the model's context is read in rows, as text for training is.
 * @throws UserError for a text without tokens.
 */
export async function textCodes(
  { sae, model, activations, places }: Omit<ModelRun, "folder" | "config">,
  text: string,
): Promise<TextCodes> {
  const device = await openDevice("reference");
  const pieces: string[] = [];
  const lastToken: number[] = [];
  let read = 0;
  const firing: Map<number, number>[] = [];
  try {
    const documents = [{ id: "text", text }];
    const { contextLength, bos, eos } = activations;
    const options = { tokens: Infinity, contextLength, bos, eos, batchRows: 1 };
    for await (const { chunk, codes } of encodeText(
      ...([sae, device, model, places.hookPoint, documents, options] as const),
    )) {
      const { text: cut, pieceOf } = piecesOf(chunk, 0, chunk.length);
      const first = pieces.length;
      pieces.push(...cut);
      pieceOf.forEach((piece, token) => (lastToken[first + piece] = read + token));
      read += chunk.length;
      for (const _ of cut) firing.push(new Map());
      for (let latent = 0; latent < sae.spec.dSae; latent++)
        for (let i = codes.offsets[latent]; i < codes.offsets[latent + 1]; i++) {
          const own = firing[first + pieceOf[codes.positions[i]]];
          own.set(latent, Math.max(own.get(latent) ?? 0, codes.values[i]));
        }
    }
  } finally {
    await device.close();
  }
  if (pieces.length === 0) throw new UserError("the text has no tokens: give at least a character");
  const sorted = firing.map((own) => [...own].sort((a, b) => b[1] - a[1] || a[0] - b[0]));
  const offsets = new Int32Array(pieces.length + 1);
  sorted.forEach((own, i) => (offsets[i + 1] = offsets[i] + own.length));
  const flat = sorted.flat();
  return {
    pieces,
    offsets,
    latents: Int32Array.from(flat, ([latent]) => latent),
    values: Float32Array.from(flat, ([, value]) => value),
    lastToken: Int32Array.from(lastToken),
  };
}

/** The activation of one latent on each piece; 0 where it is silent. */
export function valuesOf(
  { pieces, offsets, latents, values }: TextCodes,
  latent: number,
): number[] {
  return pieces.map((_, i) => {
    const at = latents.subarray(offsets[i], offsets[i + 1]).indexOf(latent);
    return at < 0 ? 0 : values[offsets[i] + at];
  });
}

/** Of each latent that fires on the text: its largest activation, their sum, and on how many pieces. */
export function totalsOf({
  latents,
  values,
}: Pick<TextCodes, "latents" | "values">): Map<
  number,
  { max: number; sum: number; pieces: number }
> {
  const totals = new Map<number, { max: number; sum: number; pieces: number }>();
  latents.forEach((latent, i) => {
    const { max, sum, pieces } = totals.get(latent) ?? { max: 0, sum: 0, pieces: 0 };
    totals.set(latent, { max: Math.max(max, values[i]), sum: sum + values[i], pieces: pieces + 1 });
  });
  return totals;
}
