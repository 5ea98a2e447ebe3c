import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, describe, expect, it } from "vitest";
import { indexCase } from "../../test/index-case.ts";
import { openDevice } from "../device/device.ts";
import { UserError } from "../error.ts";
import { openActivations } from "../model/activations.ts";
import { collect } from "../model/collect.ts";
import { loadModel } from "../model/model.ts";
import { documents as documentsOf } from "../model/text.ts";
import type { Sae } from "../sae/sae.ts";
import { encodeText, joinHeads, type CodesByLatent, type TextChunk } from "./codes.ts";
import { indexFeatures } from "./index-features.ts";
import { encodeStored, openStored, type StoredOptions } from "./stored-codes.ts";

const model = await loadModel(
  fileURLToPath(new URL("../../test/fixtures/gpt2-tiny/f32", import.meta.url)),
);
const device = await openDevice("reference");
const folder = await mkdtemp(join(tmpdir(), "lens-stored-"));
afterAll(async () => {
  await model.close();
  await device.close();
  await rm(folder, { recursive: true, force: true });
});

const { documents, randomTopK, hookPoint, settings, dIn, dSae } = indexCase(model);
const file = join(folder, "text.jsonl");
// With a document that holds nothing but white space, which is left out everywhere.
await writeFile(file, [...documents.slice(0, 3), { text: " " }, ...documents.slice(3)].map((d) => JSON.stringify(d)).join("\n")); // prettier-ignore
const text = () => documentsOf(file, { split: "train" });
const hookPoints = model.hookPoints().filter((name) => name.endsWith("hook_resid_post")).slice(0, 2); // prettier-ignore

async function storeOf(
  name: string,
  options: {
    tokens?: number;
    bos?: "document" | "row" | "none";
    contextLength?: number;
    shardRows?: number;
    hookPoint?: string;
    skipSpecialTokens?: boolean;
    skipPositions?: number;
    maxNorm?: number;
  } = {},
) {
  // prettier-ignore
  const out = join(folder, name);
  await collect(model, file, { out, hookPoint: hookPoints, tokens: 5000, contextLength: 32, dtype: "f32", shardRows: 301, ...options }); // prettier-ignore
  return out;
}

type Stream = AsyncIterable<{ chunk: TextChunk; codes: CodesByLatent }>;

/** A stream in one piece: tokens with their text, and per position "latent value" of all that fire. */
async function read(stream: Stream) {
  const positions: { token: number; row: number; text: string; spans: number; first: boolean }[] =
    [];
  const active: Record<number, number>[] = [];
  for await (const { chunk, codes } of stream) {
    expect(chunk.first).toBe(positions.length);
    for (let p = 0; p < chunk.length; p++) {
      const { text, spans } = chunk.documents[chunk.document[p]];
      positions.push({
        ...{ token: chunk.tokens[p], row: chunk.row[p], spans: spans.length, first: p === 0 },
        text: text.slice(chunk.start[p], chunk.end[p]),
      });
      active.push({});
    }
    for (let f = 0; f < dSae; f++)
      for (let i = codes.offsets[f]; i < codes.offsets[f + 1]; i++)
        active[chunk.first + codes.positions[i]][f] = codes.values[i];
  }
  return { positions, active };
}

function expectSame(a: Record<number, number>[], b: Record<number, number>[]): void {
  expect(a.length).toBe(b.length);
  a.forEach((codes, p) => {
    expect(Object.keys(codes)).toEqual(Object.keys(b[p]));
    for (const f of Object.keys(codes)) expect(codes[+f]).toBeCloseTo(b[p][+f], 4);
  });
}

async function stored(sae: Sae, path: string, given = true, options: StoredOptions = {}) {
  const opened = await openStored(sae, path, sae.spec.heads.length > 1 ? hookPoints : hookPoint);
  return read(encodeStored(sae, device, opened, model.tokenizer, given ? text() : undefined, options)); // prettier-ignore
}

describe("codes of stored activations", () => {
  it.each([
    ["document", 32, 7],
    ["row", 32, 64],
    ["none", 17, 1],
  ] as const)(
    "are those of the text, with BOS rule %s, rows of %i, blocks of %i",
    async (bos, contextLength, blockRows) => {
      // prettier-ignore
      const sae = randomTopK(3);
      const path = await storeOf(`same-${bos}`, { bos, contextLength });
      const live = await read(encodeText(sae, device, model, hookPoint, text(), { ...settings, bos, contextLength })); // prettier-ignore
      const found = await stored(sae, path, true, { blockRows });
      const bare = ({ positions }: typeof live) => positions.map(({ token, row, text }) => [token, row, text]); // prettier-ignore
      expect(bare(found)).toEqual(bare(live));
      expectSame(found.active, live.active);
      // A chunk begins where a row does.
      found.positions.forEach(({ first, row }, p) => {
        if (first && p > 0) expect(row).toBe(found.positions[p - 1].row + 1);
      });
    },
  );

  it("are made of several hook points for a crosscoder", async () => {
    const sae = randomTopK(3, 2);
    const path = await storeOf("same-document");
    const live = await read(encodeText(sae, device, model, hookPoints, text(), settings));
    expectSame((await stored(sae, path)).active, live.active);
    expect(joinHeads(sae.spec, [new Float32Array(dIn), new Float32Array(dIn)]).length).toBe(2 * dIn); // prettier-ignore
  });

  it("are those of the text where rules leave tokens out, also after a skipped chunk", async () => {
    const sae = randomTopK(3);
    const bos = "document" as const;
    const first = await openActivations(await storeOf("same-document"), { hookPoint });
    const { meanNorm } = first.manifest!.statistics[hookPoint];
    const rules = { skipSpecialTokens: true, skipPositions: 2, maxNorm: meanNorm };
    const path = await storeOf("rules", { hookPoint, ...rules });
    const options = { ...settings, bos, contextLength: 32, rules };
    const whole = await read(encodeText(sae, device, model, hookPoint, text(), { ...options, rules: undefined })); // prettier-ignore
    const live = await read(encodeText(sae, device, model, hookPoint, text(), options));
    expect(live.positions.length).toBeLessThan(0.8 * whole.positions.length);
    expect(live.positions.length).toBeGreaterThan(0.2 * whole.positions.length);
    const found = await stored(sae, path);
    const bare = ({ positions }: typeof live) => positions.map(({ token, text }) => [token, text]);
    expect(bare(found)).toEqual(bare(live));
    expectSame(found.active, live.active);
    // What goes on in the midst counts what it does not work out.
    const starts: number[] = [];
    const later: number[] = [];
    for await (const { chunk } of encodeText(sae, device, model, hookPoint, text(), options)) starts.push(chunk.first); // prettier-ignore
    const skip = (at: number) => at < starts[2];
    for await (const { chunk } of encodeText(sae, device, model, hookPoint, text(), { ...options, skip })) later.push(chunk.first); // prettier-ignore
    expect(later).toEqual(starts.slice(2));
  });

  it("come with text put together from tokens when none is given", async () => {
    const path = await storeOf("same-document");
    const [given, rebuilt] = [await stored(randomTopK(3), path), await stored(randomTopK(3), path, false)]; // prettier-ignore
    expect(rebuilt.positions).toEqual(given.positions);
    expect(rebuilt.active).toEqual(given.active);
  });

  it("stop at the number asked for, and with a store that ends within a row or a document", async () => {
    const path = await storeOf("short", { tokens: 333 });
    const { positions } = await stored(randomTopK(3), path);
    expect(positions).toHaveLength(333);
    expect((await stored(randomTopK(3), path, false)).positions).toHaveLength(333);
    const some = await stored(randomTopK(3), path, true, { tokens: 100, blockRows: 40 });
    expect(some.positions.length).toBeGreaterThanOrEqual(100);
    expect(some.positions.length).toBeLessThan(100 + 40 + 32);
  });

  it("are refused beside another text, saying where it differs", async () => {
    const path = await storeOf("same-document");
    const opened = await openStored(randomTopK(3), path, hookPoint);
    const beside = (changed: typeof documents) =>
      read(encodeStored(randomTopK(3), device, opened, model.tokenizer, changed));
    const train = documents.filter((_, i) => i % 10 < 8);
    const at = (n: number, text: string) => train.map((d, i) => (i === n ? { ...d, text } : d));
    await expect(beside(at(5, `${train[5].text} more`))).rejects.toThrow(/document 5 \(doc 5\)/);
    await expect(beside(at(7, `x${train[7].text}`))).rejects.toThrow(/token 0 of document 7/);
    await expect(beside(train.slice(0, 9))).rejects.toThrow("ends after 9 documents");
    await expect(beside(documents)).rejects.toThrow(UserError);
  });

  it("are refused for an SAE of another width or number of hook points, and without tokens", async () => {
    const path = await storeOf("same-document");
    await expect(openStored(randomTopK(3, 2), path, hookPoint)).rejects.toThrow("reads 2 hook points; got 1"); // prettier-ignore
    await expect(openStored(randomTopK(3), path, hookPoints)).rejects.toThrow("reads 1 hook point; got 2 of"); // prettier-ignore
    const wide = { spec: { ...randomTopK(3).spec, heads: [dIn + 1] } };
    await expect(openStored(wide, path, hookPoint)).rejects.toThrow(`width ${dIn + 1}`);
    const foreign = join(path, hookPoint, "00000.safetensors");
    await expect(openStored(randomTopK(3), foreign)).rejects.toThrow("lens collect");
    const { manifest } = await openActivations(path, { hookPoint });
    const other = { ...(await openStored(randomTopK(3), path, hookPoint)), manifest: { ...manifest!, tokenizer: { hash: "other" } } }; // prettier-ignore
    await expect(read(encodeStored(randomTopK(3), device, other, model.tokenizer))).rejects.toThrow("tokenizer"); // prettier-ignore
  });

  it("give the same index after a pass was cut off", async () => {
    const sae = randomTopK(3);
    const opened = await openStored(sae, await storeOf("same-document"), hookPoint);
    const options = { ...settings, device, stored: opened };
    const whole = await indexFeatures(sae, model, text(), {
      ...options,
      out: join(folder, "whole"),
    });
    const out = join(folder, "cut");
    const stop = () => {
      throw new Error("stopped by the test");
    };
    await expect(indexFeatures(sae, model, text(), { ...options, out, onProgress: stop })).rejects.toThrow("stopped"); // prettier-ignore
    const resumed = await indexFeatures(sae, model, text(), { ...options, out });
    expect(resumed.index).toEqual(whole.index);
    expect(resumed.labels).toEqual(whole.labels);
    expect(whole.index.positions).toBe(opened.manifest.rows);
  });
});
