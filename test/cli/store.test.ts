/** `lens store`: what is in a store, whether it is whole, and stores made of others. */
import { cpSync, existsSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { describe, expect, test } from "vitest";

import { lensIn, onModel, small } from "./lens.ts";

const { at, run, succeeded, json, refused } = lensIn("folder of all tests");

interface Shown {
  finished: boolean;
  rows: number;
  hash: string;
  made?: { by: string };
  hookPoints: { name: string; width: number }[];
  statistics: Record<string, { meanNorm: number }>;
}

const collecting = (out: string, ...more: string[]) => [
  ...["collect", "--out", out, "--activations.hookPoint", "blocks.0.hook_resid_post"],
  ...onModel,
  ...more,
];

describe("lens store", () => {
  test("shows what is in a store, and how far an unfinished one is", async () => {
    await succeeded(...collecting("acts"));
    const { stdout } = await succeeded("store", "show", "acts");
    expect(stdout).toMatch(/rows +2,000 in 1 shard\n/);
    expect(stdout).toMatch(/blocks\.0\.hook_resid_post +\d+ +[\d.]+ +[\d.]+ +[\d.]+/);
    const shown = await json<Shown>("store", "show", "acts");
    expect(shown).toMatchObject({ finished: true, rows: 2000 });
    expect(shown.statistics["blocks.0.hook_resid_post"].meanNorm).toBeGreaterThan(0);
    expect(await refused("store", "show", "nowhere")).toContain("nowhere does not exist");
  });

  test("verifies, and ends with 1 when a byte is wrong", async () => {
    expect((await succeeded("store", "verify", "acts")).stdout).toMatch(
      /acts is whole: 2,000 rows/,
    );
    const file = at("acts", "tokens", "00000.safetensors");
    const bytes = readFileSync(file);
    const spoilt = Buffer.from(bytes);
    spoilt[spoilt.length - 1] ^= 1;
    writeFileSync(file, spoilt);
    const { code, stdout } = await run("store", "verify", "acts", "--json");
    expect(code).toBe(1);
    expect(JSON.parse(stdout)).toMatchObject({
      damaged: [{ path: "tokens/00000.safetensors" }],
    });
    writeFileSync(file, bytes);
  });

  test("verifies what is there of an unfinished store, and ends with 1 since it is not whole", async () => {
    cpSync(at("acts"), at("begun"), { recursive: true });
    rmSync(at("begun", "manifest.json"));
    const { code, stdout } = await run("store", "verify", "begun", "--json");
    expect(JSON.parse(stdout)).toMatchObject({ finished: false, rows: 2000, damaged: [] });
    expect(code).toBe(1);
  });

  test("merges, cuts and shuffles; what comes of it is trained on, and has its text where it can", async () => {
    await succeeded(...collecting("more", "--seed", "5"));
    await succeeded("store", "merge", "acts", "more", "--out", "both");
    await succeeded("store", "subset", "both", "--rows", "500:3500", "--dtype", "bf16", "--out", "part"); // prettier-ignore
    const { stdout, stderr } = await succeeded("store", "shuffle", "part", "--memory", "100k", "--out", "mixed"); // prettier-ignore
    expect(stdout).toMatch(
      /3,000 activations of blocks\.0\.hook_resid_post in \d+ shards in mixed/,
    );
    expect(stderr).toMatch(/disk: .* MB are needed/);
    expect(stderr).toContain("--activations.path mixed --train.shuffle false");
    expect(existsSync(at("mixed", "scattered"))).toBe(false);
    expect(await json<Shown>("store", "show", "mixed")).toMatchObject({
      rows: 3000,
      made: {
        by: "shuffle",
        earlier: { by: "subset", rows: [500, 3500], earlier: { by: "merge" } },
      },
    });
    const training = ["--activations.from", "folder", "--activations.path", "mixed"];
    await succeeded(
      "train",
      ...training,
      ...small,
      "--train.shuffle",
      "false",
      "--train.steps",
      "5",
    );
    const own = [...onModel, ...small, "--train.steps", "5", "--features.tokens", "500"];
    const point = ["--activations.hookPoint", "blocks.0.hook_resid_post", "--device", "reference"];
    await succeeded("run", ...own, ...point, "--features.store", "both");
    const message = (await run("run", ...own, ...point, "--features.store", "mixed")).stderr;
    expect(message).toContain("error: mixed was shuffled, so its rows are no text any more");
  });

  test("refuses what it cannot read, and shows its help without a subcommand", async () => {
    expect(await refused("store", "subset", "acts", "--rows", "5", "--out", "x")).toContain(
      "--rows must be FROM:TO, such as 0:1000; got 5",
    );
    expect(await refused("store", "shuffle", "acts", "--memory", "much", "--out", "x")).toContain(
      "--memory must be a number of bytes, such as 500M or 2G; got much",
    );
    expect(await refused("store", "shuffle", "acts", "--out", "both")).toMatch(
      /both holds another store: .*made/,
    );
    const { stdout, stderr } = await run("store");
    expect(stdout + stderr).toMatch(/verify \[options\] <store> +find damaged files/);
  });
});
