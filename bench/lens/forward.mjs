/**
 * Lens' forward pass up to the end of a layer, a batch at a time.
 * Settings: folder of the model, layers, batch, length, threads.
 */
import { loadModel } from "../../dist/index.js";
import { serve, settings } from "./serve.mjs";

const { folder, layers, batch, length, threads } = settings;
const model = await loadModel(folder, { threads });
const tokens = Int32Array.from({ length: batch * length }, (_, i) => (i * 7919) % 50_000);
const capture = [`blocks.${layers - 1}.hook_resid_post`];
await serve(async () => {
  const { activations } = await model.forward({ tokens, batch, length, capture });
  return { first: activations[capture[0]][0] };
});
await model.close();
