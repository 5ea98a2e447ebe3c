/** The whole path on a model and a data set of the hub: with a bad network, and then with none. */
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parquetWriteBuffer } from "hyparquet-writer";
import { expect, test, vi } from "vitest";

import { storyAt } from "../../src/corpus/index.ts";
import { Rng } from "../../src/rng.ts";
import { startLens } from "../command.ts";
import { commitOf, filesOf, useHub } from "./hub-server.ts";

const place = useHub();
const tiny = fileURLToPath(new URL("../../models/tiny", import.meta.url));
const FILES = 4;
const STORIES = 120;

const config = `
name: from-the-hub
activations:
  model: owner/tiny
  data: owner/stories:plain
  hookPoint: blocks.1.hook_resid_post
  tokens: 9000
  validationTokens: 1000
  shuffleDocuments: 50
sae: { dSae: 64, k: 8 }
train: { batchSize: 256, steps: 40 }
features: { tokens: 2000 }
`;

const card = `---
configs:
- config_name: plain
  data_files:
  - { split: train, path: plain/train-* }
  - { split: test, path: plain/test-* }
- config_name: other
  data_files: other/*
---
# Stories
`;

function offer(): void {
  const stories = (from: number) => {
    const data = Array.from({ length: STORIES }, (_, i) => storyAt("train", from + i).text);
    return Buffer.from(
      parquetWriteBuffer({ columnData: [{ name: "text", data, type: "STRING" }] }),
    );
  };
  const files: Record<string, Buffer> = { "README.md": Buffer.from(card) };
  for (let i = 0; i < FILES; i++)
    files[`plain/train-0000${i}-of-0000${FILES}.parquet`] = stories(i * STORIES);
  files["plain/test-00000-of-00001.parquet"] = stories(10_000);
  place.hub.repos.set("datasets/owner/stories", { commit: commitOf("stories"), files });
  place.hub.repos.set("models/owner/tiny", { commit: commitOf("tiny"), files: filesOf(tiny) });
}

interface Made {
  folder: string;
  scores: Record<string, number>;
}

/** What a run in a new folder comes to. */
async function made(name: string) {
  const folder = join(place.cache, name);
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, "run.yaml"), config);
  const { code, stdout, stderr } = await startLens(folder, "run", "run.yaml", "--json").outcome;
  expect(code, stderr).toBe(0);
  const { folder: run, scores } = JSON.parse(stdout) as Made;
  const activations = join(folder, "runs", "activations");
  const [store] = readdirSync(activations);
  const manifest = readFileSync(join(activations, store, "train", "manifest.json"), "utf8");
  const { data } = JSON.parse(manifest) as { data: { hash: string } };
  const weights = readFileSync(join(run, "sae", "sae_weights.safetensors"));
  return { scores, store, hash: data.hash, weights: weights.toString("base64") };
}

test(
  "a run whose downloads are cut several times, and one without network from the cache, come to the same",
  { timeout: 120_000 },
  async () => {
    offer();
    const rng = new Rng(4);
    const cuts = new Map<string, number>();
    place.hub.fault = (file) => {
      const before = cuts.get(file) ?? 0;
      if (!/parquet|safetensors/.test(file) || before === 3) return undefined;
      cuts.set(file, before + 1);
      return {
        cutAfter: Math.floor(rng.uniform() * (file.endsWith("parquet") ? 8_000 : 3_000_000)),
      };
    };
    const online = await made("online");
    expect(online.hash).toMatch(new RegExp(`^${commitOf("stories")}:`));
    expect(cuts.get("model.safetensors")).toBe(3);
    const files = [...cuts.keys()].filter((name) => name.endsWith("parquet"));
    // As many as the tokens took, none of another split.
    expect(files.length).toBeGreaterThan(1);
    expect(files).toEqual(files.filter((name) => name.startsWith("plain/train-")));

    await place.hub.stop();
    vi.stubEnv("HF_HUB_OFFLINE", "1");
    expect(await made("offline")).toEqual(online);
  },
);
