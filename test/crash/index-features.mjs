// Indexes features into the folder given, slowly, and says "chunk" after each: to be killed on the way.
import { fileURLToPath } from "node:url";

const src = new URL("../../src/", import.meta.url);
const { openDevice } = await import(new URL("device/device.ts", src));
const { loadModel } = await import(new URL("model/model.ts", src));
const { indexFeatures } = await import(new URL("analysis/index-features.ts", src));
const { indexCase } = await import(new URL("../index-case.ts", import.meta.url));

const fixture = new URL("../fixtures/gpt2-tiny/f32", import.meta.url);
const model = await loadModel(fileURLToPath(fixture));
const { documents, randomTopK, settings } = indexCase(model);
async function* slowly() {
  for (const document of documents) {
    await new Promise((resolve) => setTimeout(resolve, 50));
    yield document;
  }
}
await indexFeatures(randomTopK(3), model, slowly(), {
  ...settings,
  device: await openDevice("reference"),
  out: process.argv[2],
  resume: "a",
  onProgress: () => process.stdout.write("chunk\n"),
});
