/**
 * From a language model to features with the texts that excite them, step by step:
 *
 *     npm run example examples/00-model-to-features.ts
 */
import { collect, documents, evaluate, featureTable, formatFeatureTable } from "latent-lens";
import { indexFeatures, loadModel, openDevice, saveSae, Trainer } from "latent-lens";

const hookPoint = "blocks.2.hook_resid_post";
const device = await openDevice("auto");
const model = await loadModel("builtin:tiny"); // or a folder in Hugging Face layout
const source = await collect(model, "builtin:stories", {
  hookPoint,
  tokens: 50_000,
  out: "runs/example-activations",
});

const trainer = await Trainer.create(device, {
  sae: { architecture: "topk", k: 16, expansion: 4 },
  train: { batchSize: 1024, epochs: 2 },
  source,
});
for await (const { step, fvu, l0 } of trainer.fit()) console.log({ step, fvu, l0 });
const sae = await trainer.sae();
await saveSae("runs/example-sae", sae); // cfg.json and sae_weights.safetensors, as SAELens reads

const heldOut = () => documents("builtin:stories", { split: "test" });
const { fvu, ceLossRecovered } = await evaluate(sae, model, heldOut, {
  hookPoint,
  device,
  tokens: 5_000,
});
console.log({ fvu, ceLossRecovered });

const features = await indexFeatures(sae, model, heldOut(), {
  ...{ hookPoint, device, tokens: 20_000, out: "runs/example-features", seed: 0 },
  ...{ topExamples: 12, randomExamples: 6, contextTokens: 12 },
});
console.log(formatFeatureTable(featureTable(features, 10)));

await model.close();
await device.close();
