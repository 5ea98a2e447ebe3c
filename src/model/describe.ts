/**
 * What a model is, before anything big of it is loaded or fetched: read from its configuration and the
 * headers of its weights.
 */
import { stat } from "node:fs/promises";
import { join } from "node:path";

import { messageOf, UserError } from "../error.ts";
import { OnnxGraph } from "../onnx.ts";
import { loadOrt, sessionOptions } from "../ort.ts";
import type { Safetensors } from "../safetensors.ts";
import { hookPoints, hookWidth } from "./hook-point.ts";
import { cachedModels, isCommit, parseRepoName, RepoCache, showName } from "./hub-cache.ts";
import { remoteConfig, remoteTensors } from "./hub-headers.ts";
import { openRepo } from "./hub.ts";
import { modelFolder, openCheckpoint, readJson } from "./model-folder.ts";
import { familyField, readSpec } from "./read-spec.ts";
import type { Spec } from "./spec.ts";
import { bindWeights, type Weights } from "./weights.ts";

export interface ModelDescription {
  /** As given. */
  source: string;
  /** The folder it is in; null: on the hub, and not in the cache. */
  folder: string | null;
  /** Of a model of the hub. */
  commit: string | null;
  /** `model_type`, and the field of config.json that has it. */
  family: string;
  familyField: string;
  layers: number;
  dModel: number;
  heads: number;
  kvHeads: number;
  dHead: number;
  dMlp: number;
  vocabSize: number;
  /** Longest sequence, in tokens. */
  contextLength: number;
  /** Numbers in the weights, a tied unembedding counted once. */
  parameters: number;
  /** The tensors the model needs: bytes on disk by type. */
  weights: { bytes: number; types: Record<string, number> };
  /** In the order the data passes them. */
  hookPoints: { name: string; width: number }[];
  /** How the weights of linear layers are computed with. */
  runAs: "checkpoint" | "int8";
  /** Bytes that running it takes. */
  memory: number;
  /** Numbers in the matrices of one layer. */
  matricesOfLayer: number;
  /** Floating-point operations of a token up to the last layer, in rows of `length` tokens. */
  flopsPerToken: number;
  length: number;
}

/** Beside the weights: the runtime, values of a batch, and a piece of the unembedding; see docs/benchmarks.md. */
const MEMORY_BESIDE = 2 ** 29;
/** Row length of an estimate, as `activations.contextLength` is by default. */
const ROW = 256;

/**
 * Describes a model: `source` as `loadModel` takes it. Of a model on the hub the configuration and the
 * headers of its weights are read, and nothing is kept.
 * @throws UserError for what `loadModel` would refuse, the tokenizer aside.
 */
export async function describeModel(
  source: string,
  { weights: runAs = "checkpoint" }: { weights?: "checkpoint" | "int8" } = {},
): Promise<ModelDescription> {
  const described = await described32(source);
  if (runAs === "checkpoint") return described;
  // Three of four bytes of the layers' matrices are saved.
  const saved = 3 * described.layers * described.matricesOfLayer;
  return { ...described, runAs, memory: described.memory - saved };
}

async function described32(source: string): Promise<ModelDescription> {
  const name = parseRepoName("model", source);
  const isLocal = source.startsWith("builtin:") || (await stat(source).catch(() => null)) !== null;
  if (isLocal || !name) return describeFolder(source, await modelFolder(source));
  const repo = await openRepo("model", source);
  const weights = repo.files.filter(({ path }) => path.endsWith(".safetensors"));
  const isHere =
    repo.offline !== undefined ||
    (await repo.plan(["config.json", ...weights.map(({ path }) => path)])).missing.length === 0;
  if (isHere) return { ...(await describeFolder(source, repo.folder)), commit: repo.commit };
  const json = await remoteConfig(repo);
  const spec = readSpec(json, `config.json of ${showName(repo.name)}`);
  const bound = bindWeights(spec, await remoteTensors(repo));
  return describe(source, spec, bound, { json, folder: null, commit: repo.commit });
}

async function describeFolder(source: string, folder: string): Promise<ModelDescription> {
  const path = join(folder, "config.json");
  const json = await readJson(path);
  const spec = readSpec(json, path);
  const checkpoint = await openCheckpoint(folder);
  const bound = await bindClosing(spec, checkpoint);
  return describe(source, spec, bound, { json, folder, commit: null });
}

async function bindClosing(spec: Spec, checkpoint: Safetensors): Promise<Weights> {
  try {
    return bindWeights(spec, checkpoint);
  } finally {
    await checkpoint.close();
  }
}

function describe(
  source: string,
  spec: Spec,
  { tensors }: Weights,
  { json, folder, commit }: { json: unknown; folder: string | null; commit: string | null },
): ModelDescription {
  let parameters = 0;
  let bytes = 0;
  const types: Record<string, number> = {};
  for (const { shape, dtype, length } of tensors.values()) {
    parameters += shape.reduce((a, b) => a * b, 1);
    bytes += length;
    types[dtype] = (types[dtype] ?? 0) + length;
  }
  const { layers, dModel, heads, kvHeads, dHead, dMlp, vocabSize, contextLength } = spec;
  const length = Math.min(contextLength, ROW);
  const matricesOfLayer = numbersOfMatrices(spec);
  return {
    ...{ source, folder, commit, family: spec.modelType, familyField: familyField(json) },
    ...{ layers, dModel, heads, kvHeads, dHead, dMlp, vocabSize, contextLength, parameters },
    weights: { bytes, types },
    hookPoints: hookPoints(spec).map((name) => ({ name, width: hookWidth(name, spec) })),
    ...{ runAs: "checkpoint" as const, memory: 4 * parameters + MEMORY_BESIDE, matricesOfLayer },
    flopsPerToken: layers * (2 * matricesOfLayer + 4 * heads * dHead * length),
    length,
  };
}

/** Numbers in the matrices of one layer. */
function numbersOfMatrices({ dModel, heads, kvHeads, dHead, dMlp, isGated }: Spec): number {
  return dModel * ((2 * heads + 2 * kvHeads) * dHead + (isGated ? 3 : 2) * dMlp);
}

/**
 * Seconds that what is not a matrix product takes: for each number a layer's norms, sums, activation and
 * softmax touch. Measured on two cores (docs/benchmarks.md); it decides for small models only.
 */
const SECONDS_PER_NUMBER = 0.4e-9;

/**
 * Tokens a second up to the last layer, guessed from how fast this machine does two matrix products of the
 * model's own shape, timed here (under a second).
 */
export async function estimateSpeed(
  model: ModelDescription,
  { threads }: { threads?: number } = {},
): Promise<{ tokensPerSecond: number; flopsPerSecond: number }> {
  const { layers, dModel, dMlp, heads, length, flopsPerToken } = model;
  const graph = new OnnxGraph();
  // Big models: a part of the matrix is as fast as all of it. Small ones need as many rows as a batch has.
  const [k, n] = [Math.min(dModel, 4096), Math.min(dMlp, 8192)];
  const rows = Math.min(2048, Math.max(256, Math.floor(2 ** 33 / (k * n))));
  graph.input("x", "float32", ["rows", k]);
  const matrix = graph.initializer("w", "float32", [n, k], new Float32Array(n * k).fill(0.01));
  // There and back, as an MLP does: what leaves the session is copied, and should be little.
  const hidden = graph.op("Gemm", ["x", matrix], { transB: 1 });
  graph.op("Gemm", [hidden, matrix], {}, { name: "y" });
  graph.output("y", "float32", ["rows", k]);
  const { InferenceSession, Tensor } = await loadOrt();
  const session = await InferenceSession.create(graph.encode(), sessionOptions({ threads }));
  try {
    const x = new Tensor("float32", new Float32Array(rows * k).fill(0.5), [rows, k]);
    let seconds = Infinity;
    const until = performance.now() + 300;
    for (let run = 0; run < 4 || (performance.now() < until && run < 50); run++) {
      const began = performance.now();
      await session.run({ x });
      if (run > 0) seconds = Math.min(seconds, (performance.now() - began) / 1000);
    }
    const flopsPerSecond = (4 * rows * k * n) / seconds;
    const numbers = layers * (10 * dModel + 4 * dMlp + heads * length);
    const perToken = flopsPerToken / flopsPerSecond + numbers * SECONDS_PER_NUMBER;
    return { tokensPerSecond: 1 / perToken, flopsPerSecond };
  } finally {
    await session.release();
  }
}

export interface CachedModel {
  /** As `loadModel` takes it. */
  source: string;
  commit: string;
  /** Bytes of the files in the cache. */
  bytes: number;
  family: string | null;
  /** Why it cannot be loaded; null: it can. */
  problem: string | null;
}

/** The models in the cache of the Hugging Face hub, each commit of them, by name. */
export async function listCachedModels(): Promise<CachedModel[]> {
  const found: CachedModel[] = [];
  for (const { id, commits } of await cachedModels()) {
    const cache = new RepoCache({ type: "model", id, revision: "main" });
    const main = await cache.commitOf("main");
    for (const commit of commits.filter(isCommit)) {
      const bytes = (await cache.files(commit)).reduce((sum, { size }) => sum + size, 0);
      const source = commit === main ? id : `${id}@${commit}`;
      try {
        const { family } = await describeFolder(source, cache.snapshot(commit));
        found.push({ source, commit, bytes, family, problem: null });
      } catch (error) {
        if (!(error instanceof UserError)) throw error;
        found.push({ source, commit, bytes, family: null, problem: messageOf(error) });
      }
    }
  }
  return found;
}
