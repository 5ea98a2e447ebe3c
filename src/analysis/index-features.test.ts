import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdtemp, readdir, readFile, rm, stat, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, describe, expect, it, vi } from "vitest";
import { openDevice } from "../device/device.ts";
import { loadModel } from "../model/model.ts";
import { indexCase } from "../../test/index-case.ts";
import { hashFile } from "../file-hash.ts";
import { indexFeatures } from "./index-features.ts";

const model = await loadModel(
  fileURLToPath(new URL("../../test/fixtures/gpt2-tiny/f32", import.meta.url)),
);
const device = await openDevice("reference");
const folder = await mkdtemp(join(tmpdir(), "lens-index-"));
afterAll(async () => {
  await model.close();
  await device.close();
  await rm(folder, { recursive: true, force: true });
});

const { dSae, documents, randomTopK, settings } = indexCase(model);
const options = { ...settings, device };

describe("indexFeatures", () => {
  it("counts every token of the text once and shows exact slices of it, whatever the tokens split", async () => {
    const out = join(folder, "one");
    const features = await indexFeatures(randomTopK(3), model, documents, { ...options, out });
    const tokens = documents.reduce((n, d) => n + model.tokenizer.encode(d.text).ids.length, 0);
    expect(features.index.positions).toBe(tokens);
    expect(features.index.documents).toBe(documents.length);
    const fired = features.index.columns.firings.reduce((a, b) => a + b, 0);
    expect(fired).toBeGreaterThan(tokens);
    expect(fired).toBeLessThanOrEqual(3 * tokens);
    let examples = 0;
    let whole = 0;
    for (let latent = 0; latent < dSae; latent++) {
      const { top, random } = features.feature(latent);
      for (const { document, pieces, values, peak } of [...top, ...random]) {
        const { text } = documents.find(({ id }) => id === document)!;
        expect(text).toContain(pieces.join(""));
        expect(pieces.join("")).not.toMatch(/\p{Cs}/u); // no half of a surrogate pair
        expect(values[peak]).toBeGreaterThan(0);
        examples++;
        if (pieces.some((piece) => piece.includes("🐉"))) whole++;
      }
    }
    expect(examples).toBeGreaterThan(50);
    expect(whole).toBeGreaterThan(5); // four bytes, no token of its own
  });

  it("writes the same bytes again", async () => {
    const [a, b] = [join(folder, "a"), join(folder, "b")];
    await indexFeatures(randomTopK(3), model, documents, { ...options, out: a });
    await indexFeatures(randomTopK(3), model, documents, { ...options, out: b });
    for (const name of ["index.json", "features.jsonl.gz", "coactivation.bin", "labels.json"])
      expect(await hashFile(join(a, name))).toBe(await hashFile(join(b, name)));
  });

  it("stops at the number of tokens asked for", async () => {
    const out = join(folder, "short");
    const short = await indexFeatures(randomTopK(2), model, documents, {
      ...options,
      out,
      tokens: 200,
    });
    expect(short.index.positions).toBeGreaterThanOrEqual(200);
    expect(short.index.positions).toBeLessThan(200 + 4 * 32);
  });

  it("shows windows of whole text in few bytes, and opens any latent quickly", async () => {
    const out = join(folder, "compact");
    const features = await indexFeatures(randomTopK(3), model, documents, { ...options, out });
    let bytes = 0;
    for (const name of ["index.json", "features.jsonl.gz", "coactivation.bin"])
      bytes += (await stat(join(out, name))).size;
    expect(features.index.bytesPerLatent).toBeGreaterThan(bytes / dSae - 5);
    expect(features.index.bytesPerLatent).toBeLessThan(bytes / dSae + 5);
    expect(await readdir(out)).not.toContain("codes.log");
    for (let latent = 0; latent < dSae; latent++) {
      const { quantiles, nearMiss, silent, byPlace, firings } = features.feature(latent);
      expect(byPlace.reduce((all, place) => all + place.firings, 0)).toBe(firings);
      const shown = [...quantiles.flatMap(({ examples }) => examples), ...nearMiss, ...silent];
      for (const { document, pieces, values, value, peak } of shown) {
        expect(documents.find(({ id }) => id === document)!.text).toContain(pieces.join(""));
        expect(values[peak] > 0).toBe(value > 0);
      }
    }
  });
});

/** The log of a pass that is stopped after `chunks` chunks, as a killed process leaves it. */
async function stoppedAfter(
  chunks: number,
  out: string,
  more: Partial<Parameters<typeof indexFeatures>[3]> = {},
): Promise<void> {
  let seen = 0;
  const stop = () => {
    if (++seen > chunks) throw new Error("stopped by the test");
  };
  const pass = indexFeatures(randomTopK(3), model, documents, { ...options, out, resume: "a", onProgress: stop, ...more }); // prettier-ignore
  await expect(pass).rejects.toThrow("stopped by the test");
}

async function same(a: string, b: string): Promise<void> {
  expect((await readdir(a)).sort()).toEqual((await readdir(b)).sort());
  for (const name of await readdir(a))
    expect(await hashFile(join(a, name)), name).toBe(await hashFile(join(b, name)));
}

describe("a pass that was cut off", () => {
  const whole = join(folder, "undisturbed");
  const cut = join(folder, "resumed");
  const log = join(`${cut}.partial`, "codes.log");

  it("goes on and ends in the same bytes, also when the last record is torn or damaged", async () => {
    await indexFeatures(randomTopK(3), model, documents, { ...options, out: whole });
    await stoppedAfter(2, cut);
    await truncate(log, (await stat(log)).size - 7);
    await stoppedAfter(4, cut);
    const bytes = await readFile(log);
    bytes[bytes.length - 100] ^= 1;
    await writeFile(log, bytes);
    const forward = vi.spyOn(model, "forward");
    await indexFeatures(randomTopK(3), model, documents, { ...options, out: cut, resume: "a" });
    const resumed = forward.mock.calls.length;
    forward.mockClear();
    await same(whole, cut);
    await indexFeatures(randomTopK(3), model, documents, { ...options, out: cut });
    expect(forward.mock.calls.length - resumed).toBe(4); // four chunks of five were still good
    forward.mockRestore();
  });

  it("begins anew for another SAE or another text", async () => {
    await stoppedAfter(2, cut);
    const forward = vi.spyOn(model, "forward");
    const other = { ...options, out: cut, resume: "b" };
    await indexFeatures(randomTopK(3), model, documents, other);
    const all = forward.mock.calls.length;
    await same(whole, cut);
    await stoppedAfter(2, cut);
    forward.mockClear();
    await indexFeatures(randomTopK(4), model, documents, { ...options, out: cut, resume: "a" });
    expect(forward.mock.calls.length).toBe(all);
    forward.mockRestore();
  });

  it("begins anew on a GPU, which rounds otherwise", async () => {
    await stoppedAfter(2, cut);
    const forward = vi.spyOn(model, "forward");
    const { device } = model;
    Object.assign(model, { device: "webgpu" });
    await indexFeatures(randomTopK(3), model, documents, { ...options, out: cut, resume: "a" });
    Object.assign(model, { device });
    const all = forward.mock.calls.length;
    forward.mockClear();
    await indexFeatures(randomTopK(3), model, documents, { ...options, out: cut });
    expect(all).toBe(forward.mock.calls.length);
    forward.mockRestore();
  });

  it("goes on after SIGKILL in the middle", async () => {
    const child = spawn(process.execPath, ["--import", fileURLToPath(new URL("../../test/typescript-loader.mjs", import.meta.url)), fileURLToPath(new URL("../../test/crash/index-features.mjs", import.meta.url)), cut], { stdio: ["ignore", "pipe", "inherit"] }); // prettier-ignore
    let seen = 0;
    for await (const text of child.stdout) {
      seen += String(text).split("chunk").length - 1;
      if (seen >= 3) break;
    }
    child.kill("SIGKILL");
    await new Promise((resolve) => child.once("exit", resolve));
    expect(existsSync(log)).toBe(true);
    const forward = vi.spyOn(model, "forward");
    await indexFeatures(randomTopK(3), model, documents, { ...options, out: cut, resume: "a" });
    expect(forward.mock.calls.length).toBeGreaterThan(0);
    const resumed = forward.mock.calls.length;
    await same(whole, cut);
    forward.mockClear();
    await indexFeatures(randomTopK(3), model, documents, { ...options, out: cut });
    expect(resumed).toBeLessThanOrEqual(forward.mock.calls.length - 3);
    forward.mockRestore();
  });
});
