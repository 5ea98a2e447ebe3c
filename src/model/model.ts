/**
 * A language model: a folder in Hugging Face layout (config.json, safetensors, tokenizer.json) that
 * turns tokens into activations, logits and losses. Every distinct question (which hook points,
 * which replacements, which outputs) is its own graph, built when first asked and kept for a while.
 */
import { stat } from "node:fs/promises";
import { dirname, join, relative, sep } from "node:path";

import { UserError } from "../error.ts";
import { loadOrt, type Ort, sessionOptions } from "../ort.ts";
import { hashBytes, hashFile } from "../file-hash.ts";
import { buildGraph, type GraphRequest } from "./graph.ts";
import {
  expandHookPoints,
  hookPoints,
  hookShape,
  hookWidth,
  lastResidual,
  layersAfter,
  residualBefore,
  type Widths,
} from "./hook-point.ts";
import { modelFolder, openCheckpoint, readJson } from "./model-folder.ts";
import { QUANTIZATION, type QuantizedTensor, quantizedWeights } from "./quantize.ts";
import { readSpec } from "./read-spec.ts";
import type { Spec } from "./spec.ts";
import { loadTokenizer, type Tokenizer } from "./tokenizer.ts";
import { readUnembedding, readWriter, type Unembedding } from "./unembedding.ts";
import { createOnGpu, probeInputs } from "./webgpu-session.ts";
import { bindWeights, type Weights } from "./weights.ts";

export interface ModelInfo extends Widths {
  /** As given to `loadModel`. */
  source: string;
  /** The folder it was loaded from. */
  folder: string;
  /** `model_type` of config.json. */
  family: string;
  vocabSize: number;
  /** Longest sequence, in tokens. */
  contextLength: number;
  /** Numbers in the weights, a tied unembedding counted once. */
  parameters: number;
}

export interface ForwardOptions {
  /** [batch, length], row after row; ids below the vocabulary size. */
  tokens: Int32Array;
  batch: number;
  /** Tokens per row, at most the context length. */
  length: number;
  /** Hook points to read. */
  capture?: readonly string[];
  /** Values that replace those at a hook point, of the same shape; what follows sees them. */
  patch?: Readonly<Record<string, Float32Array>>;
  /** Logits at all positions, or at each row's last one; of an encoder at all, for the token that is there. */
  logits?: "all" | "last";
  /** The loss at every position but the last. */
  loss?: boolean;
  /**
   * [batch]: how many tokens of each row are text; what follows them is padding, which no position of the
   * text sees. Absent: all are. What is at the padding's own positions means nothing. Causal models, whose
   * positions see none behind them, give the text the same values without.
   */
  lengths?: Int32Array;
}

export interface ForwardResult {
  /** [batch, length, width] per captured hook point; of `attn.hook_pattern` [batch, head, query, key]. */
  activations: Record<string, Float32Array>;
  /** [batch, length, vocabSize] for "all", [batch, vocabSize] for "last". */
  logits?: Float32Array;
  /** [batch, length − 1]: −log p(next token | tokens so far), in nats. */
  loss?: Float32Array;
}

export interface LoadOptions {
  /** Threads of the runtime; by default one per physical core. */
  threads?: number;
  /**
   * `checkpoint` (default): the weights as they are. `int8`: those of linear layers as 8-bit integers (see
   * quantize.ts), a quarter of the memory, and values that differ by what `compareWeights` measures.
   */
  weights?: "checkpoint" | "int8";
  /**
   * `cpu` (default), or `webgpu`: a GPU through WebGPU. There attention is always "plain", and every graph is
   * first compared with the CPU on a few tokens: some drivers compute wrongly and say nothing.
   */
  device?: "cpu" | "webgpu";
  /** How attention is computed; see `GraphRequest.attention`. */
  attention?: "onnx" | "plain";
  /** False: a model of the Hugging Face hub is taken from its cache or not at all. */
  download?: boolean;
  /** Ends a download. */
  signal?: AbortSignal;
}

/**
 * Queries that attention takes at a time, and the most blocks of them: of 512 positions four blocks
 * save three eighths of the scores, an eighth of the time of a forward pass of GPT-2 small.
 */
const BLOCK = 64;
const MAX_BLOCKS = 4;

/** Graphs kept open. Each holds its own copy of the weights it packs. */
const MAX_SESSIONS = 4;

interface OpenSession {
  session: Promise<Ort.InferenceSession>;
  /** Runs under way; a session in use is not released. */
  busy: number;
}

export class Model {
  readonly info: ModelInfo;
  readonly tokenizer: Tokenizer;
  /** Where it runs. */
  readonly device: "cpu" | "webgpu";
  readonly #spec: Spec;
  readonly #weights: Weights;
  readonly #files: readonly string[];
  readonly #options: LoadOptions;
  /** By request, least recently used first. */
  readonly #sessions = new Map<string, OpenSession>();
  #unembedding: Promise<Unembedding> | undefined;
  #quantized: Promise<Map<string, QuantizedTensor>> | undefined;
  #closed = false;

  /** Use `loadModel`. `files`: real paths of the weights, in the order of the shards' names. */
  constructor(
    info: ModelInfo,
    tokenizer: Tokenizer,
    parts: { spec: Spec; weights: Weights; files: readonly string[]; options: LoadOptions },
  ) {
    this.info = info;
    this.tokenizer = tokenizer;
    this.device = parts.options.device ?? "cpu";
    this.#spec = parts.spec;
    this.#weights = parts.weights;
    this.#files = parts.files;
    this.#options = parts.options;
  }

  /** Every hook point that has a vector for each position, in the order the data passes them. */
  hookPoints(): string[] {
    return hookPoints(this.#spec);
  }

  /** Hook points for names and patterns (`blocks.*.hook_resid_post`); UserError if one fits none. */
  expandHookPoints(patterns: Iterable<string>): string[] {
    return expandHookPoints(patterns, this.#spec);
  }

  /** Width of the values at a hook point; UserError if there is no such point. */
  hookWidth(name: string): number {
    return hookWidth(name, this.#spec);
  }

  /** The first layer whose attention sees the values at a hook point; see hook-point.ts. */
  layersAfter(name: string): { firstLayer: number; isWhole: boolean } {
    return layersAfter(name, this.#spec);
  }

  /** What turns the residual stream into logits, as arrays; read once, when first asked for. */
  async unembedding(): Promise<Unembedding> {
    this.requireNextTokens("direct effects on logits");
    if (!this.#unembedding) {
      this.#unembedding = readUnembedding(this.#weightFiles());
      this.#unembedding.catch(() => (this.#unembedding = undefined)); // the next one to ask may have more luck
    }
    return this.#unembedding;
  }

  /** The matrix [width, dModel] by which values at a hook point enter the residual stream, null where they do as they are; see `readWriter`. */
  async writer(hookPoint: string): Promise<Float32Array | null> {
    this.requireNextTokens("direct effects on logits");
    return readWriter(this.#weightFiles(), hookPoint);
  }

  #weightFiles() {
    return { spec: this.#spec, weights: this.#weights, files: this.#files };
  }

  /** The residual stream that what is at a hook point is added to; see hook-point.ts. */
  residualBefore(name: string): string | null {
    return residualBefore(name, this.#spec);
  }

  /** The hook point of the residual stream that the final norm sees. */
  lastResidual(): string {
    return lastResidual(this.#spec);
  }

  /** xxh64 of the weights' bytes (of the shards' hashes in name order, if there are several); another one as int8. */
  async weightsHash(): Promise<string> {
    const hash = await this.#checkpointHash();
    if (this.#options.weights !== "int8") return hash;
    return hashBytes(new TextEncoder().encode(`${hash} ${QUANTIZATION}`));
  }

  async #checkpointHash(): Promise<string> {
    const hashes: string[] = [];
    for (const file of this.#files) hashes.push(await hashOnce(file));
    if (hashes.length === 1) return hashes[0];
    return hashBytes(new TextEncoder().encode(hashes.join("")));
  }

  /**
   * Runs the model on [batch, length] tokens and returns what is asked for; layers that nothing
   * asked for depends on are not run. Throws UserError for token ids, lengths, hook points or
   * patches that do not fit the model.
   */
  async forward(options: ForwardOptions): Promise<ForwardResult> {
    const { batch, length, capture = [], patch = {}, logits } = options;
    this.checkTokens(options.tokens, batch, length);
    if (options.loss) this.requireNextTokens("losses");
    if (logits === "last") this.requireNextTokens("logits after a text");
    if (logits && !this.#predicts())
      throw new UserError(
        `${this.info.source} has no logits: its weights lack the part that predicts masked tokens. Use a checkpoint for masked language modelling.`,
      );
    const loss = options.loss === true && length > 1;
    const result: ForwardResult = { activations: {} };
    if (options.loss) result.loss = new Float32Array(0);
    for (const name of capture) hookShape(name, this.#spec, batch, length);

    const { Tensor } = await loadOrt();
    const feeds: Record<string, Ort.Tensor> = {
      tokens: new Tensor("int32", options.tokens, [batch, length]),
    };
    const lengths = this.info.isEncoder && options.lengths !== undefined;
    if (options.lengths) checkLengths(options.lengths, batch, length);
    if (lengths) {
      const own = BigInt64Array.from(options.lengths!, BigInt);
      feeds["lengths"] = new Tensor("int64", own, [batch]);
    }
    for (const [name, values] of Object.entries(patch)) {
      const shape = hookShape(name, this.#spec, batch, length);
      if (values.length !== shape.reduce((a, b) => a * b)) {
        const axes = shape.length === 3 ? "length, width" : "head, query, key";
        throw new UserError(
          `the patch of ${name} has ${values.length} values; [batch, ${axes}] = ` +
            `[${shape.join(", ")}] was expected.`,
        );
      }
      feeds[`patch.${name}`] = new Tensor("float32", values, shape);
    }
    if (capture.length === 0 && !logits && !loss) return result;

    const queryBlocks = Math.max(1, Math.min(MAX_BLOCKS, Math.floor(length / BLOCK)));
    const request = { capture, patch: Object.keys(patch), logits, loss, lengths, queryBlocks };
    const outputs = await this.run(request, feeds);
    for (const name of capture) result.activations[name] = outputs[name].data as Float32Array;
    if (logits) result.logits = outputs["logits"].data as Float32Array;
    if (loss) result.loss = outputs["loss"].data as Float32Array;
    return result;
  }

  /**
   * For what is meaningless of an encoder, which fills in masked tokens; `what` it is, in the plural.
   * @throws UserError unless the model predicts the next token.
   */
  requireNextTokens(what: string): void {
    if (!this.info.isEncoder) return;
    throw new UserError(
      `${this.info.source} is an encoder (${this.info.family}): it predicts masked tokens, not the next one, ` +
        `so it has no ${what}. Use a causal model, such as GPT-2, for that.`,
    );
  }

  #predicts(): boolean {
    return !this.info.isEncoder || this.#weights.tensors.has("headDense.weight");
  }

  /** Throws UserError unless `tokens` are [batch, length] ids that the model can read. */
  checkTokens(tokens: Int32Array, batch: number, length: number): void {
    const { vocabSize, contextLength } = this.info;
    if (!(batch >= 1 && length >= 1) || tokens.length !== batch * length) {
      throw new UserError(
        `${tokens.length} tokens were given for ${batch} rows of ${length}: give at least one token, ` +
          "and rows of one length.",
      );
    }
    if (length > contextLength) {
      throw new UserError(
        `rows of ${length} tokens are longer than the model's context of ${contextLength}: split them.`,
      );
    }
    const bad = tokens.findIndex((id) => id < 0 || id >= vocabSize);
    if (bad !== -1) {
      throw new UserError(
        `token ${tokens[bad]} at row ${Math.floor(bad / length)}, position ${bad % length} is not ` +
          `below the model's vocabulary size of ${vocabSize}: were these tokens made by another tokenizer?`,
      );
    }
  }

  /**
   * Runs the graph of `request` on raw inputs (see `buildGraph` for their names) and returns its
   * raw outputs. For the layers above `forward`: generation keeps its cache in such tensors.
   */
  async run(
    request: GraphRequest,
    feeds: Record<string, Ort.Tensor>,
  ): Promise<Record<string, Ort.Tensor>> {
    if (this.#closed) throw new Error("the model is closed");
    const entry = this.#open(request);
    entry.busy++;
    try {
      return await (await entry.session).run(feeds);
    } finally {
      entry.busy--;
      await this.#releaseOld();
    }
  }

  /** Frees the runtime's memory. The model cannot be used afterwards. */
  async close(): Promise<void> {
    this.#closed = true;
    await this.#releaseOld();
  }

  #open(request: GraphRequest): OpenSession {
    const { threads, device } = this.#options;
    const attention = device === "webgpu" ? "plain" : this.#options.attention;
    const capture = [...new Set(request.capture)].sort();
    const patch = [...new Set(request.patch)].sort();
    const whole: GraphRequest = { attention, ...request, capture, patch };
    const { logits, loss, cache, lengths, queryBlocks } = whole;
    const asked = [capture, patch, logits, loss, cache, lengths, queryBlocks, whole.attention];
    const key = JSON.stringify(asked);
    const known = this.#sessions.get(key);
    if (known) {
      this.#sessions.delete(key); // and set again: the most recently used is last
      this.#sessions.set(key, known);
      return known;
    }
    const create = async () => {
      const weights = await this.#graphWeights();
      const integers = [...(weights.quantized?.values() ?? [])].slice(0, 1).map(({ file }) => file);
      const { folder, locate } = locations([...this.#files, ...integers]);
      const ort = await loadOrt();
      const graph = buildGraph(this.#spec, weights, whole, locate);
      const onCpu = sessionOptions({ threads, externalFolder: folder });
      if (device !== "webgpu") return ort.InferenceSession.create(graph, onCpu);
      return createOnGpu(graph, onCpu, probeInputs(this.#spec, whole));
    };
    const entry = { session: create(), busy: 0 };
    this.#sessions.set(key, entry);
    entry.session.catch(() => this.#sessions.delete(key)); // the next one to ask may have more luck
    return entry;
  }

  /** The weights that graphs compute with: quantised when first used. */
  async #graphWeights(): Promise<Weights> {
    if (this.#options.weights !== "int8") return this.#weights;
    if (!this.#quantized) {
      const made = async () => quantizedWeights(this.#weights, this.#files, await this.#checkpointHash()); // prettier-ignore
      this.#quantized = made();
      this.#quantized.catch(() => (this.#quantized = undefined)); // the next one to ask may have more luck
    }
    return { ...this.#weights, quantized: await this.#quantized };
  }

  /** Releases the least recently used idle sessions beyond the limit, or all idle ones once closed. */
  async #releaseOld(): Promise<void> {
    const limit = this.#closed ? 0 : MAX_SESSIONS;
    for (const [key, entry] of [...this.#sessions]) {
      if (this.#sessions.size <= limit) return;
      // Another run may have released it while this one waited.
      if (entry.busy > 0 || this.#sessions.get(key) !== entry) continue;
      this.#sessions.delete(key);
      await (await entry.session).release();
    }
  }
}

/**
 * Loads a model. `source`: "builtin:tiny", a folder in Hugging Face layout, or where there is no such
 * folder a model of the Hugging Face hub, `owner/name` or `owner/name@revision`, which is fetched
 * into its cache first (see hub.ts). Reads the configuration, the tokenizer and the weights' headers; the
 * weights are read when first used.
 * Throws UserError, naming file and field, for anything missing, damaged or not supported.
 */
export async function loadModel(source: string, options: LoadOptions = {}): Promise<Model> {
  if (options.device === "webgpu" && options.weights === "int8")
    throw new UserError("int8 weights are for the CPU: WebGPU has no operator for them. Leave out one of the two."); // prettier-ignore
  const folder = await modelFolder(source, options);
  const spec = readSpec(await readJson(join(folder, "config.json")), join(folder, "config.json"));
  const checkpoint = await openCheckpoint(folder);
  let weights: Weights;
  try {
    weights = bindWeights(spec, checkpoint);
  } finally {
    await checkpoint.close();
  }

  const { bosId, eosId } = spec;
  const tokenizer = await loadTokenizer(folder, { bosId, eosId });
  if (tokenizer.vocabSize > spec.vocabSize) {
    throw new UserError(
      `${folder}: the tokenizer has ${tokenizer.vocabSize} tokens, but the model's vocab_size is ` +
        `${spec.vocabSize}. tokenizer.json and config.json are not of one model.`,
    );
  }
  let parameters = 0;
  for (const { shape } of weights.tensors.values()) parameters += shape.reduce((a, b) => a * b, 1);
  const { layers, dModel, heads, kvHeads, dHead, dMlp, modelType } = spec;
  const { isParallel, isGated, isRotary, isEncoder, vocabSize, contextLength } = spec;
  const form = { isParallel, isGated, isRotary, isEncoder };
  const sizes = { layers, dModel, heads, kvHeads, dHead, dMlp, ...form, vocabSize, contextLength };
  const info = { source, folder, family: modelType, ...sizes, parameters };
  const files = checkpoint.files;
  return new Model(info, tokenizer, { spec, weights, files, options });
}

function checkLengths(lengths: Int32Array, batch: number, length: number): void {
  const bad = lengths.find((one) => one < 1 || one > length);
  if (lengths.length === batch && bad === undefined) return;
  throw new UserError(
    `lengths must have one number from 1 to ${length} for each of ${batch} rows; ` +
      (bad === undefined ? `got ${lengths.length}.` : `got ${bad}.`),
  );
}

/** The nearest folder that holds all `files`, and each file's path from there. */
function locations(files: readonly string[]): { folder: string; locate: (file: string) => string } {
  let folder = dirname(files[0]);
  const holds = (file: string) => !relative(folder, file).startsWith("..");
  while (!files.every(holds)) {
    if (dirname(folder) === folder)
      throw new UserError(`${files.join(", ")} are not on one drive: set XDG_CACHE_HOME to a folder on the model's.`); // prettier-ignore
    folder = dirname(folder);
  }
  return { folder, locate: (file) => relative(folder, file).replaceAll(sep, "/") };
}

const hashes = new Map<string, Promise<string>>();

/** `hashFile`, once per process for each state of the file. */
async function hashOnce(file: string): Promise<string> {
  const { size, mtimeMs } = await stat(file);
  const key = `${file}:${size}:${mtimeMs}`;
  let hash = hashes.get(key);
  if (!hash) {
    hash = hashFile(file);
    hashes.set(key, hash);
    hash.catch(() => hashes.delete(key));
  }
  return hash;
}
