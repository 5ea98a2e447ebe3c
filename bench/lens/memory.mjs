/**
 * The peak memory of a capture at the last layer, with logits or without, and its speed.
 * Settings: folder of the model, layers, logits, threads.
 */
import { loadModel } from "../../dist/index.js";
import { answer, settings } from "./serve.mjs";

const { folder, layers, logits, threads } = settings;
const [batch, length] = [1, 128];
const model = await loadModel(folder, { threads });
const tokens = Int32Array.from({ length: batch * length }, (_, i) => (i * 7919) % 50_000);
const capture = [`blocks.${layers - 1}.hook_resid_post`];
const ms = [];
for (let run = 0; run < 3; run++) {
  const start = performance.now();
  const { activations } = await model.forward({ tokens, batch, length, capture, ...(logits && { logits: "all" }) }); // prettier-ignore
  if (!activations[capture[0]].every(Number.isFinite)) throw new Error("not finite");
  ms.push(performance.now() - start);
}
const [first, ...rest] = ms;
const tokensPerSecond = (1000 * batch * length) / Math.min(...rest);
answer({ peak: process.resourceUsage().maxRSS * 1024, firstMs: first, tokensPerSecond });
await model.close();
