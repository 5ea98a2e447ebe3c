/**
 * The reference experiment by hand: train a ReLU and a TopK autoencoder on activations whose true
 * directions are known, and see which of the two finds them (docs/reference-experiment.md).
 *
 *     node examples/01-sae-training.ts        (Node 22.18 or newer runs TypeScript as it is)
 */
import {
  evaluateReconstruction,
  latentSummary,
  memorySource,
  openDevice,
  recovery,
  saveSae,
  syntheticActivations,
  Trainer,
  type TrainerOptions,
} from "latent-lens";

const dIn = 768;
const seed = 2;
const synthetic = syntheticActivations(
  {
    from: "synthetic",
    ...{ samples: 10_000, validationSamples: 1_000, dIn, features: 100, sparsity: 0.1, noise: 0.1 },
  },
  seed,
);
const source = memorySource(synthetic.train, dIn);
const validation = memorySource(synthetic.validation, dIn);

const recipes: Record<string, Omit<TrainerOptions, "source">> = {
  relu: {
    seed,
    sae: {
      ...{ architecture: "relu", dSae: 2048, loss: "mean", l1: 0.05, coefficientUnits: "raw" },
      ...{ init: "xavier", decoderBiasInit: "zero" },
      ...{ applyBDecToInput: false, normalizeActivations: "none", unitNormDecoder: false },
    },
    train: { batchSize: 256, epochs: 20, learningRate: 0.001 },
  },
  topk: {
    seed,
    sae: { architecture: "topk", dSae: 2048, k: 10 },
    train: { batchSize: 256, epochs: 5, learningRate: 0.003, deadAfterTokens: 10_000 },
  },
};

const device = await openDevice("auto");
for (const [name, recipe] of Object.entries(recipes)) {
  const trainer = await Trainer.create(device, { ...recipe, source });
  for await (const { epochLoss, validation: held, epoch } of trainer.fit({ validation }))
    if (epochLoss)
      console.log(
        `${name}  epoch ${epoch}  train loss ${epochLoss.loss.toFixed(4)}  validation loss ${held!.loss.toFixed(4)}`,
      );

  const sae = (await trainer.sae()).fold();
  trainer.close();
  const encoder = sae.on(device, 1000);
  const evaluation = await evaluateReconstruction(encoder, validation);
  encoder.close();
  const { meanActivation, meanDensity, activeFeatures } = latentSummary(evaluation);
  const { mmcs, oneToOne } = recovery(synthetic.directions, sae.W_dec, dIn);
  console.log(`${name}  FVU ${evaluation.fvu.toFixed(4)}, L0 ${evaluation.l0.toFixed(1)}`);
  console.log(
    `${name}  mean activation ${meanActivation.mean.toFixed(3)} ± ${meanActivation.std.toFixed(3)}, ` +
      `activation frequency ${meanDensity.toFixed(3)}, ${activeFeatures} latents active > 1 %`,
  );
  console.log(
    `${name}  directions found: MMCS ${mmcs.toFixed(3)}, one to one ${oneToOne.toFixed(3)}`,
  );
  await saveSae(`runs/01-sae-training-${name}`, sae, {
    averageSparsity: meanDensity,
    activeFeatures,
    trainingConfig: { seed, sae: trainer.settings.sae, train: trainer.settings.train },
  });
}
await device.close();
