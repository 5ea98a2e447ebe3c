// Writes small SAEs of each kind in every format, with what our own code computes from them, for
// saelens_roundtrip.py and torch_file.py to compare with. Needs the built project (npm run build).
//
//     node test/oracles/write-saes.mjs /tmp/saes
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { forSaeLens, saveSae, saveTorchCheckpoint } from "../../dist/sae/formats.js";
import { Sae } from "../../dist/sae/sae.js";
import { scaling, whitening } from "../../dist/sae/transform.js";
import { Rng } from "../../dist/rng.js";
import { writeSafetensors } from "../../dist/safetensors-write.js";

const folder = process.argv[2];
if (!folder) throw new Error("usage: node test/oracles/write-saes.mjs FOLDER");
const [dIn, dSae, rows] = [48, 192, 64];
const rng = new Rng(0, "oracle");
const draw = (count, scale) => Float32Array.from({ length: count }, () => rng.normal() * scale);

const selections = {
  relu: { architecture: "relu" },
  topk: { architecture: "topk", k: 12 },
  batchTopk: { architecture: "batchTopk", k: 12, threshold: 0.8 },
  jumprelu: { architecture: "jumprelu" },
  gated: { architecture: "gated" },
};
const details = {
  modelName: "tiny",
  hookPoint: "blocks.2.hook_resid_post",
  trainingConfig: { learningRate: 0.001, steps: 800, shuffle: true },
  metrics: { fvu: 0.25 },
};

for (const [name, selection] of Object.entries(selections)) {
  for (const applyBDecToInput of [true, false])
    for (const factor of [1, 0.37])
      await write(`${name}-${applyBDecToInput ? "centred" : "plain"}-${factor}`, {
        ...{ selection, applyBDecToInput, input: scaling([factor], [dIn]) },
      });
  for (const skip of [false, true])
    await write(`${name}-${skip ? "skip-" : ""}transcoder`, {
      ...{ selection, applyBDecToInput: false, transcoder: true, skip, dOut: 32 },
      ...{ input: scaling([0.37], [dIn]), output: scaling([1.6], [32]) },
    });
}
for (const name of ["gated", "jumprelu"])
  for (const transcoder of [false, true])
    await write(`${name}-whitened${transcoder ? "-transcoder" : ""}`, {
      ...{ selection: selections[name], applyBDecToInput: false, transcoder, input: whitened() },
      ...(transcoder && { dOut: 32 }),
    });
const layerNorm = { input: { kind: "layerNorm", eps: 1e-5 }, applyBDecToInput: true };
await write("topk-layer-norm", { selection: selections.topk, ...layerNorm });
await write("topk-crosscoder", {
  ...{ selection: selections.topk, applyBDecToInput: true, heads: [24, 24] },
  input: scaling([0.37, 2], [24, 24]),
});

async function write(name, options) {
  const { dOut = dIn, selection, skip, transcoder = false } = options;
  const { architecture } = selection;
  const sae = new Sae(
    { dIn, dSae, ...options },
    {
      W_enc: draw(dSae * dIn, 0.15),
      b_enc: draw(dSae, 0.1),
      W_dec: draw(dSae * dOut, 0.15),
      b_dec: draw(dOut, 0.5),
      ...(skip && { W_skip: draw(dOut * dIn, 0.15) }),
      ...(architecture === "jumprelu" && { threshold: draw(dSae, 0.5) }),
      ...(architecture === "gated" && { b_mag: draw(dSae, 0.3), r_mag: draw(dSae, 0.3) }),
    },
  );
  const x = draw(rows * dIn, 2);
  const acts = new Float32Array(rows * dSae);
  const reconstruction = new Float32Array(rows * dOut);
  for (let n = 0; n < rows; n++) {
    const row = x.subarray(n * dIn, (n + 1) * dIn);
    const latents = sae.encode(row);
    acts.set(latents, n * dSae);
    reconstruction.set(sae.decode(latents, row), n * dOut);
  }
  const path = join(folder, name);
  mkdirSync(path, { recursive: true });
  await saveTorchCheckpoint(join(path, "sae.pt"), sae, details);
  await writeSafetensors(join(path, "expected.safetensors"), {
    x: { dtype: "F32", shape: [rows, dIn], data: x },
    acts: { dtype: "F32", shape: [rows, dSae], data: acts },
    reconstruction: { dtype: "F32", shape: [rows, dOut], data: reconstruction },
  });
  // SAELens has no transcoder of top-k latents.
  if (!transcoder || architecture !== "topk") await saveSae(path, forSaeLens(sae), details);
  console.log(path);
}

/** Of rows with a mean far from 0 and variances between 1 and 1 + d. */
function whitened() {
  const [mean, a] = [draw(dIn, 1), draw(dIn * dIn, 1)];
  const covariance = Float64Array.from({ length: dIn * dIn }, (_, i) => {
    const [row, column] = [Math.floor(i / dIn), i % dIn];
    let sum = row === column ? 1 : 0;
    for (let c = 0; c < dIn; c++) sum += (a[row * dIn + c] * a[column * dIn + c]) / dIn;
    return sum;
  });
  return whitening(Float64Array.from(mean), covariance);
}
