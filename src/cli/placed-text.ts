/** Held-out text as several autoencoders see it, in two halves: one to choose on, one to test on. */
import { selectDocuments, type CodesByLatent, type TextChunk } from "../analysis/codes.ts";
import { BYTES_PER_ACTIVATION, FiringsCollector } from "../analysis/firings.ts";
import { encodeTogether } from "../analysis/joint-codes.ts";
import type { Device } from "../device/device.ts";
import { UserError } from "../error.ts";
import { packedAs } from "../workbench/reading.ts";
import { heldOutTextOf, type PlacedRuns } from "./placed-runs.ts";
import { Progress } from "./progress.ts";
import { short } from "../readable.ts";
import { type Terminal } from "./terminal.ts";

export interface ReadingOptions {
  tokens: number;
  /** What the halves are for, for the message that there are too few documents. */
  purpose: string;
  /** Told of every part of a half (0: documents with even numbers, 1: with odd ones), with the codes of each autoencoder. */
  onPart?: (half: number, chunk: TextChunk, codes: readonly CodesByLatent[]) => void;
}

/** @throws UserError when one of the halves has fewer than two documents. */
export async function readHalves(
  placed: PlacedRuns,
  device: Device,
  terminal: Terminal,
  signal: AbortSignal,
  { tokens, purpose, onPart }: ReadingOptions,
): Promise<FiringsCollector[]> {
  const { runs, model, text } = placed;
  const halves = [0, 1].map(() => new FiringsCollector(runs.map(({ sae }) => sae.spec.dSae)));
  const progress = new Progress({
    ...{ label: "reading", unit: "tokens", total: tokens, quiet: terminal.quiet },
  });
  const documents = heldOutTextOf(placed, signal);
  const reading = { tokens, ...packedAs(text) };
  let activations = 0;
  try {
    for await (const { chunk, codes } of encodeTogether(runs, device, model, documents, reading)) {
      for (const odd of [0, 1]) {
        const parts = codes.map((own) =>
          selectDocuments(chunk, own, ({ ordinal }) => ordinal % 2 === odd),
        );
        const partCodes = parts.map((part) => part.codes);
        halves[odd].add(parts[0].chunk, partCodes);
        onPart?.(odd, parts[0].chunk, partCodes);
      }
      activations += codes.reduce((sum, { values }) => sum + values.length, 0);
      progress.update(halves[0].positions + halves[1].positions);
    }
    progress.end(`${Math.round((activations * (8 + BYTES_PER_ACTIVATION)) / 1e6)} MB held`);
  } catch (error) {
    progress.stop();
    throw error;
  }
  for (const half of halves)
    if (half.documents < 2)
      throw new UserError(
        `${halves[0].documents + halves[1].documents} documents in ${short(tokens)} tokens are too few: ${purpose}, and an interval needs two of each; read more (--tokens) or longer text`,
      );
  return halves;
}
