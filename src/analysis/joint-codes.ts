/** One text as several SAEs see it: the stream that comparisons eat, made in one pass of the model. */
import type { Device } from "../device/device.ts";
import { UserError } from "../error.ts";
import type { Model } from "../model/model.ts";
import type { Document } from "../model/text.ts";
import type { Sae } from "../sae/sae.ts";
import {
  chunkOf,
  codesByLatent,
  joinHeads,
  requireFit,
  rowBatches,
  withinNorm,
  type CodesByLatent,
  type HookPoints,
  type TextChunk,
  type TextOptions,
} from "./codes.ts";

/** An SAE and where it reads. */
export interface PlacedSae {
  sae: Sae;
  hookPoints: HookPoints;
}

/**
 * `encodeText` for several SAEs at once: the model runs once per batch, up to the deepest hook point,
 * and every SAE's codes are of the same positions.
 * @throws UserError when there is no SAE, one does not fit its hook points, or the text has no tokens.
 */
export async function* encodeTogether(
  placed: readonly PlacedSae[],
  device: Device,
  model: Model,
  documents: AsyncIterable<Document> | Iterable<Document>,
  options: TextOptions,
): AsyncGenerator<{ chunk: TextChunk; codes: CodesByLatent[] }> {
  if (placed.length === 0) throw new UserError("there is no autoencoder to encode text with");
  const inputs = placed.map(({ sae, hookPoints }) => requireFit(sae, model, hookPoints));
  const capture = [...new Set(inputs.flat())];
  const encoders: ReturnType<Sae["on"]>[] = [];
  let first = 0;
  let firstRow = 0;
  try {
    for await (const read of rowBatches(model, documents, options)) {
      const rows = read.tokens.length;
      const { activations } = await model.forward({ ...read.pass, capture });
      const batch = withinNorm(read, activations);
      const chunk = chunkOf(batch, first, firstRow);
      const place = new Int32Array(rows).fill(-1);
      batch.kept.forEach((at, position) => (place[at] = position));
      const codes: CodesByLatent[] = [];
      for (const [i, { sae }] of placed.entries()) {
        const x = joinHeads(
          sae.spec,
          inputs[i].map((name) => activations[name]),
        );
        // The first batch is never the smaller one.
        const encoder = (encoders[i] ??= sae.on(device, rows));
        codes.push(codesByLatent(await encoder.encode(x, rows), sae.spec.dSae, place));
      }
      first += chunk.length;
      firstRow += batch.rows.length;
      yield { chunk, codes };
    }
  } finally {
    for (const encoder of encoders) encoder.close();
  }
}
