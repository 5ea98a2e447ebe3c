/** Runs on several hook points, and the commands that look at what they left. */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, test } from "vitest";

import type { Attribution } from "../../src/analysis/attribute.ts";
import { lensIn, onModel, small, structures, type Made } from "./lens.ts";

const kinds = [
  {
    ...{ kind: "skip transcoder", settings: structures["skip transcoder"], collected: 2 },
    metadata: { hook_name: "blocks.0.hook_resid_mid", hook_name_out: "blocks.0.mlp.hook_post" },
    spliced: 1,
  },
  {
    ...{ kind: "crosscoder", settings: structures.crosscoder, collected: 3 },
    metadata: {
      hook_names: ["pre", "mid", "post"].map((place) => `blocks.0.hook_resid_${place}`),
    },
    spliced: 3,
  },
];

for (const { kind, settings, collected, metadata, spliced } of kinds)
  describe(`a run of a ${kind}`, () => {
    const { at, succeeded, json, refused } = lensIn("folder of all tests");
    let made: Made;
    beforeAll(async () => {
      const budget = ["--train.steps", "100", "--features.tokens", "300"];
      made = await json<Made>("run", ...onModel, ...small, ...settings, ...budget);
    });

    test("goes the whole path, on one store with all its hook points", () => {
      const [store] = readdirSync(at("runs", "activations"));
      const places = readdirSync(at("runs", "activations", store, "train"));
      expect(places.filter((name) => name.startsWith("blocks."))).toHaveLength(collected);
      const config = readFileSync(join(made.folder, "sae", "cfg.json"), "utf8");
      expect((JSON.parse(config) as { metadata: object }).metadata).toMatchObject(metadata);
      const report = readFileSync(join(made.folder, "report.html"), "utf8");
      expect(report).toContain(` ${kind}: 64 latents`);
    });

    test("is measured again to the same scores, wherever it is put into the model", async () => {
      const again = await json<{
        scores: Record<string, number>;
        spliced: { hookPoint: string; ceLossRecovered: number }[];
      }>("eval", "latest");
      for (const [name, value] of Object.entries(made.scores))
        expect(again.scores[name], name).toBeCloseTo(value, 4);
      expect(again.spliced).toHaveLength(spliced);
      const sum = again.spliced.reduce((sum, s) => sum + s.ceLossRecovered, 0);
      expect(made.scores.ceLossRecovered).toBeCloseTo(sum / spliced, 4);
    });

    const ablate = ["ablate", "0", "--tokens", "200"];
    if (kind === "crosscoder") {
      test("has latents removed at the hook point that is named", async () => {
        expect(await refused(...ablate)).toContain(
          "say at which of its hook points (blocks.0.hook_resid_pre",
        );
        await json(...ablate, "--at", "blocks.0.hook_resid_mid");
      });
    } else {
      test("has latents removed where it writes", async () => {
        expect(await json(...ablate)).toMatchObject({ hookPoint: "blocks.0.mlp.hook_post" });
      });

      const explain = ["attribute", "--text", "The fox was"];
      test("explains a prediction", async () => {
        const attribution = await json<Attribution>(
          ...[...explain, "--token", " fox", "--against", " the"],
        );
        expect(attribution).toMatchObject({ measure: "difference", against: { text: " the" } });
        expect(attribution.completeness.sum).toBeCloseTo(attribution.value, 4);
        const { stdout } = await succeeded(...explain, "--top", "3", "--out", "plots/why.png");
        expect(stdout).toMatch(/^direct path: latents .* = /m);
        expect(readFileSync(at("plots", "why.png")).subarray(1, 4).toString()).toBe("PNG");
      });

      test("explains no piece of a word, and nothing outside the text", async () => {
        expect(await refused(...explain, "--token", "zebra")).toMatch(
          /^error: "zebra" is \d tokens \("z", .*one is wanted/,
        );
        expect(await refused(...explain, "--position", "17")).toContain(
          "position must be a token of the text",
        );
      });
    }

    test("is exported for other programs", async () => {
      const flags = ["export", "latest", "--format", "saelens", "--out", "exported"];
      expect((await succeeded(...flags)).stdout).toContain('SAE.load_from_disk("exported")');
      expect((await succeeded("export", "latest")).stdout).toContain("torch.load");
    });
  });
