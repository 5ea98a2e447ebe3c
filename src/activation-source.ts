/**
 * Activations as training sees them: an endless, resumable stream of mixed batches, whatever made
 * them (a store on disk, a synthetic dictionary, an array in memory).
 */

/** A place in the stream; plain JSON, kept in checkpoints. */
export interface Cursor {
  epoch: number;
  /** Rows of this epoch already served. */
  row: number;
}

export interface Batch {
  /** [rows, dIn], row by row; valid until the next batch is asked for. */
  data: Float32Array;
  rows: number;
  /** Where the stream goes on after this batch. */
  next: Cursor;
}

export interface BatchOptions {
  batchSize: number;
  /** Seed of the order; the order is a pure function of (seed, epoch), so a cursor is all a checkpoint needs. */
  seed: number;
  shuffle: boolean;
  /** Rows held in memory to mix from. */
  bufferRows: number;
  from?: Cursor;
}

export interface ActivationSource {
  readonly dIn: number;
  /** Rows in one epoch. */
  readonly rows: number;
  /** What the activations are, for the run's provenance: JSON with hashes where there are files. */
  readonly provenance: Record<string, unknown>;
  /** Endless: epoch after epoch; the last batch of an epoch may be short. */
  batches(options: BatchOptions): AsyncIterable<Batch>;
}
