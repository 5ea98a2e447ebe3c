/**
 * A transformer's spec and weights → an ONNX graph that computes exactly what is asked for:
 * values at hook points, logits, losses, with any hook point's value replaced from outside. The
 * graph is described whole; `OnnxGraph` writes only the nodes that an output needs, so layers past
 * the last capture are never built, and tensors nobody reads are never loaded.
 *
 * The residual stream is kept as [batch · position, dModel], so that linear layers are one Gemm
 * with bias; values get their batch dimension back at the hook points.
 */
import type { OnnxType } from "../onnx.ts";
import { OnnxGraph } from "../onnx.ts";
import type { TensorInfo, TensorType } from "../safetensors.ts";
import { hookPoints, hookWidth } from "./hook-point.ts";
import type { Activation, Rotation, Spec } from "./spec.ts";
import type { Weights } from "./weights.ts";

export interface GraphRequest {
  /** Hook points whose values [batch, position, width] become outputs of that name. */
  capture?: readonly string[];
  /** Hook points whose values are replaced by the inputs `patch.<hook point>`, of the same shape. */
  patch?: readonly string[];
  /** Output `logits`: [batch, position, vocabulary], or [batch, 1, vocabulary] for the last position. */
  logits?: "all" | "last";
  /** Output `loss` [batch, position − 1]: −log p(next token), in nats, at each position but the last. */
  loss?: boolean;
  /**
   * Keys and values of earlier positions as inputs `past.<layer>.key|value`
   * [batch, kvHeads, past, dHead], and with the new ones as outputs `present.<layer>.key|value`, of
   * layers from … to-1: all that the other outputs depend on must be among them.
   */
  cache?: { from: number; to: number };
  /**
   * `onnx` (default): the Attention operator of opset 23. `plain`: MatMul and Softmax, for devices
   * that have no kernel for the operator. The same numbers up to rounding.
   */
  attention?: "onnx" | "plain";
}

/** Where ONNX Runtime finds a checkpoint's file, relative to the session's external folder. */
export type Locate = (file: string) => string;

const ONNX_TYPES: Partial<Record<TensorType, OnnxType>> = {
  F32: "float32",
  F16: "float16",
  BF16: "bfloat16",
};
const FLOAT = 1; // TensorProto.FLOAT, for Cast

/** The graph as ONNX bytes. Input `tokens`: int32 [batch, position]. */
export function buildGraph(
  spec: Spec,
  weights: Weights,
  request: GraphRequest,
  locate: Locate,
): Uint8Array<ArrayBuffer> {
  return new Builder(spec, weights, request, locate).build();
}

class Builder {
  readonly #graph = new OnnxGraph();
  readonly #spec: Spec;
  readonly #weights: Weights;
  readonly #request: GraphRequest;
  readonly #locate: Locate;
  readonly #capture: ReadonlySet<string>;
  readonly #patch: ReadonlySet<string>;
  /** Values made once and used in many places, by what they are. */
  readonly #shared = new Map<string, string>();

  constructor(spec: Spec, weights: Weights, request: GraphRequest, locate: Locate) {
    this.#spec = spec;
    this.#weights = weights;
    this.#request = request;
    this.#locate = locate;
    this.#capture = new Set(request.capture);
    this.#patch = new Set(request.patch);
  }

  build(): Uint8Array<ArrayBuffer> {
    const graph = this.#graph;
    const spec = this.#spec;
    graph.input("tokens", "int32", ["batch", "position"]);
    for (const name of hookPoints(spec)) {
      const shape = ["batch", "position", hookWidth(name, spec)];
      if (this.#patch.has(name)) graph.input(`patch.${name}`, "float32", shape);
      if (this.#capture.has(name)) graph.output(name, "float32", shape);
    }

    let residual = this.#embed();
    for (let layer = 0; layer < spec.layers; layer++) residual = this.#block(layer, residual);
    this.#head(residual);
    return graph.encode();
  }

  /** tokens → [batch · position, dModel]. */
  #embed(): string {
    const graph = this.#graph;
    const { dModel } = this.#spec;
    // Rows are gathered before they are widened: casting the whole table would copy it.
    const rows = graph.op("Gather", [this.#stored("embedding.weight"), "tokens"]);
    const scaled = this.#times(this.#widened("embedding", rows), this.#spec.embeddingScale);
    const embedded = this.#hook("hook_embed", this.#flat(scaled, dModel));
    const { positions } = this.#spec;
    if (positions.kind === "rotary") return embedded;
    const bounds = [this.#pastLength(), this.#totalLength()].map((length) =>
      positions.offset === 0 ? length : graph.op("Add", [length, graph.int64(positions.offset)]),
    );
    const table = this.#stored("positions.weight");
    const added = this.#widened("positions", graph.op("Slice", [table, ...bounds, graph.int64(0)]));
    return this.#flat(graph.op("Add", [this.#unflat(embedded, dModel), added]), dModel);
  }

  #block(layer: number, x: string): string {
    const graph = this.#graph;
    const { isParallel, hasPostNorms } = this.#spec;
    const at = `blocks.${layer}`;
    const pre = this.#hook(`${at}.hook_resid_pre`, x);
    const added = (name: string, norm: string, value: string) =>
      this.#hook(`${at}.${name}`, hasPostNorms ? this.#norm(`${at}.${norm}`, value) : value);

    const z = this.#attention(layer, this.#norm(`${at}.norm1`, pre));
    const projected = this.#linear(`${at}.attentionOut`, this.#hook(`${at}.attn.hook_z`, z));
    const attentionOut = added("hook_attn_out", "postNorm1", projected);
    const sum = graph.op("Add", [pre, attentionOut]);
    const mid = isParallel ? sum : this.#hook(`${at}.hook_resid_mid`, sum);

    const read = this.#norm(`${at}.norm2`, isParallel ? pre : mid);
    const post = this.#hook(`${at}.mlp.hook_post`, this.#hidden(at, read));
    const mlpOut = added("hook_mlp_out", "postNorm2", this.#linear(`${at}.mlpOut`, post));
    return this.#hook(`${at}.hook_resid_post`, graph.op("Add", [mid, mlpOut]));
  }

  /** The hidden layer of an MLP, behind its activation. */
  #hidden(at: string, x: string): string {
    const up = this.#linear(`${at}.mlpIn`, x);
    if (!this.#spec.isGated) return this.#activation(up);
    return this.#graph.op("Mul", [this.#activation(this.#linear(`${at}.gate`, x)), up]);
  }

  /** Causal multi-head attention: normalised residual [rows, dModel] → z [rows, heads · dHead]. */
  #attention(layer: number, x: string): string {
    const graph = this.#graph;
    const { heads, dHead, attentionScale, hasQkNorms, positions } = this.#spec;
    const rotation = positions.kind === "rotary" ? positions.layers[layer] : null;
    const [query, key, value] = this.#queriesKeysValues(layer, x);
    const placed = (name: string, x: string) => {
      const normed = hasQkNorms ? this.#norm(`blocks.${layer}.${name}`, x) : x;
      const byHead = this.#byHead(normed);
      return rotation ? this.#turned(byHead, rotation) : byHead;
    };
    const q = placed("queryNorm", query);
    const k = placed("keyNorm", key);
    const v = this.#byHead(value);
    const scale = attentionScale[layer];
    const z =
      this.#request.attention === "plain"
        ? this.#plainAttention(layer, q, k, v, scale)
        : this.#onnxAttention(layer, q, k, v, scale);
    return this.#flat(graph.op("Transpose", [z], { perm: [0, 2, 1, 3] }), heads * dHead);
  }

  /** Each [batch, position, head, dHead]. */
  #queriesKeysValues(layer: number, x: string): string[] {
    const graph = this.#graph;
    const { heads, kvHeads, dHead, qkv } = this.#spec;
    const at = `blocks.${layer}`;
    const split = (x: string, sizes: string) =>
      graph.ops("Split", [x, sizes], { axis: -1 }, { outputs: 3 });
    const shaped = (x: string, count: number) =>
      graph.op("Reshape", [x, this.#shape(count, dHead)]);
    switch (qkv) {
      case "apart":
        return [
          shaped(this.#linear(`${at}.query`, x), heads),
          shaped(this.#linear(`${at}.key`, x), kvHeads),
          shaped(this.#linear(`${at}.value`, x), kvHeads),
        ];
      case "joined": {
        const width = heads * dHead;
        const parts = split(this.#linear(`${at}.qkv`, x), graph.int64(width, width, width));
        return parts.map((part) => shaped(part, heads));
      }
      case "joinedByHead": {
        const all = this.#linear(`${at}.qkv`, x);
        const byHead = graph.op("Reshape", [all, this.#shape(heads, 3 * dHead)]);
        return split(byHead, graph.int64(dHead, dHead, dHead));
      }
      default:
        return qkv satisfies never;
    }
  }

  /** [batch, position, head, dHead] → [batch, head, position, dHead]. */
  #byHead(x: string): string {
    return this.#graph.op("Transpose", [x], { perm: [0, 2, 1, 3] });
  }

  /** Queries or keys [batch, head, position, dHead], turned by their positions. */
  #turned(x: string, { dim, inverse }: Rotation): string {
    const graph = this.#graph;
    // Told apart by what they are: layers share them.
    const key = `turn ${inverse.join()}`;
    const angles = this.#once(key, () => {
      const row = graph.initializer(key, "float32", [1, dim / 2], inverse);
      const column = graph.op("Unsqueeze", [this.#queryPositions(), graph.int64(1)]);
      return graph.op("Mul", [graph.op("Cast", [column], { to: FLOAT }), row]);
    });
    const [cosines, sines] = ["Cos", "Sin"].map((op) =>
      this.#once(`${op} ${key}`, () => graph.op(op, [angles])),
    );
    const rows = this.#once("rows of the turn", () => {
      const tokens = this.#once("shape of tokens", () => graph.op("Shape", ["tokens"]));
      const length = this.#scalar(this.#length());
      const range = graph.op("Range", [graph.int64Scalar(0), length, graph.int64Scalar(1)]);
      return graph.op("Expand", [graph.op("Unsqueeze", [range, graph.int64(0)]), tokens]);
    });
    const partial = dim === this.#spec.dHead ? {} : { rotary_embedding_dim: dim };
    return graph.op("RotaryEmbedding", [x, cosines, sines, rows], partial);
  }

  #onnxAttention(layer: number, q: string, k: string, v: string, scale: number): string {
    const graph = this.#graph;
    const { windows, scoreCap } = this.#spec;
    const cap = scoreCap === null ? {} : { softcap: { float: scoreCap } };
    const attributes = { scale: { float: scale }, ...cap };
    if (!this.#isCached(layer)) {
      if (windows[layer] === null)
        return graph.op("Attention", [q, k, v], { ...attributes, is_causal: 1 });
      return graph.op("Attention", [q, k, v, this.#mask(windows[layer])], attributes);
    }
    const past = this.#pastOf(layer);
    const present = this.#presentOf(layer);
    const inputs = [q, k, v, this.#mask(windows[layer]), past.key, past.value];
    const outputs = [`blocks.${layer}.attention`, present.key, present.value];
    return graph.ops("Attention", inputs, attributes, { outputs })[0];
  }

  #plainAttention(layer: number, q: string, k: string, v: string, scale: number): string {
    const graph = this.#graph;
    const { heads, kvHeads, dHead, scoreCap, windows } = this.#spec;
    if (this.#isCached(layer)) {
      const past = this.#pastOf(layer);
      const present = this.#presentOf(layer);
      k = graph.op("Concat", [past.key, k], { axis: 2 }, { name: present.key });
      v = graph.op("Concat", [past.value, v], { axis: 2 }, { name: present.value });
    }
    // Queries that share keys and values become rows of one product: [batch, kvHead, share · position, …].
    const share = heads / kvHeads;
    const [length, total] = [this.#length(), this.#totalLength()];
    const shape = (...sizes: string[]) =>
      graph.op("Concat", [this.#batch(), ...sizes], { axis: 0 });
    const grouped = (x: string) =>
      share === 1 ? x : graph.op("Reshape", [x, shape(graph.int64(kvHeads, -1, dHead))]);
    const apart = (x: string, last: string) =>
      share === 1 ? x : graph.op("Reshape", [x, shape(graph.int64(heads), length, last)]);
    const keys = graph.op("Transpose", [k], { perm: [0, 1, 3, 2] });
    const products = graph.op("MatMul", [grouped(this.#times(q, scale)), keys]);
    const scores = this.#capped(apart(products, total), scoreCap);
    const window = windows[layer];
    const hidden = this.#once(`additive mask ${window}`, () =>
      graph.op("Where", [this.#mask(window), graph.floatScalar(0), graph.floatScalar(-Infinity)]),
    );
    const pattern = graph.op("Softmax", [graph.op("Add", [scores, hidden])], { axis: -1 });
    const rows = share === 1 ? pattern : graph.op("Reshape", [pattern, shape(graph.int64(kvHeads, -1), total)]); // prettier-ignore
    return apart(graph.op("MatMul", [rows, v]), graph.int64(dHead));
  }

  /** Boolean [position, past + position]: may the query see the key? */
  #mask(window: number | null): string {
    const graph = this.#graph;
    return this.#once(`mask ${window}`, () => {
      const keys = graph.op("Range", [
        ...[graph.int64Scalar(0), this.#scalar(this.#totalLength()), graph.int64Scalar(1)],
      ]);
      const column = graph.op("Unsqueeze", [this.#queryPositions(), graph.int64(1)]);
      const back = graph.op("Sub", [column, graph.op("Unsqueeze", [keys, graph.int64(0)])]);
      const isPast = graph.op("GreaterOrEqual", [back, graph.int64Scalar(0)]);
      if (window === null) return isPast;
      return graph.op("And", [isPast, graph.op("Less", [back, graph.int64Scalar(window)])]);
    });
  }

  /** Positions of the tokens, those in the cache before them, as int64 [position]. */
  #queryPositions(): string {
    const graph = this.#graph;
    return this.#once("query positions", () =>
      graph.op("Range", [
        this.#scalar(this.#pastLength()),
        this.#scalar(this.#totalLength()),
        graph.int64Scalar(1),
      ]),
    );
  }

  #scalar(vector: string): string {
    return this.#graph.op("Squeeze", [vector, this.#graph.int64(0)]);
  }

  #times(x: string, factor: number): string {
    return factor === 1 ? x : this.#graph.op("Mul", [x, this.#graph.floatScalar(factor)]);
  }

  /** cap · tanh(x / cap) */
  #capped(x: string, cap: number | null): string {
    if (cap === null) return x;
    return this.#times(this.#graph.op("Tanh", [this.#times(x, 1 / cap)]), cap);
  }

  /** Final norm and unembedding, for the positions that are asked for. */
  #head(residual: string): void {
    const graph = this.#graph;
    const { logits, loss } = this.#request;
    const { dModel, vocabSize } = this.#spec;
    const unembed = (rows: string) => {
      const normed = this.#norm("finalNorm", rows);
      const name = this.#weights.tensors.has("unembedding.weight") ? "unembedding" : "embedding";
      const logits = graph.op("Gemm", [normed, this.#float(`${name}.weight`)], { transB: 1 });
      return this.#capped(logits, this.#spec.logitCap);
    };
    const positions = (from: number, to: number) => {
      const bounds = [graph.int64(from), graph.int64(to), graph.int64(1)];
      const chosen = graph.op("Slice", [this.#unflat(residual, dModel), ...bounds]);
      return this.#flat(chosen, dModel);
    };
    /** [batch · n, vocabulary] → [batch, n, vocabulary]. */
    const byBatch = (rows: string, name?: string) => {
      const shape = graph.op("Concat", [this.#batch(), graph.int64(-1, vocabSize)], { axis: 0 });
      return graph.op("Reshape", [rows, shape], {}, { name });
    };

    let predictions: string | undefined; // logits at every position but the last
    if (logits === "all") {
      byBatch(unembed(residual), "logits");
      predictions = graph.op("Slice", [
        ...["logits", graph.int64(0), graph.int64(-1), graph.int64(1)],
      ]);
    } else if (logits === "last") {
      byBatch(unembed(positions(-1, END)), "logits");
    }
    if (logits) graph.output("logits", "float32", ["batch", "scored", vocabSize]);
    if (!loss) return;

    // −log p(next) = log Σ exp(logits) − logit of the next token
    predictions ??= byBatch(unembed(positions(0, -1)));
    const next = graph.op("Slice", [
      ...["tokens", graph.int64(1), graph.int64(END), graph.int64(1)],
    ]);
    const index = graph.op("Unsqueeze", [next, graph.int64(-1)]);
    const logProbabilities = graph.op("LogSoftmax", [predictions], { axis: -1 });
    const gathered = graph.op("GatherElements", [logProbabilities, index], { axis: -1 });
    const nll = graph.op("Neg", [graph.op("Squeeze", [gathered, graph.int64(-1)])]);
    graph.op("Identity", [nll], {}, { name: "loss" });
    graph.output("loss", "float32", ["batch", "predicted"]);
  }

  /** Over the last axis. */
  #norm(name: string, x: string): string {
    const { kind, epsilon, isPlusOne } = this.#spec.norm;
    const stored = this.#float(`${name}.weight`);
    const gain = isPlusOne
      ? this.#once(`${name} gain`, () =>
          this.#graph.op("Add", [stored, this.#graph.floatScalar(1)]),
        )
      : stored;
    const attributes = { axis: -1, epsilon: { float: epsilon } };
    switch (kind) {
      case "layerNorm":
        return this.#graph.op("LayerNormalization", [x, gain, this.#float(`${name}.bias`)], attributes); // prettier-ignore
      case "rmsNorm":
        return this.#graph.op("RMSNormalization", [x, gain], attributes);
      default:
        return kind satisfies never;
    }
  }

  #linear(name: string, x: string): string {
    const inputs = [x, this.#float(`${name}.weight`)];
    if (this.#weights.tensors.has(`${name}.bias`)) inputs.push(this.#float(`${name}.bias`));
    return this.#graph.op("Gemm", inputs, this.#weights.linear === "outIn" ? { transB: 1 } : {});
  }

  #activation(x: string): string {
    const graph = this.#graph;
    const activation: Activation = this.#spec.activation;
    switch (activation) {
      case "geluTanh":
        return graph.op("Gelu", [x], { approximate: "tanh" });
      case "geluErf":
        return graph.op("Gelu", [x]);
      case "relu":
        return graph.op("Relu", [x]);
      case "silu":
        return graph.op("Mul", [x, graph.op("Sigmoid", [x])]);
      default:
        return activation satisfies never;
    }
  }

  /** A hook point: `x` [rows, width] or its replacement goes on, and out if it is wanted. */
  #hook(name: string, x: string): string {
    const width = hookWidth(name, this.#spec);
    const value = this.#patch.has(name) ? this.#flat(`patch.${name}`, width) : x;
    if (this.#capture.has(name)) this.#unflat(value, width, name);
    return value;
  }

  /** A tensor of the checkpoint as it is stored. */
  #stored(name: string): string {
    return this.#once(name, () => {
      const info = this.#info(name);
      const { dtype, shape, file, offset, length } = info;
      const location = this.#locate(file);
      return this.#graph.external(name, ONNX_TYPES[dtype]!, shape, { location, offset, length });
    });
  }

  /** A tensor of the checkpoint as float32 (16-bit ones are widened once, when the session opens). */
  #float(name: string): string {
    return this.#once(`${name} as float32`, () => {
      const stored = this.#stored(name);
      if (this.#info(name).dtype === "F32") return stored;
      return this.#graph.op("Cast", [stored], { to: FLOAT });
    });
  }

  /** `x`, rows of the table `name`, as float32. */
  #widened(name: string, x: string): string {
    if (this.#info(`${name}.weight`).dtype === "F32") return x;
    return this.#graph.op("Cast", [x], { to: FLOAT });
  }

  #info(name: string): TensorInfo {
    const info = this.#weights.tensors.get(name);
    if (!info) throw new Error(`the graph needs ${name}, which is not bound`);
    return info;
  }

  /** [batch, position, …] → [batch · position, width]. */
  #flat(x: string, width: number): string {
    return this.#graph.op("Reshape", [x, this.#graph.int64(-1, width)]);
  }

  /** [batch · position, width] → [batch, position, width]. */
  #unflat(x: string, width: number, name?: string): string {
    return this.#graph.op("Reshape", [x, this.#shape(width)], {}, { name });
  }

  /** The shape [batch, position, ...sizes]. */
  #shape(...sizes: number[]): string {
    const graph = this.#graph;
    const tokens = this.#once("shape of tokens", () => graph.op("Shape", ["tokens"]));
    return this.#once(`shape ${sizes.join()}`, () =>
      graph.op("Concat", [tokens, graph.int64(...sizes)], { axis: 0 }),
    );
  }

  /** The batch size, as [1]. */
  #batch(): string {
    return this.#once("batch", () => this.#graph.op("Shape", ["tokens"], { start: 0, end: 1 }));
  }

  #isCached(layer: number): boolean {
    const { cache } = this.#request;
    return cache !== undefined && cache.from <= layer && layer < cache.to;
  }

  /** Number of positions in the cache, as [1]. */
  #pastLength(): string {
    const graph = this.#graph;
    const { cache } = this.#request;
    if (!cache || cache.from === cache.to) return graph.int64(0);
    const { key } = this.#pastOf(cache.from);
    return this.#once("past length", () => graph.op("Shape", [key], { start: 2, end: 3 }));
  }

  /** Number of positions in the cache and in `tokens` together, as [1]. */
  #totalLength(): string {
    const graph = this.#graph;
    return this.#once("total length", () => graph.op("Add", [this.#pastLength(), this.#length()]));
  }

  /** Number of positions in `tokens`, as [1]. */
  #length(): string {
    return this.#once("length", () => this.#graph.op("Shape", ["tokens"], { start: 1, end: 2 }));
  }

  #pastOf(layer: number): { key: string; value: string } {
    const { kvHeads, dHead } = this.#spec;
    const [key, value] = ["key", "value"].map((part) =>
      this.#once(`past.${layer}.${part}`, () => {
        const shape = ["batch", kvHeads, "past", dHead];
        return this.#graph.input(`past.${layer}.${part}`, "float32", shape);
      }),
    );
    return { key, value };
  }

  #presentOf(layer: number): { key: string; value: string } {
    const { kvHeads, dHead } = this.#spec;
    const [key, value] = ["key", "value"].map((part) => {
      const shape = ["batch", kvHeads, "total", dHead];
      return this.#graph.output(`present.${layer}.${part}`, "float32", shape);
    });
    return { key, value };
  }

  #once(key: string, make: () => string): string {
    let name = this.#shared.get(key);
    if (name === undefined) this.#shared.set(key, (name = make()));
    return name;
  }
}

/** "To the end" as a bound of Slice. */
const END = 2 ** 31 - 1;
