/** The public API of latent-lens. The only barrel; everything else is imported from where it is. */
export { UserError } from "./error.ts";
export { configJsonSchema, parseConfig, type RunConfig } from "./config.ts";
export type { FeaturesConfig, SaeConfig, SyntheticConfig, TrainConfig } from "./config.ts";

// Numbers
export { openDevice, type Device, type DeviceOptions, type Tensor } from "./device/device.ts";

// Text → tokens → activations
export { stories, storyAt, CONCEPTS, type Concept, type Story } from "./corpus/index.ts";
export { labelWords } from "./corpus/labeller.ts";
export { documents, documentsOfFiles, type Document, type DocumentOptions } from "./model/text.ts";
export type { Message, Source, SourcePart, Span } from "./model/text.ts";
export { loadModel, Model, type ForwardOptions, type ForwardResult } from "./model/model.ts";
export type { FinalNorm, Unembedding } from "./model/unembedding.ts";
export { loadTokenizer, type Encoding, type Tokenizer } from "./model/tokenizer.ts";
export {
  generate,
  generateMany,
  type GeneratedToken,
  type GenerateOptions,
} from "./model/generate.ts";
export type { Intervention } from "./model/generate.ts";
export { collect, type CollectOptions } from "./model/collect.ts";
export { onTheFly, type OnTheFly, type OnTheFlyOptions } from "./model/on-the-fly.ts";
export { openActivations, type ActivationStore, type StoreTokens } from "./model/activations.ts";
export { mergeStores } from "./model/store/merge.ts";
export { shuffleStore, type ShuffleOptions } from "./model/store/shuffle.ts";
export { subsetStore, type SubsetOptions } from "./model/store/subset.ts";
export { verifyStore, type Verification } from "./model/store/verify.ts";
export { memorySource, splitSource } from "./activation-source.ts";
export { joinedSource, pairedSource } from "./zipped-source.ts";
export type { ActivationSource, Batch, BatchOptions, RowSource } from "./activation-source.ts";

// Autoencoders
export { Sae } from "./sae/sae.ts";
export { SaeOnDevice } from "./sae/sae-on-device.ts";
export type { SaeSpec, SaeWeights } from "./sae/weights.ts";
export { Trainer, type FitOptions, type Metrics, type TrainerOptions } from "./sae/train.ts";
export type { TrainerState, ValidationMetrics } from "./sae/train.ts";
export { latestCheckpoint, readCheckpoint, writeCheckpoint } from "./sae/checkpoint.ts";
export {
  forSaeLens,
  loadSae,
  saveSae,
  saveTorchCheckpoint,
  type SaeDetails,
} from "./sae/formats.ts";
export { evaluateReconstruction, latentSummary, type Evaluation } from "./sae/metrics.ts";
export { syntheticActivations, type SyntheticActivations } from "./sae/synthetic.ts";
export { absorption, recovery, type Absorption, type Recovery } from "./sae/recovery.ts";

// Model and autoencoder together
export {
  evaluate,
  evaluateAll,
  type EvaluateOptions,
  type ModelEvaluation,
} from "./analysis/evaluate.ts";
export type { CrossEntropy, SplicedEvaluation } from "./analysis/evaluate.ts";
export type { Coverage, EvaluationDetail } from "./analysis/evaluation-detail.ts";
export {
  compareEvaluations,
  evaluationRecord,
  type Compared,
  type EvaluationRecord,
} from "./analysis/evaluation-record.ts";
export { densityDistribution, geometryOf, type Geometry } from "./analysis/geometry.ts";
export { structureOf, type StructureResult } from "./analysis/structure.ts";
export { superviseSae, SUPERVISED, type SupervisedResult } from "./analysis/supervised.ts";
export { indexFeatures, type IndexOptions } from "./analysis/index-features.ts";
export { CoActivation, type Partners } from "./analysis/co-activation.ts";
export { encodeStored, openStored, type StoredActivations } from "./analysis/stored-codes.ts";
export { openFeatures, type Feature, type Features } from "./analysis/features.ts";
export { logitEffects, type LogitEffect, type LogitForm } from "./analysis/logits.ts";
export { trueLogitEffect, type TrueLogitEffect } from "./analysis/true-logits.ts";
export { coNeighbors, cosineNull, nearestRows, type CoFirings } from "./analysis/neighbors.ts";
export { coActivationMap, decoderMap, trustworthiness, type LatentMap } from "./analysis/map.ts";
export { mapFigure, namedClusters } from "./analysis/map-figure.ts";
export { suspectsOf, type Suspect, type Suspects } from "./analysis/suspects.ts";
export { featureTable, formatFeatureTable, galleryOf } from "./analysis/gallery.ts";
export { edited, steering, type Edit, type SteerOptions } from "./analysis/steer.ts";
export { ablate, type Ablation, type AblateOptions } from "./analysis/ablate.ts";
export type { Effect, LatentAblation } from "./analysis/ablation-tally.ts";
export {
  attribute,
  singleToken,
  type Attribution,
  type AttributeOptions,
  type Contribution,
} from "./analysis/attribute.ts";
export { attributionFigure } from "./analysis/attribution-figure.ts";
export { doseFigures, doseTable } from "./analysis/dose-report.ts";
export { doseResponse, recommended, type DoseOptions, type DoseResponse } from "./analysis/dose.ts";
export { conceptScore, patternScore } from "./analysis/text-score.ts";
export { subjectsOf } from "./analysis/controls.ts";
export { findFeatures, type Found } from "./analysis/find.ts";
export {
  bestNamed,
  explainByRules,
  readExplanations,
  readText,
  summaryOf,
  writeExplanations,
  type Explanations,
  type LatentExplanation,
} from "./analysis/explanations.ts";
export { Endpoint, type EndpointOptions } from "./analysis/endpoint.ts";
export {
  explainByModel,
  SCORERS,
  type JudgeScore,
  type ModelExplanation,
} from "./analysis/judge.ts";
export { RuleFinder, type RuleExplanation, type RuleScore } from "./analysis/rules.ts";
export {
  conceptAlignment,
  conceptCoverage,
  type ConceptAlignment,
  type ConceptCoverage,
  type ConceptMatch,
  type ConceptOptions,
} from "./analysis/concept-alignment.ts";
export { conceptEffects, findByEffect, tokensOfConcept } from "./analysis/steer-search.ts";
export type { ConceptSearch, LatentEffect } from "./analysis/steer-search.ts";
export { agreement, auc } from "./analysis/label-scores.ts";
export { fitProbe, probeScores, type Probe } from "./analysis/probe.ts";
export { bootstrap, ratioInterval, type Interval } from "./analysis/interval.ts";
export { latentFigures, renderPng, trainingFigures, type Figure } from "./analysis/plots.ts";
export { writeReport, type Report } from "./analysis/report.ts";

export { encodeTogether, type PlacedSae } from "./analysis/joint-codes.ts";
export { FiringsCollector, type Firings, type HeldText } from "./analysis/firings.ts";
export { matchFeatures, type LatentMatch, type Matching } from "./analysis/matching.ts";
export { matchDecoders, type CosineMatch } from "./analysis/directions.ts";
export { conceptCourses, type ConceptCourse } from "./analysis/concept-layers.ts";
export { conceptFigure } from "./analysis/layers-figure.ts";
export {
  composition,
  PairMeasurer,
  searchPairs,
  type Composition,
  type CompositionOptions,
  type Pair,
} from "./analysis/composition.ts";
export { graphFigure, graphOf, type Graph } from "./analysis/composition-figure.ts";
export { inWindows } from "./analysis/firing-windows.ts";
export { findLinks, type Link, type Links } from "./analysis/links.ts";
export { benjaminiHochberg } from "./analysis/significance.ts";
export { findTriples, type TripleSearch } from "./analysis/triples.ts";
export type { Triple } from "./analysis/triple-measure.ts";
export { turnable, Turning, type TurnTest } from "./analysis/turning.ts";
export { linkAgreement, virtualWeight, type Agreement } from "./analysis/virtual-weights.ts";

// Runs
export { getTracker, Tracker, type ExperimentConfig, type ExperimentResult } from "./runs.ts";
export { compareRuns, findRun, listRuns, readMetrics, readResults, readRun } from "./runs.ts";
export { RunFolder, type Comparison, type RunInfo, type RunSummary } from "./runs.ts";
