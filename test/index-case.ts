/** A small SAE and text for tests of the feature index, the same in every process. */
import type { Model } from "../src/model/model.ts";
import { Rng } from "../src/rng.ts";
import { Sae } from "../src/sae/sae.ts";

export function indexCase(model: Pick<Model, "hookPoints" | "hookWidth">) {
  const hookPoint = model.hookPoints().find((name) => name.endsWith("hook_resid_post"))!;
  const dIn = model.hookWidth(hookPoint);
  const dSae = 24;
  const randomTopK = (k: number, heads = 1): Sae => {
    const rng = new Rng(1);
    const width = heads * dIn;
    const W = Float32Array.from({ length: dSae * width }, () => rng.normal());
    return new Sae(
      {
        ...{ selection: { architecture: "topk", k }, dIn: width, dSae, applyBDecToInput: true },
        ...(heads > 1 && { heads: Array<number>(heads).fill(dIn) }),
      },
      { W_enc: W, b_enc: new Float32Array(dSae), W_dec: W, b_dec: new Float32Array(width) },
    );
  };
  const words = ["dog", "cat", "🐉", "龍", "naïve", "\n\nThen", "ran", "the", "a 👩‍🚒"];
  const rng = new Rng(2);
  const documents = Array.from({ length: 60 }, (_, i) => ({
    id: `doc ${i}`,
    text: Array.from({ length: 12 }, () => words[rng.int(words.length)]).join(" "),
  }));
  const settings = {
    ...{ hookPoint, tokens: 100_000, contextLength: 32, batchRows: 4, seed: 0 },
    ...{ topExamples: 6, randomExamples: 3, contextTokens: 5 },
  };
  return { hookPoint, dIn, dSae, documents, randomTopK, settings };
}
