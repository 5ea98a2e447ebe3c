/**
 * Structure: what can be said of an SAE's codes and directions without labels. How long are the codes
 * (description-length.ts), and what are the decoder's directions made of (meta-sae.ts)?
 */
import { UserError } from "../error.ts";
import type { Device } from "../device/device.ts";
import type { Model } from "../model/model.ts";
import type { Document } from "../model/text.ts";
import type { Sae } from "../sae/sae.ts";
import { encodeText, firingsIn, type EncodedChunk, type HookPoints, type TextOptions } from "./codes.ts"; // prettier-ignore
import { positionLimit } from "./concept-alignment.ts";
import { descriptionLength, type DescriptionLength } from "./description-length.ts";
import { moveDraws, type Drawn, type WithoutDraws } from "./document-draws.ts";
import { metaStructure, type MetaStructure } from "./meta-sae.ts";
import { rawSae } from "./supervised-removal.ts";
import type { CodedRows } from "./supervised-rows.ts";

export interface StructureOptions extends TextOptions {
  hookPoint: HookPoints;
  device: Device;
  seed?: number;
  /** Called when a part begins, and with its share done. */
  onStep?: (name: "text" | StructureName, done: number, total: number) => void;
  signal?: AbortSignal;
}

export type StructureName = "mdl" | "meta-sae";

export interface StructureResult {
  mdl?: WithoutDraws<DescriptionLength>;
  metaSae?: WithoutDraws<MetaStructure>;
  /** What does not fit this SAE, and why. */
  left: Partial<Record<StructureName, string>>;
  /** What two SAEs are compared by: `mdl` on draws of documents, `metaSae` on draws of latents. */
  drawn: Record<string, Drawn>;
}

/**
 * Both, on the first `tokens` positions of `documents`, which are held in memory.
 * @throws UserError when SAE and hook points do not fit, or the text has no tokens.
 */
export async function structureOf(
  sae: Sae,
  model: Model,
  documents: AsyncIterable<Document> | Iterable<Document>,
  options: StructureOptions,
): Promise<StructureResult> {
  const { device, hookPoint, seed = 0, onStep, signal } = options;
  const tokens = Math.min(options.tokens, positionLimit(sae.spec.dIn));
  const rows = await codedRows(
    encodeText(sae, device, model, hookPoint, documents, { ...options, tokens }),
    sae.spec,
    (done) => {
      signal?.throwIfAborted();
      onStep?.("text", Math.min(done, tokens), tokens);
    },
  );
  const result: StructureResult = { left: {}, drawn: {} };
  const onProgress = (name: StructureName) => (done: number, total: number) => {
    signal?.throwIfAborted();
    onStep?.(name, done, total);
  };
  const parts: Record<StructureName, () => Promise<void>> = {
    mdl: async () => {
      onProgress("mdl")(0, 1);
      const found = await descriptionLength(rows, rawSae(sae), device, seed);
      result.mdl = moveDraws(found, "mdl", result.drawn);
    },
    "meta-sae": async () => {
      const { W_dec, spec } = sae.fold();
      const { offsets } = rows.codes;
      const alive = [...Array(spec.dSae).keys()].filter((f) => offsets[f + 1] > offsets[f]);
      const options = { seed, onProgress: onProgress("meta-sae") };
      const found = await metaStructure(W_dec, spec.dOut, alive, device, options);
      result.metaSae = moveDraws(found, "metaSae", result.drawn);
    },
  };
  for (const [name, part] of Object.entries(parts) as [StructureName, () => Promise<void>][])
    try {
      await part();
    } catch (error) {
      if (!(error instanceof UserError)) throw error;
      result.left[name] = error.message;
    }
  return result;
}

/** A stream of text as one piece. */
export async function codedRows(
  stream: AsyncIterable<EncodedChunk>,
  { dIn, dSae }: { dIn: number; dSae: number },
  onProgress?: (positions: number) => void,
): Promise<CodedRows> {
  const chunks: { base: number; codes: EncodedChunk["codes"] }[] = [];
  const parts: Float32Array[] = [];
  const ordinals: number[] = [];
  for await (const { chunk, codes, activations } of stream) {
    chunks.push({ base: ordinals.length, codes });
    parts.push(activations());
    for (const d of chunk.document) ordinals.push(chunk.documents[d].ordinal);
    onProgress?.(ordinals.length);
  }
  const rows = ordinals.length;
  const x = new Float32Array(rows * dIn);
  for (const [i, part] of parts.entries()) x.set(part, chunks[i].base * dIn);
  const offsets = new Int32Array(dSae + 1);
  const total = chunks.reduce((sum, { codes }) => sum + codes.positions.length, 0);
  const [positions, values] = [new Int32Array(total), new Float32Array(total)];
  for (let f = 0; f < dSae; f++) {
    const own = firingsIn(chunks, f);
    positions.set(own.positions, offsets[f]);
    values.set(own.values, offsets[f]);
    offsets[f + 1] = offsets[f] + own.positions.length;
  }
  const numbers = new Map([...new Set(ordinals)].map((ordinal, n) => [ordinal, n]));
  const document = Int32Array.from(ordinals, (ordinal) => numbers.get(ordinal)!);
  const codes = { offsets, positions, values };
  return { rows, dIn, dSae, x, codes, document, documents: numbers.size };
}
