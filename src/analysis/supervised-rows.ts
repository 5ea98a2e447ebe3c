/**
 * Labelled text as rows that can be classified: each token's activation, and each sentence's mean over
 * its tokens, with the latents, the concepts it carries and the document it is from. Two thirds of the
 * documents are for choosing and fitting (train), the others for measuring (test).
 */
import type { Device } from "../device/device.ts";
import { UserError } from "../error.ts";
import type { Model } from "../model/model.ts";
import type { Document } from "../model/text.ts";
import type { Rng } from "../rng.ts";
import { eachActive } from "../sae/sae-on-device.ts";
import type { Sae } from "../sae/sae.ts";
import {
  chunkOf,
  joinHeads,
  requireFit,
  rowBatches,
  type CodesByLatent,
  type HookPoints,
  type TextDocument,
  type TextOptions,
} from "./codes.ts";
import { TokenLabels } from "./labels.ts";
import { highest } from "./order.ts";

/** Activations with their latents. */
export interface CodedRows {
  rows: number;
  dIn: number;
  dSae: number;
  /** [rows, dIn], raw units. */
  x: Float32Array;
  /** Positions are rows. */
  codes: CodesByLatent;
  /** Which document a row is from, numbers from 0; [rows]. */
  document: Int32Array;
  documents: number;
}

export interface LabelledRows extends CodedRows {
  /** Concept → 1 for each row that carries it; [rows]. */
  labels: ReadonlyMap<string, Uint8Array>;
}

export interface LabelledSplit {
  train: LabelledRows;
  test: LabelledRows;
}

export interface LabelledText {
  tokens: LabelledSplit;
  sentences: LabelledSplit;
}

export interface LabelledTextOptions extends TextOptions {
  hookPoint: HookPoints;
  device: Device;
  onProgress?: (done: number) => void;
}

/**
 * Reads `documents` through the model and the SAE's encoder. A token carries a concept when it overlaps
 * a span of it; a sentence when one of its tokens does.
 * @throws UserError when SAE and hook points do not fit, the text has no labels, or fewer than 6 documents.
 */
export async function labelledText(
  sae: Sae,
  model: Model,
  documents: AsyncIterable<Document> | Iterable<Document>,
  options: LabelledTextOptions,
): Promise<LabelledText> {
  const { hookPoint, device, onProgress } = options;
  const capture = requireFit(sae, model, hookPoint);
  const { dIn, dSae } = sae.spec;
  const labels = new TokenLabels(() => "");
  const make = () => new RowsBuilder(dIn, dSae);
  const tokens = { train: make(), test: make() };
  const sentences = { train: make(), test: make() };
  const open = new OpenSentence(dIn, dSae);
  let encoder: ReturnType<Sae["on"]> | undefined;
  let first = 0;
  try {
    for await (const batch of rowBatches(model, documents, options)) {
      const { activations } = await model.forward({ ...batch.pass, capture });
      const x = joinHeads(
        sae.spec,
        capture.map((name) => activations[name]),
      );
      // The first batch is never the smaller one.
      encoder ??= sae.on(device, batch.tokens.length);
      const codes = await encoder.encode(x, batch.tokens.length);
      const chunk = chunkOf(batch, first, 0);
      const carried = labels.label(chunk);
      const found = codesByRow(codes, batch.tokens.length, dSae);
      for (let p = 0; p < chunk.length; p++) {
        const at = batch.kept[p];
        const document = chunk.documents[chunk.document[p]];
        const side = document.ordinal % 3 === 2 ? "test" : "train";
        const row: Row = {
          x: x.subarray(at * dIn, (at + 1) * dIn),
          latents: found.latents.subarray(found.ends[at], found.ends[at + 1]),
          values: found.values.subarray(found.ends[at], found.ends[at + 1]),
          document: document.ordinal,
          concepts: [],
        };
        for (let i = carried.offsets[p]; i < carried.offsets[p + 1]; i++) {
          const { kind, name } = labels.labels[carried.ids[i]];
          if (kind === "concept") row.concepts.push(name);
        }
        tokens[side].add(row);
        const flushed = open.add(row, document, chunk.start[p]);
        if (flushed) sentences[sideOf(flushed.document)].add(flushed);
      }
      first += chunk.length;
      onProgress?.(first);
    }
  } finally {
    encoder?.close();
  }
  const last = open.flush();
  if (last) sentences[sideOf(last.document)].add(last);
  const split = ({ train, test }: { train: RowsBuilder; test: RowsBuilder }): LabelledSplit => ({
    train: train.build(),
    test: test.build(),
  });
  const text = { tokens: split(tokens), sentences: split(sentences) };
  if (text.tokens.train.labels.size === 0)
    throw new UserError(
      "the text has no labelled spans, which supervised evaluation needs; use builtin:stories or a JSONL file with spans",
    );
  const documentCount = text.tokens.train.documents + text.tokens.test.documents;
  if (documentCount < 6)
    throw new UserError(
      `supervised evaluation needs at least 6 documents to keep fitting and measuring apart; got ${documentCount}: read more tokens`,
    );
  return text;
}

function sideOf(ordinal: number): "train" | "test" {
  return ordinal % 3 === 2 ? "test" : "train";
}

interface Row {
  x: ArrayLike<number>;
  latents: ArrayLike<number>;
  values: ArrayLike<number>;
  document: number;
  concepts: string[];
}

/** Active latents row by row: row n has the slots ends[n] … ends[n+1]-1. */
function codesByRow(codes: Parameters<typeof eachActive>[0], rows: number, dSae: number) {
  const latents: number[] = [];
  const values: number[] = [];
  const ends = new Int32Array(rows + 1);
  eachActive(codes, rows, dSae, (row, latent, value) => {
    latents.push(latent);
    values.push(value);
    ends[row + 1] = latents.length;
  });
  for (let n = 0; n < rows; n++) ends[n + 1] = Math.max(ends[n + 1], ends[n]);
  return { latents: Int32Array.from(latents), values: Float32Array.from(values), ends };
}

/** Sums up the tokens of a sentence until the next one begins, also across packed rows. */
class OpenSentence {
  readonly #x: Float64Array;
  readonly #sums: Float64Array;
  #latents = new Set<number>();
  #concepts = new Set<string>();
  #tokens = 0;
  #document: { ordinal: number; starts: number[] } | undefined;
  #sentence = 0;

  constructor(dIn: number, dSae: number) {
    this.#x = new Float64Array(dIn);
    this.#sums = new Float64Array(dSae);
  }

  /** Adds the token that starts at character `start`. @returns the sentence before it, when that is now whole. */
  add(row: Row, document: TextDocument, start: number): Row | undefined {
    const { ordinal, text } = document;
    let done: Row | undefined;
    if (this.#document?.ordinal !== ordinal) {
      done = this.flush();
      this.#document = { ordinal, starts: sentenceStarts(text) };
      this.#sentence = 0;
    }
    const { starts } = this.#document;
    // A token that begins with the space between two sentences belongs to the later one.
    const lead = /^\s*/.exec(text.slice(start, start + 8))![0].length;
    while (this.#sentence + 1 < starts.length && start + lead >= starts[this.#sentence + 1]) {
      done ??= this.flush();
      this.#sentence++;
    }
    for (let c = 0; c < this.#x.length; c++) this.#x[c] += row.x[c];
    for (let i = 0; i < row.latents.length; i++) {
      this.#latents.add(row.latents[i]);
      this.#sums[row.latents[i]] += row.values[i];
    }
    for (const concept of row.concepts) this.#concepts.add(concept);
    this.#tokens++;
    return done;
  }

  flush(): Row | undefined {
    const tokens = this.#tokens;
    if (tokens === 0) return undefined;
    const latents = [...this.#latents];
    const row = {
      x: this.#x.map((sum) => sum / tokens),
      latents,
      values: latents.map((latent) => this.#sums[latent] / tokens),
      document: this.#document!.ordinal,
      concepts: [...this.#concepts],
    };
    this.#x.fill(0);
    for (const latent of latents) this.#sums[latent] = 0;
    this.#latents = new Set();
    this.#concepts = new Set();
    this.#tokens = 0;
    return row;
  }
}

/** Characters at which sentences begin: after a full stop and the like, its quotation mark and spaces, or a line's end. */
export function sentenceStarts(text: string): number[] {
  const starts = [0];
  for (const match of text.matchAll(/(?:[.!?…]+["”'’)]*\s+|\n\s*)/g))
    starts.push(match.index + match[0].length);
  return starts.filter((start, i) => start < text.length && (i === 0 || start > starts[i - 1]));
}

/** Rows one after the other, turned round by latent in the end. */
class RowsBuilder {
  readonly #dIn: number;
  readonly #dSae: number;
  #x = new Float32Array(1024);
  #latents = new Int32Array(1024);
  #values = new Float32Array(1024);
  #pairs = 0;
  readonly #ends: number[] = [];
  readonly #documents: number[] = [];
  readonly #carriers = new Map<string, number[]>();

  constructor(dIn: number, dSae: number) {
    this.#dIn = dIn;
    this.#dSae = dSae;
  }

  add({ x, latents, values, document, concepts }: Row): void {
    const row = this.#ends.length;
    this.#x = roomFor(this.#x, (row + 1) * this.#dIn);
    this.#x.set(x, row * this.#dIn);
    const end = this.#pairs + latents.length;
    this.#latents = roomFor(this.#latents, end);
    this.#values = roomFor(this.#values, end);
    this.#latents.set(latents, this.#pairs);
    this.#values.set(values, this.#pairs);
    this.#pairs = end;
    this.#ends.push(end);
    this.#documents.push(document);
    for (const concept of concepts) {
      let rows = this.#carriers.get(concept);
      if (!rows) this.#carriers.set(concept, (rows = []));
      rows.push(row);
    }
  }

  build(): LabelledRows {
    const rows = this.#ends.length;
    const [dIn, dSae] = [this.#dIn, this.#dSae];
    const offsets = new Int32Array(dSae + 1);
    for (let i = 0; i < this.#pairs; i++) offsets[this.#latents[i] + 1]++;
    for (let f = 0; f < dSae; f++) offsets[f + 1] += offsets[f];
    const positions = new Int32Array(this.#pairs);
    const values = new Float32Array(this.#pairs);
    const next = offsets.slice(0, dSae);
    for (let row = 0, i = 0; row < rows; row++)
      for (; i < this.#ends[row]; i++) {
        const slot = next[this.#latents[i]]++;
        positions[slot] = row;
        values[slot] = this.#values[i];
      }
    const numbers = new Map<number, number>();
    const document = Int32Array.from(this.#documents, (ordinal) => {
      if (!numbers.has(ordinal)) numbers.set(ordinal, numbers.size);
      return numbers.get(ordinal)!;
    });
    const labels = new Map<string, Uint8Array>();
    for (const [concept, carriers] of [...this.#carriers].sort(([a], [b]) => (a < b ? -1 : 1))) {
      const label = new Uint8Array(rows);
      for (const row of carriers) label[row] = 1;
      labels.set(concept, label);
    }
    const x = this.#x.subarray(0, rows * dIn);
    const codes = { offsets, positions, values };
    return { rows, dIn, dSae, x, codes, document, documents: numbers.size, labels };
  }
}

function roomFor<Numbers extends Float32Array | Int32Array>(array: Numbers, length: number) {
  if (array.length >= length) return array;
  const larger = new (array.constructor as new (n: number) => Numbers)(
    Math.max(length, Math.ceil(array.length * 1.5)),
  );
  larger.set(array);
  return larger;
}

/** Rows chosen from a sample, with the label that each has. */
export interface Picked {
  rows: Int32Array;
  labels: Uint8Array;
}

/** As many rows of each class as there are of the rarer one, at most `perClass`, at random; in the order of the text. */
export function balanced(label: Uint8Array, perClass: number, rng: Rng): Picked {
  const classes: number[][] = [[], []];
  for (let n = 0; n < label.length; n++) classes[label[n]].push(n);
  const size = Math.min(classes[0].length, classes[1].length, perClass);
  return picked(
    classes.flatMap((rows) => rng.shuffle(rows).slice(0, size)),
    label,
  );
}

/** Rows in the order of the text, with their labels. */
export function picked(rows: readonly number[], label: Uint8Array): Picked {
  const sorted = Int32Array.from(rows).sort();
  return { rows: sorted, labels: Uint8Array.from(sorted, (n) => label[n]) };
}

/** The rows' activations, [rows.length, dIn]. */
export function activationsOf({ x, dIn }: LabelledRows, rows: Int32Array): Float32Array {
  const out = new Float32Array(rows.length * dIn);
  rows.forEach((n, i) => out.set(x.subarray(n * dIn, (n + 1) * dIn), i * dIn));
  return out;
}

/** The rows' values of some latents, [rows.length, latents.length]. */
export function latentColumns(
  { rows: total, codes }: LabelledRows,
  rows: Int32Array,
  latents: ArrayLike<number>,
): Float64Array {
  const place = placesOf(total, rows);
  const out = new Float64Array(rows.length * latents.length);
  for (let c = 0; c < latents.length; c++)
    for (let i = codes.offsets[latents[c]]; i < codes.offsets[latents[c] + 1]; i++) {
      const n = place[codes.positions[i]];
      if (n >= 0) out[n * latents.length + c] = codes.values[i];
    }
  return out;
}

/** Mean of each latent over the rows with the label, less the mean over those without; [dSae]. */
export function latentDifferences(
  { rows: total, codes, dSae }: LabelledRows,
  { rows, labels }: Picked,
): Float64Array {
  const place = placesOf(total, rows);
  const positives = labels.reduce((sum, label) => sum + label, 0);
  const weights = [-1 / (rows.length - positives), 1 / positives];
  const out = new Float64Array(dSae);
  for (let f = 0; f < dSae; f++)
    for (let i = codes.offsets[f]; i < codes.offsets[f + 1]; i++) {
      const n = place[codes.positions[i]];
      if (n >= 0) out[f] += weights[labels[n]] * codes.values[i];
    }
  return out;
}

/** Mean of each latent over the rows; [dSae]. */
export function latentMeans({ rows: total, codes, dSae }: LabelledRows, rows: Int32Array) {
  const place = placesOf(total, rows);
  const out = new Float64Array(dSae);
  for (let f = 0; f < dSae; f++) {
    for (let i = codes.offsets[f]; i < codes.offsets[f + 1]; i++)
      if (place[codes.positions[i]] >= 0) out[f] += codes.values[i];
    out[f] /= rows.length;
  }
  return out;
}

/** Where each row of the sample is among `rows`, or -1. */
export function placesOf(total: number, rows: Int32Array): Int32Array {
  const place = new Int32Array(total).fill(-1);
  rows.forEach((n, i) => (place[n] = i));
  return place;
}

/** The numbers of the `count` largest scores, the largest first, ties by number; none whose score is 0 or less. */
export function largest(scores: ArrayLike<number>, count: number): number[] {
  return highest(scores, count).filter((i) => scores[i] > 0);
}
