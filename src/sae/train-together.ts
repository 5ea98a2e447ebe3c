/** One stream of activations, any number of trainers: each batch is read once and every trainer steps on it. */
import type { ActivationSource, Batch, Cursor } from "../activation-source.ts";
import type { TrainConfig } from "../config.ts";
import { UserError } from "../error.ts";

/** A trainer, as far as the stream is concerned. */
export interface Trainee<Metrics, State> {
  readonly settings: { train: TrainConfig; seed: number; source: ActivationSource };
  readonly step: number;
  /** Steps from the first to the last. */
  readonly totalSteps: number;
  /** Where its next batch comes from. */
  readonly cursor: Cursor;
  readonly isDone: boolean;
  /** One step; the batch may be reused as soon as the promise is returned. */
  train(batch: Batch): Promise<void>;
  report(epochEnds: boolean, validation?: ActivationSource): Promise<Metrics | undefined>;
  state(): Promise<State>;
}

export interface TogetherOptions<State> {
  validation?: ActivationSource | undefined;
  /** Called every checkpointEvery steps of a trainer and at its end, after the step's metrics were taken. */
  saveCheckpoint?: ((trainer: number, state: State) => Promise<void>) | undefined;
  /** Is told of each step how many milliseconds nothing could be done but wait for its batch. */
  onWait?: ((ms: number) => void) | undefined;
}

/** Settings that decide what the batches are. */
const STREAM = ["batchSize", "shuffle", "bufferRows", "mixing"] as const;

/**
 * Trains all to their ends, yielding metrics when a trainer has some due. Trainers may stand at
 * different steps: the stream begins with the one that is furthest behind, and the others join it
 * where they stand.
 * @throws UserError when their settings ask for different batches.
 */
export async function* trainTogether<Metrics, State>(
  trainers: readonly Trainee<Metrics, State>[],
  { validation, saveCheckpoint, onWait }: TogetherOptions<State> = {},
): AsyncGenerator<{ trainer: number; metrics: Metrics }, void> {
  requireSameStream(trainers);
  const waiting = () => trainers.filter((trainer) => !trainer.isDone);
  if (waiting().length === 0) return;
  const last = waiting().reduce((a, b) => (b.step < a.step ? b : a));
  const { train, seed, source } = last.settings;
  const { batchSize, shuffle, bufferRows, mixing } = train;
  let position = last.step;
  let from = { ...last.cursor };
  const limit = Math.max(...waiting().map(({ totalSteps }) => totalSteps)) - position;
  const order = { batchSize, seed, shuffle, bufferRows, mixing };
  const stream = source.batches({ ...order, from, limit });
  const batches = stream[Symbol.asyncIterator]();
  try {
    let coming = batches.next();
    for (let at = waiting(); at.length > 0; at = waiting()) {
      const began = performance.now();
      const result = await coming;
      onWait?.(performance.now() - began);
      if (result.done) throw new UserError(`the activations ended after ${position} steps`);
      const batch = { ...result.value, next: { ...result.value.next } };
      const stepping = at.filter(({ step }) => step === position);
      for (const [i, trainer] of stepping.entries()) {
        const training = trainer.train(batch);
        // All have the batch now; the next one is read while the device works on the last of them.
        if (i === stepping.length - 1) {
          coming = batches.next();
          coming.catch(() => undefined); // reported when awaited
        }
        await training;
      }
      if (stepping.length === 0) coming = batches.next();
      position += 1;
      const epochEnds = batch.next.epoch > from.epoch;
      from = batch.next;
      for (const trainer of stepping) {
        const index = trainers.indexOf(trainer);
        const metrics = await trainer.report(epochEnds, validation);
        if (metrics) yield { trainer: index, metrics };
        const { checkpointEvery } = trainer.settings.train;
        const isDue = checkpointEvery > 0 && trainer.step % checkpointEvery === 0;
        if (saveCheckpoint && (trainer.isDone || isDue))
          await saveCheckpoint(index, await trainer.state());
      }
    }
  } finally {
    await batches.return?.();
  }
}

function requireSameStream(trainers: readonly Trainee<unknown, unknown>[]): void {
  const [first, ...rest] = trainers.map(({ settings }) => settings);
  for (const { train, seed } of rest) {
    for (const name of STREAM)
      if (train[name] !== first.train[name])
        throw new UserError(
          `autoencoders that train on one stream need the same train.${name}; got ${first.train[name]} and ${train[name]}`,
        );
    if (seed !== first.seed)
      throw new UserError(
        `autoencoders that train on one stream need the same seed; got ${first.seed} and ${seed}`,
      );
  }
}
