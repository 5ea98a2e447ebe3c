/** Runs whose latents have no direct effect on the logits: what else is known of them is shown. */
import { readFileSync } from "node:fs";
import { gunzipSync } from "node:zlib";
import { beforeAll, describe, expect, test } from "vitest";

import type { FeatureView } from "../../src/cli/feature-text.ts";
import { unpackTable } from "../../src/packed-table.ts";
import type { SiteDetail } from "../../src/server/site.ts";
import { familyFolder } from "../family-fixture.ts";
import { lensIn, onModel, small } from "./lens.ts";

const kinds = [
  {
    kind: "attention's queries",
    hookPoint: "blocks.1.attn.hook_q",
    says: "not added to the stream",
  },
  { kind: "an encoder", hookPoint: "blocks.0.hook_mlp_out", says: "is an encoder (bert)" },
];

for (const { kind, hookPoint, says } of kinds)
  describe(`a run on ${kind}`, () => {
    const { at, json, succeeded, refused, run } = lensIn("folder of all tests");
    let model: string[] = [];
    beforeAll(async () => {
      if (kind === "an encoder")
        model = [
          ...["--activations.model", await familyFolder("bert")],
          ...["--activations.eos", "--activations.packing", "separate"],
        ];
      const flags = [...onModel, ...small, ...model, "--activations.hookPoint", hookPoint];
      await json(
        "run",
        ...flags,
        "--train.steps",
        "50",
        "--features.tokens",
        "300",
        "--name",
        "one",
      );
    });

    test("shows a latent without effects on the logits, and says why there are none", async () => {
      const view = await json<FeatureView>("feature", "3");
      expect(view).toMatchObject({ logits: null, feature: { latent: 3 } });
      expect(view.noLogitsBecause).toContain(says);
      expect(view.neighbors.decoder.nearest).toHaveLength(8);
      const { stdout } = await succeeded("feature", "3");
      expect(stdout).toMatch(/^logits: none\. .*/m);
      expect(stdout).toContain(says);
      expect(stdout).toMatch(/^nearest by what it writes/m);
    });

    test("is copied as a site with the neighbours of its latents", async () => {
      await succeeded("export", "latest", "--site", "--out", "site");
      const [run] = (JSON.parse(readFileSync(at("site", "data", "runs.json"), "utf8")) as { runs: { id: string }[] }).runs; // prettier-ignore
      const file = (name: string) => readFileSync(at("site", "data", run.id, name));
      const { numbers } = unpackTable(new Uint8Array(file("columns.bin")).buffer);
      const [from, size] = [numbers.offset[3], numbers.bytes[3]];
      const text = gunzipSync(file("details.bin").subarray(from, from + size)).toString();
      const detail = JSON.parse(text) as SiteDetail;
      expect(detail.logits).toBeNull();
      expect(detail.noLogitsBecause).toContain(says);
      expect(detail.neighbors).toMatchObject({
        decoder: { nearest: expect.any(Array) as unknown },
      });
    });

    test("is not explained, and no text is read to find that out", async () => {
      const said = await refused("explain");
      expect(said).toContain(says);
      expect(said).not.toContain("reading");
    });

    if (kind === "an encoder")
      test("continues no text: refused before the prompt is printed", async () => {
        expect(await refused("generate", "Once upon", "--model", model[1])).toContain(says);
        expect(await refused("steer", "--add", "3=1", "Once upon")).toContain(says);
        expect((await run("feature", "3", "--logits", "true")).stdout).toContain(says);
      });
  });
