import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { stubModel } from "../../test/stub-model.ts";
import type { BatchOptions, Cursor, RowSource } from "../activation-source.ts";
import { openDevice } from "../device/device.ts";
import { hashBytes } from "../file-hash.ts";
import { saveSae } from "../sae/formats.ts";
import { Trainer, type TrainerOptions, type TrainerState } from "../sae/train.ts";
import { joinedSource, pairedSource } from "../zipped-source.ts";
import { openActivations } from "./activations.ts";
import { collect, collectionPlan } from "./collect.ts";
import { loadModel, type Model } from "./model.ts";
import { countRows, modelRows } from "./model-rows.ts";
import { onTheFly, type OnTheFlyOptions } from "./on-the-fly.ts";

const HOOKS = ["blocks.1.hook_resid_post", "blocks.2.hook_resid_post", "blocks.2.hook_mlp_out"];
const TOKENS = 2500;
const SIZES = { tokens: TOKENS, contextLength: 32, dtype: "f16" } as const;
const ORDER: BatchOptions = { batchSize: 128, seed: 3, shuffle: true, bufferRows: 700 };

let folder: string;
let model: Model;
const store = (name: string) => openActivations(join(folder, "store"), { hookPoint: name });

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "lens-on-the-fly-"));
  model = await loadModel("builtin:tiny", { threads: 1 });
  await collect(model, "builtin:stories", {
    ...{ ...SIZES, hookPoint: HOOKS, shardRows: 900, out: join(folder, "store") },
  });
});
afterAll(async () => {
  await model.close();
  await rm(folder, { recursive: true });
});

/** What `use` makes of rows that the model makes. */
async function flying<T>(
  more: Partial<OnTheFlyOptions>,
  use: (source: RowSource) => Promise<T>,
): Promise<T> {
  const options = { ...SIZES, hookPoints: HOOKS.slice(1, 2), load: { threads: 1 }, ...more };
  const opened = await onTheFly(model, "builtin:stories", options);
  try {
    return await use(opened.source);
  } finally {
    await opened.close();
  }
}

/** The first batches, with a hash in place of their numbers. */
async function batches(source: RowSource, count: number, more: Partial<BatchOptions> = {}) {
  const hash = (data: Float32Array) => hashBytes(new Uint8Array(data.slice().buffer));
  const taken: { data: string; target?: string; rows: number; next: Cursor }[] = [];
  for await (const { data, target, rows, next } of source.batches({ ...ORDER, ...more })) {
    taken.push({
      data: await hash(data),
      ...(target && { target: await hash(target) }),
      rows,
      next,
    });
    if (taken.length === count) break;
  }
  return taken;
}

/** Two epochs and a little: an epoch has 20 batches in windows of 700, 700, 700 and 400 rows. */
const COUNT = 43;

describe("batches straight from the model", () => {
  it("are those of a store that is mixed in windows, in the same order, epoch after epoch", async () => {
    const expected = await batches(await store(HOOKS[1]), COUNT, { mixing: "window" });
    expect(await flying({}, (source) => batches(source, COUNT))).toEqual(expected);
    expect(expected.at(-1)!.next).toEqual({ epoch: 2, row: 3 * 128 });
  });

  it.each([1, 7, 19, 20, 33])("go on after batch %i as if they had not stopped", async (at) => {
    const from = (await batches(await store(HOOKS[1]), at, { mixing: "window" })).at(-1)!.next;
    const expected = await batches(await store(HOOKS[1]), 6, { mixing: "window", from });
    expect(await flying({}, (source) => batches(source, 6, { from }))).toEqual(expected);
  });

  it.each(["f32", "bf16", "int8"] as const)("hold what a store of %s holds", async (dtype) => {
    const out = join(folder, dtype);
    await collect(model, "builtin:stories", { ...SIZES, dtype, hookPoint: HOOKS, out });
    const stored = await openActivations(out, { hookPoint: HOOKS[1] });
    const expected = await batches(stored, 8, { mixing: "window" });
    expect(await flying({ dtype }, (source) => batches(source, 8))).toEqual(expected);
  });

  it("leave out what a store leaves out, tokens of a large norm too", async () => {
    const { statistics } = (await store(HOOKS[1])).manifest!;
    const maxNorm = statistics[HOOKS[1]].meanNorm;
    const rules = { skipPositions: 2, maxNorm };
    const out = join(folder, "norms");
    const roles = { hookPoint: HOOKS.slice(1), ...rules };
    const { manifest } = await collect(model, "builtin:stories", { ...SIZES, ...roles, out });
    expect(manifest!.dropped!.norm).toBeGreaterThan(500);
    const [x, y] = await Promise.all(
      HOOKS.slice(1).map((hookPoint) => openActivations(out, { hookPoint })),
    );
    const stored = pairedSource(x, y);
    const expected = await batches(stored, COUNT, { mixing: "window" });
    const counts: number[] = [];
    const onCount = (rows: number) => void counts.push(rows);
    const pair = { ...rules, onCount, hookPoints: [HOOKS[1]], targetHookPoint: HOOKS[2] };
    await flying(pair, async (source) => {
      expect(source.rows).toBe(TOKENS);
      expect(counts.at(-1)).toBe(TOKENS);
      expect(await batches(source, COUNT)).toEqual(expected);
      const from = expected[24].next;
      expect(await batches(source, 6, { from })).toEqual(expected.slice(25, 31));
    });
  });

  it("have the targets of a transcoder beside them", async () => {
    const pair = pairedSource(await store(HOOKS[1]), await store(HOOKS[2]));
    const expected = await batches(pair, 22, { mixing: "window" });
    const roles = { hookPoints: [HOOKS[1]], targetHookPoint: HOOKS[2] };
    expect(await flying(roles, (source) => batches(source, 22))).toEqual(expected);
    const [{ target }] = expected;
    expect(target).not.toEqual(expected[0].data);
  });

  it("have the hook points of a crosscoder side by side", async () => {
    const joined = joinedSource([await store(HOOKS[0]), await store(HOOKS[1])]);
    const expected = await batches(joined, 22, { mixing: "window" });
    await flying({ hookPoints: HOOKS.slice(0, 2) }, async (source) => {
      expect(source.heads).toEqual(joined.heads);
      expect(await batches(source, 22)).toEqual(expected);
    });
  });

  it("are made once when they all fit, and when they are kept, and mix as a store's then", async () => {
    let made = 0;
    const onRows = (rows: number) => void (made = rows);
    const whole = { bufferRows: TOKENS };
    const expected = await batches(await store(HOOKS[1]), COUNT, whole);
    expect(await flying({ onRows }, (source) => batches(source, COUNT, whole))).toEqual(expected);
    expect(made).toBe(TOKENS);
    await flying({ onRows, keep: true }, async (source) => {
      const small = await batches(await store(HOOKS[1]), COUNT);
      expect(await batches(source, COUNT)).toEqual(small);
      expect(await batches(source, COUNT)).toEqual(small);
    });
    expect(made).toBe(TOKENS);
  });

  it("are not mixed from all over the text, which is refused", async () => {
    await expect(flying({}, (source) => batches(source, 1, { mixing: "store" }))).rejects.toThrow(
      /windows only; got mixing store/,
    );
  });

  it("stay a bounded number of rows ahead", async () => {
    let made = 0;
    const more = { onRows: (rows: number) => void (made = rows), aheadRows: 512 };
    await flying(more, async (source) => {
      const stream = source.batches(ORDER)[Symbol.asyncIterator]();
      await stream.next();
      await new Promise((resolve) => setTimeout(resolve, 300));
      // The buffer, what was served, and three passes of 8 × 32 tokens at most.
      expect(made).toBeLessThanOrEqual(700 + 128 + 3 * 256);
      expect(made).toBeGreaterThanOrEqual(700);
      await stream.return?.();
    });
  });

  it("end at once, in the midst of waiting, when the signal says so", async () => {
    const controller = new AbortController();
    const reason = new Error("as the test wants");
    const more = { signal: controller.signal, tokens: 10_000_000 };
    await flying(more, async (source) => {
      const waiting = batches(source, 1, { bufferRows: 5_000_000 });
      setTimeout(() => controller.abort(reason), 200);
      const began = performance.now();
      await expect(waiting).rejects.toBe(reason);
      // To make what it waits for takes minutes.
      expect(performance.now() - began).toBeLessThan(20_000);
    });
  });
});

describe("training straight from the model", () => {
  const settings = {
    sae: { architecture: "topk", k: 8, dSae: 128, init: "data" },
    train: { batchSize: 128, bufferRows: 700, epochs: 2, mixing: "window", checkpointEvery: 13 },
    seed: 3,
  } as const;

  /** The bytes of what is trained, from `state` on; stops at step `until` with the state of the last checkpoint. */
  async function train(
    source: RowSource,
    state?: TrainerState,
    { until = Infinity, mixing = "window" }: { until?: number; mixing?: "store" | "window" } = {},
  ) {
    const device = await openDevice("reference");
    const options: TrainerOptions = {
      ...settings,
      ...{ source, train: { ...settings.train, mixing } },
    };
    const trainer = state
      ? Trainer.resume(device, options, state)
      : await Trainer.create(device, options);
    let saved: TrainerState | undefined;
    const saveCheckpoint = (state: TrainerState) => Promise.resolve(void (saved = state));
    const metrics = trainer.fit({ saveCheckpoint });
    for await (const _ of metrics) if (saved && trainer.step >= until) return { saved };
    await saveSae(join(folder, "sae"), await trainer.sae());
    trainer.close();
    await device.close();
    return { weights: await readFile(join(folder, "sae", "sae_weights.safetensors")) };
  }

  it("gives the very autoencoder that a store gives, also when it is killed and resumed", async () => {
    const { weights } = await train(await store(HOOKS[1]));
    let made = 0;
    const more = { onRows: (rows: number) => void (made = rows) };
    const whole = await flying(more, (source) => train(source));
    expect(whole.weights!.equals(weights!)).toBe(true);
    // Two epochs: the first window, which statistics look at before, is not made again for that.
    expect(made).toBe(2 * TOKENS);
    const { saved } = await flying({}, (source) => train(source, undefined, { until: 14 }));
    expect(saved!.progress.step).toBe(13);
    const resumed = await flying({}, (source) => train(source, saved));
    expect(resumed.weights!.equals(weights!)).toBe(true);
  }, 200_000);

  it("is refused where a checkpoint was made with rows mixed from a whole store", async () => {
    const { saved } = await train(await store(HOOKS[1]), undefined, { until: 13, mixing: "store" });
    const device = await openDevice("reference");
    // Such as those from before there was a choice: they do not say how rows were mixed.
    const old = structuredClone(saved!);
    delete old.progress.train.mixing;
    await flying({}, (source) =>
      Promise.resolve(
        expect(() => Trainer.resume(device, { ...settings, source }, old)).toThrow(
          /train.mixing "store"; now it is "window"/,
        ),
      ),
    );
    await device.close();
  });
});

describe("text that ends", () => {
  const write = async (texts: string[]) => {
    const path = join(folder, "text.jsonl");
    await writeFile(path, texts.map((text) => JSON.stringify({ text })).join("\n"));
    return path;
  };

  it("gives as many rows as collecting it does, which is known before training", async () => {
    const path = await write(
      Array.from({ length: 60 }, (_, i) => `Story ${i} ${"la ".repeat(i % 9)}`),
    );
    const out = join(folder, "short");
    const collected = await collect(model, path, { ...SIZES, hookPoint: HOOKS[1], out });
    const counts: number[] = [];
    const more = { ...SIZES, hookPoints: [HOOKS[1]], load: { threads: 1 } };
    const opened = await onTheFly(model, path, {
      ...more,
      onCount: (rows) => void counts.push(rows),
    });
    expect(opened.source.rows).toBe(collected.rows);
    expect(collected.rows).toBeLessThan(TOKENS);
    expect(counts.at(-1)).toBe(collected.rows);
    const order = { bufferRows: 300, mixing: "window" } as const;
    expect(await batches(opened.source, 12, order)).toEqual(await batches(collected, 12, order));
    await writeFile(path, (await readFile(path, "utf8")).split("\n").slice(0, 30).join("\n"));
    await expect(batches(opened.source, 12, order)).rejects.toThrow(
      /was changed while it was read/,
    );
    await opened.close();
  });

  it("without a token is refused before training", async () => {
    const plan = {
      ...(await collectionPlan(model, await write(["", " "]), { ...SIZES, hookPoint: HOOKS })),
    };
    await expect(countRows(model, plan, HOOKS)).rejects.toThrow(/no tokens/);
  });

  it("of which every token is left out is refused: at its end, or where that is far", async () => {
    const rules = { contextLength: 8, hookPoint: "hook_embed", maxNorm: 0.01 };
    for (const [letters, message] of [
      [100, /no tokens to take activations of.* or maxNorm too small\?/],
      [
        120_000,
        /not one of 1\d\d,\d{3} tokens in a row is kept \(the smallest norm is .*\): maxNorm 0.01/,
      ],
    ] as const) {
      const path = await write(["a".repeat(letters)]);
      const plan = await collectionPlan(stubModel(), path, { ...SIZES, ...rules });
      await expect(countRows(stubModel(), plan, ["hook_embed"])).rejects.toThrow(message);
    }
    const out = join(folder, "all-left-out");
    const text = await write(["a".repeat(120_000)]);
    await expect(collect(stubModel(), text, { ...SIZES, ...rules, out })).rejects.toThrow(
      "leaves out all of them",
    );
  });
});

describe("values", () => {
  it.each([
    [NaN, "bf16", /row 5 at hook_embed holds NaN: its weights are damaged/],
    [70_000, "f16", /row 5 at hook_embed holds 70000, too large for f16 \(at most 65504\)/],
  ] as const)("of %d are refused by row and hook point", async (value, dtype, message) => {
    const path = join(folder, "odd.jsonl");
    await writeFile(path, JSON.stringify({ text: "fine ~ it is" }));
    const odd = stubModel({ odd: { token: "~".charCodeAt(0), value } });
    const plan = await collectionPlan(odd, path, { tokens: 100, contextLength: 8, dtype, hookPoint: "hook_embed" }); // prettier-ignore
    const made = modelRows(odd, plan, ["hook_embed"], { start: 0, end: 100, isWanted: () => true });
    await expect(made.next()).rejects.toThrow(message);
  });

  it("reach whoever waits for them as the same error from the model's thread", async () => {
    const path = join(folder, "gone.jsonl");
    await writeFile(
      path,
      JSON.stringify({ text: "once upon a time there was a story. ".repeat(90) }),
    );
    const opened = await onTheFly(model, path, { ...SIZES, hookPoints: [HOOKS[1]], tokens: 500 });
    await rm(path);
    await expect(batches(opened.source, 1)).rejects.toMatchObject({
      name: "UserError",
      message: expect.stringContaining("gone.jsonl") as string,
    });
    await opened.close();
  });
});
