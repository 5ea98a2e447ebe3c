// Writes small SAEs of each kind in every format, with what our own code computes from them, for
// saelens_roundtrip.py and torch_file.py to compare with. Needs the built project (npm run build).
//
//     node test/oracles/write-saes.mjs /tmp/saes
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { saveSae, saveTorchCheckpoint } from "../../dist/sae/formats.js";
import { Sae } from "../../dist/sae/sae.js";
import { Rng } from "../../dist/rng.js";
import { writeSafetensors } from "../../dist/safetensors.js";

const folder = process.argv[2];
if (!folder) throw new Error("usage: node test/oracles/write-saes.mjs FOLDER");
const [dIn, dSae, rows] = [48, 192, 64];
const rng = new Rng(0, "oracle");
const draw = (count, scale) => Float32Array.from({ length: count }, () => rng.normal() * scale);

for (const architecture of ["relu", "topk"])
  for (const applyBDecToInput of [true, false])
    for (const scale of [1, 0.37]) {
      const selection = architecture === "topk" ? { architecture, k: 12 } : { architecture };
      const sae = new Sae(
        { selection, dIn, dSae, applyBDecToInput, scale },
        {
          W_enc: draw(dSae * dIn, 0.15),
          b_enc: draw(dSae, 0.1),
          W_dec: draw(dSae * dIn, 0.15),
          b_dec: draw(dIn, 0.5),
        },
      );
      const x = draw(rows * dIn, 2);
      const acts = new Float32Array(rows * dSae);
      const reconstruction = new Float32Array(rows * dIn);
      for (let n = 0; n < rows; n++) {
        const row = sae.encode(x.subarray(n * dIn, (n + 1) * dIn));
        acts.set(row, n * dSae);
        reconstruction.set(sae.decode(row), n * dIn);
      }
      const path = join(
        folder,
        `${architecture}-${applyBDecToInput ? "centred" : "plain"}-${scale}`,
      );
      mkdirSync(path, { recursive: true });
      const details = {
        modelName: "tiny",
        hookPoint: "blocks.2.hook_resid_post",
        trainingConfig: { learningRate: 0.001, steps: 800, shuffle: true },
        metrics: { fvu: 0.25 },
      };
      await saveSae(path, sae, details);
      await saveTorchCheckpoint(join(path, "sae.pt"), sae, details);
      await writeSafetensors(join(path, "expected.safetensors"), {
        x: { dtype: "F32", shape: [rows, dIn], data: x },
        acts: { dtype: "F32", shape: [rows, dSae], data: acts },
        reconstruction: { dtype: "F32", shape: [rows, dIn], data: reconstruction },
      });
      console.log(path);
    }
