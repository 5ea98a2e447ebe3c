/**
 * What does each feature capture? From activations to a page that says what the latents of an
 * autoencoder respond to, which concepts they stand for, what they do to the next token, which lie near
 * each other, and what the model loses without one of them.
 *
 *     npm run example examples/02-feature-analysis.ts        (two to three minutes)
 */
import { ablate, attribute, attributionFigure, collect, conceptCoverage } from "latent-lens";
import { decoderMap, documents, featureTable, galleryOf, indexFeatures } from "latent-lens";
import { latentFigures, loadModel, logitEffects, mapFigure, nearestRows } from "latent-lens";
import { openDevice, saveSae, Trainer, writeReport } from "latent-lens";

const out = "runs/02-feature-analysis";
const hookPoint = "blocks.2.hook_resid_post";
const device = await openDevice("auto");
const model = await loadModel("builtin:tiny");
const heldOut = () => documents("builtin:stories", { split: "test" });

console.log("activations …");
const source = await collect(model, "builtin:stories", {
  ...{ hookPoint, tokens: 150_000, out: `${out}/activations` },
});

console.log("training …");
const trainer = await Trainer.create(device, {
  sae: { architecture: "topk", k: 24, dSae: 1024 },
  train: { batchSize: 2048, steps: 300, learningRate: 0.004, decaySteps: 100 },
  source,
});
for await (const { step, fvu, l0 } of trainer.fit())
  console.log(`  step ${step}: FVU ${fvu.toFixed(3)}, L0 ${l0.toFixed(1)}`);
const sae = await trainer.sae();
trainer.close();
await saveSae(`${out}/sae`, sae, { modelName: "builtin:tiny", hookPoint });

console.log("features …");
const features = await indexFeatures(sae, model, heldOut(), {
  ...{ hookPoint, device, tokens: 80_000, out: `${out}/features`, seed: 0 },
});
const { index, labels } = features;
const nameOf = (latent: number) =>
  labels?.best[latent]?.name ?? index.columns.topTokens[latent].join(" ");

console.log("concepts …");
const coverage = await conceptCoverage(sae, model, heldOut(), {
  ...{ hookPoint, device, tokens: 60_000 },
});

console.log("one feature in depth …");
// Of the features that stand for a word or a concept, the one with the best F1.
const [chosen] = featureTable(features, 50)
  .filter(({ label }) => label && ["concept", "word", "token"].includes(label.kind))
  .toSorted((a, b) => b.label!.atThreshold.f1 - a.label!.atThreshold.f1);
const { latent } = chosen;
const effects: (string | number)[][] = [];
for (const form of ["raw", "folded", "centred"] as const)
  for await (const { top, excessKurtosis } of logitEffects(sae, model, {
    ...{ hookPoint, form, latents: [latent], top: 6 },
  })) {
    const tokens = top.map(({ token, value }) => {
      const text = JSON.stringify(model.tokenizer.decode([token]));
      return `${text} ${value.toFixed(2)}`;
    });
    effects.push([form, tokens.join(", "), excessKurtosis]);
  }
const { dIn } = sae.spec;
const near = await nearestRows(sae.W_dec, dIn, { count: 6, of: [latent] });
const removed = await ablate(sae, model, heldOut(), {
  ...{ hookPoint, device, latents: [latent], tokens: 10_000 },
});
const [{ total, direct, control, firings }] = removed.latents;
const interval = ({ value, low, high }: { value: number; low: number; high: number }) =>
  `${value.toFixed(3)} (${low.toFixed(3)} to ${high.toFixed(3)})`;

console.log("attribution …");
const sentence = "One day, a little girl named Lily went to the park with her";
const why = await attribute(sae, model, sentence, { hookPoint });

console.log("map …");
const map = await decoderMap(sae, { seed: 0, device });

const { gallery, table } = await galleryOf(features, 24);
const density = index.columns.firings.map((n) => n / index.positions);
const meanActivation = index.columns.mean.map((mean, f) => mean * density[f]);
const percent = (share: number) => `${(100 * share).toFixed(1)} %`;
const { auc95, f1Half } = coverage;
await writeReport(`${out}/report.html`, {
  title: "What does each feature capture?",
  summary: `A TopK autoencoder of ${sae.spec.dSae} latents on ${hookPoint} of the built-in model, looked up in ${index.positions.toLocaleString("en")} tokens of stories it was not trained on.`,
  tiles: [
    {
      label: "concepts with a latent of their own",
      value: percent(auc95.value),
      meaning: `Share of the ${coverage.concepts.length} concepts of which a single latent has an AUC of at least 0.95 on documents that had no part in choosing it`,
      detail: `AUC ≥ 0.95; 95 % interval ${percent(auc95.low)} to ${percent(auc95.high)}; labels moved along the text: ${percent(auc95.shuffled)}`,
    },
    {
      label: "with F1 ≥ 0.5",
      value: percent(f1Half.value),
      meaning: "The same by F1 at a threshold that was chosen on the other documents",
      detail: `moved labels: ${percent(f1Half.shuffled)}`,
    },
    {
      label: "silent latents",
      value: String(density.filter((share) => share === 0).length),
      meaning: "Latents that fired on none of these tokens",
    },
  ],
  training: [],
  sections: [
    {
      title: "Concepts",
      text: "For each concept that the corpus marks the latent that tells best where it is: chosen by AUC on half of the documents, measured on the other half. “Moved” is the mean of the same for labels that were moved along the text. Click a column's name to sort.",
      table: {
        head: ["concept", "latent", "AUC", "low", "high", "moved", "F1", "what the latent is"],
        rows: coverage.concepts.map(({ concept, best, byChance }) => [
          ...[concept, best.latent, best.auc.value, best.auc.low, best.auc.high],
          ...[byChance.auc, best.f1.value, nameOf(best.latent)],
        ]),
      },
    },
    {
      title: `Latent ${latent}: ${nameOf(latent)}`,
      text: `What it does to the next token, by its decoder row through the unembedding, in three forms that differ in what is folded in; the latents whose decoder rows lie nearest; and what the model loses without it on ${removed.positions.toLocaleString("en")} tokens, in nats per prediction where it fires (${firings} times), with 95 % intervals over documents.`,
      rows: [
        ["loss without it", interval(total.lossPerFiring)],
        ["of that, directly", interval(direct.lossPerFiring)],
        ["a random direction as long", interval(control.total.lossPerFiring)],
        [
          "nearest decoder rows",
          [...near.rows]
            .map((f, i) => `${f} ${nameOf(f)} (${near.cosines[i].toFixed(2)})`)
            .join(", "),
        ],
      ],
      table: { head: ["form", "most raised", "excess kurtosis"], rows: effects },
    },
    {
      title: "Why this word?",
      text: `After “${sentence}” the model expects ${JSON.stringify(why.token.text)} (${percent(why.token.probability)}). What happens to that logit when one latent is taken away at one position, the later layers run again.`,
      figures: [await attributionFigure(why, 16, nameOf)],
    },
    {
      title: "A map of all latents",
      text: `Decoder directions in the plane by UMAP: near each other where they point the same way. Trustworthiness ${map.trustworthiness.value.toFixed(2)}, of a random layout ${map.trustworthiness.random.toFixed(2)}; 1 is perfect.`,
      figures: [
        await mapFigure(map, {
          density: (f) => density[f],
          topTokens: (f) => index.columns.topTokens[f],
        }),
      ],
    },
  ],
  latents: await latentFigures({ density, meanActivation }, index.positions),
  gallery,
  table,
  provenance: Object.entries(index.provenance).map(([key, value]) => [key, JSON.stringify(value)]),
});
console.log(
  `${auc95.count} of ${coverage.concepts.length} concepts have a latent of their own (AUC ≥ 0.95)`,
);
console.log(`report: ${out}/report.html`);
await model.close();
await device.close();
