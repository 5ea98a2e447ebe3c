/**
 * Can features steer the model? Finds, for some concepts, the latents that bring their words about,
 * turns them up while the model writes, and compares what becomes of the text with what other latents and
 * random directions of the same length do to it.
 *
 *     npm run example examples/03-feature-steering.ts        (two to three minutes)
 */
import { collect, documents, doseResponse, findByEffect, indexFeatures } from "latent-lens";
import { doseFigures, conceptScore, generateMany, loadModel, openDevice } from "latent-lens";
import {
  recommended,
  saveSae,
  subjectsOf,
  tokensOfConcept,
  Trainer,
  writeReport,
} from "latent-lens";

const out = "runs/03-feature-steering";
const hookPoint = "blocks.2.hook_resid_post";
const concepts = ["animal.duck", "feeling.angry", "apology"];
const prompt = "";
const strengths = [0.8, 0.9, 1];
/** Of the perplexity of unsteered text. */
const cost = 1.3;

const device = await openDevice("auto");
const model = await loadModel("builtin:tiny");
const heldOut = () => documents("builtin:stories", { split: "test" });

console.log("activations and training …");
const source = await collect(model, "builtin:stories", {
  ...{ hookPoint, tokens: 150_000, out: `${out}/activations` },
});
const trainer = await Trainer.create(device, {
  sae: { architecture: "topk", k: 32, dSae: 2048 },
  train: { batchSize: 2048, steps: 300, learningRate: 0.004, decaySteps: 100 },
  source,
});
for await (const { step, fvu } of trainer.fit())
  console.log(`  step ${step}: FVU ${fvu.toFixed(3)}`);
const sae = await trainer.sae();
trainer.close();
await saveSae(`${out}/sae`, sae, { modelName: "builtin:tiny", hookPoint });
const features = await indexFeatures(sae, model, heldOut(), {
  ...{ hookPoint, device, tokens: 30_000, out: `${out}/features`, seed: 0 },
});

console.log("which latents bring the concepts about …");
const searched = await findByEffect(
  sae,
  model,
  concepts.map((name) => tokensOfConcept(model, name)),
  heldOut(),
  { hookPoint, tokens: 512, candidates: 8, together: 8, maxCost: Math.log(cost) },
);

const { bosId, eosId } = model.tokenizer;
const ids = Int32Array.of(bosId!, ...model.tokenizer.encode(prompt).ids);
const generation = { maxNewTokens: 60, temperature: 1, seed: 7, stopTokens: [eosId!] };
// How often do the concepts come by themselves? They are rare, and many texts cost little.
const many = await generateMany(model, ids, 256, generation);
const texts = many.map((tokens) => model.tokenizer.decode(tokens.map(({ token }) => token)));
const percent = (share: number) => `${(100 * share).toFixed(2)} %`;
const rateAsItIs = (name: string) => {
  const scores = texts.map(conceptScore(name));
  const sum = (key: "hits" | "words") => scores.reduce((total, one) => total + one[key], 0);
  return percent(sum("hits") / sum("words"));
};

const sections: Parameters<typeof writeReport>[1]["sections"] = [];
const summary: (string | number)[][] = [];
for (const { name, found } of searched) {
  if (found.length === 0) continue;
  const [{ latents, strength: unit }, ...others] = found;
  const named = latents.join(" + ");
  console.log(`${name}: latents ${named} …`);
  const subjects = subjectsOf(
    sae,
    model,
    features,
    latents,
    { hookPoint, promptLength: ids.length, unit, latents: 1, directions: 1 },
    others.flatMap((other) => other.latents),
  );
  const result = await doseResponse(model, subjects, strengths, {
    ...{ prompt: ids, texts: 24, generation, score: conceptScore(name) },
  });
  const [target, ...controls] = result.subjects;
  const best = recommended(result, target.responses, cost);
  const { baseline } = result;
  const shown = best ?? target.responses[0];
  const beside = controls.map(({ responses }) =>
    percent(responses[target.responses.indexOf(shown)].rate.value),
  );
  summary.push([
    ...[name, rateAsItIs(name), percent(shown.rate.value), beside.join(", ")],
    shown.perplexity.value / baseline.perplexity.value,
    ...[best ? best.strength : "none", latents.length],
  ]);
  sections.push({
    title: name,
    text: `Latents ${named}, most active on ${latents
      .flatMap((f) => features.index.columns.topTokens[f].slice(0, 3))
      .map((text) => JSON.stringify(text))
      .join(", ")}. Texts at strength ${shown.strength}:`,
    rows: [
      ...baseline.samples.slice(0, 1).map((text): [string, string] => ["as it is", text]),
      ...shown.samples.slice(0, 2).map((text): [string, string] => ["steered", text]),
    ],
    figures: await doseFigures(result, name),
  });
}

await writeReport(`${out}/report.html`, {
  title: "Can features steer the model?",
  summary: `Latents of a TopK autoencoder on ${hookPoint} of the built-in model, turned up while it writes: how often a concept's words come, what that costs in perplexity under the model as it is, and what controls of the same length do.`,
  tiles: [],
  training: [],
  sections: [
    {
      title: "Summary",
      text: `For each concept the latents that together most raise the rate of its words at real contexts, at the strength that raises it most with at most ${cost} times the perplexity. Rates are shares of the words of 24 texts; of 256 as it is.`,
      table: {
        head: [
          ...["concept", "rate as it is", "steered", "as many other latents, a random direction"],
          ...["perplexity, times", "strength", "latents"],
        ],
        rows: summary,
      },
    },
    ...sections,
  ],
  latents: [],
  provenance: [["seed", String(generation.seed)]],
});
for (const [name, before, after, , cost, strength, latents] of summary)
  console.log(
    `${name}: ${before} → ${after} at ${Number(cost).toFixed(2)} times the perplexity (${latents} latents, strength ${strength})`,
  );
console.log(`report: ${out}/report.html`);
await model.close();
await device.close();
