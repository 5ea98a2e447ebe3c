/**
 * The pieces that a transformer's graph is put together from: tensors of the checkpoint, shapes, hook
 * points, norms, linear layers, masks, and what is kept of earlier positions. Values that many places
 * use are made once.
 */
import { OnnxGraph, type OnnxType } from "../onnx.ts";
import type { TensorInfo, TensorType } from "../safetensors.ts";
import { hookWidth } from "./hook-point.ts";
import { type QuantizedTensor, ZERO_POINT } from "./quantize.ts";
import type { Activation, Spec } from "./spec.ts";
import type { Weights } from "./weights.ts";

export interface GraphRequest {
  /** Hook points whose values, of the shape that `hookShape` says, become outputs of that name. */
  capture?: readonly string[];
  /** Hook points whose values are replaced by the inputs `patch.<hook point>`, of the same shape. */
  patch?: readonly string[];
  /** Output `logits`: [batch, position, vocabulary], or [batch, 1, vocabulary] for the last position. */
  logits?: "all" | "last";
  /** Output `loss` [batch, position − 1]: −log p(next token), in nats, at each position but the last. */
  loss?: boolean;
  /** An encoder's input `lengths`: positions of each row from there on are seen by none. */
  lengths?: boolean;
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
/** TensorProto.FLOAT, for Cast. */
export const CAST_FLOAT = 1;
/** What a row of zeros is divided by. */
const SMALLEST = 1e-30;
/** Size of the pieces of a big table, as float32. */
const PIECE_BYTES = 2 ** 28;

export class GraphParts {
  readonly graph = new OnnxGraph();
  readonly spec: Spec;
  readonly weights: Weights;
  readonly request: GraphRequest;
  readonly locate: Locate;
  readonly capture: ReadonlySet<string>;
  readonly patch: ReadonlySet<string>;
  /** Values made once and used in many places, by what they are. */
  readonly shared = new Map<string, string>();

  constructor(spec: Spec, weights: Weights, request: GraphRequest, locate: Locate) {
    this.spec = spec;
    this.weights = weights;
    this.request = request;
    this.locate = locate;
    this.capture = new Set(request.capture);
    this.patch = new Set(request.patch);
  }

  /** Boolean [position, past + position]: may the query see the key? */
  mask(window: number | null): string {
    const graph = this.graph;
    return this.once(`mask ${window}`, () => {
      const keys = graph.op("Range", [
        ...[graph.int64Scalar(0), this.scalar(this.totalLength()), graph.int64Scalar(1)],
      ]);
      const column = graph.op("Unsqueeze", [this.queryPositions(), graph.int64(1)]);
      const back = graph.op("Sub", [column, graph.op("Unsqueeze", [keys, graph.int64(0)])]);
      const isPast = graph.op("GreaterOrEqual", [back, graph.int64Scalar(0)]);
      if (window === null) return isPast;
      return graph.op("And", [isPast, graph.op("Less", [back, graph.int64Scalar(window)])]);
    });
  }

  /** Positions of the tokens, those in the cache before them, as int64 [position]. */
  queryPositions(): string {
    const graph = this.graph;
    return this.once("query positions", () =>
      graph.op("Range", [
        this.scalar(this.pastLength()),
        this.scalar(this.totalLength()),
        graph.int64Scalar(1),
      ]),
    );
  }

  scalar(vector: string): string {
    return this.graph.op("Squeeze", [vector, this.graph.int64(0)]);
  }

  times(x: string, factor: number): string {
    return factor === 1 ? x : this.graph.op("Mul", [x, this.graph.floatScalar(factor)]);
  }

  /** cap · tanh(x / cap) */
  capped(x: string, cap: number | null): string {
    if (cap === null) return x;
    return this.times(this.graph.op("Tanh", [this.times(x, 1 / cap)]), cap);
  }

  /** Over the last axis. `point`: where its hook points are, such as `blocks.0.ln1`. */
  norm(name: string, x: string, point?: string): string {
    const { kind, epsilon, isPlusOne } = this.spec.norm;
    const stored = this.float(`${name}.weight`);
    const gain = isPlusOne
      ? this.once(`${name} gain`, () => this.graph.op("Add", [stored, this.graph.floatScalar(1)]))
      : stored;
    if (point !== undefined) {
      const names = [`${point}.hook_scale`, `${point}.hook_normalized`];
      if (names.some((one) => this.capture.has(one) || this.patch.has(one))) {
        const normalized = this.#normalized(point, x);
        // Unless something is replaced, the operator's own result goes on: reading changes nothing.
        if (names.some((one) => this.patch.has(one))) {
          const scaled = this.graph.op("Mul", [normalized, gain]);
          return kind === "rmsNorm" ? scaled : this.graph.op("Add", [scaled, this.float(`${name}.bias`)]); // prettier-ignore
        }
      }
    }
    const attributes = { axis: -1, epsilon: { float: epsilon } };
    switch (kind) {
      case "layerNorm":
        return this.graph.op("LayerNormalization", [x, gain, this.float(`${name}.bias`)], attributes); // prettier-ignore
      case "rmsNorm":
        return this.graph.op("RMSNormalization", [x, gain], attributes);
      default:
        return kind satisfies never;
    }
  }

  /** What a norm makes of x [rows, dModel] before gain and bias, step by step, with its hook points. */
  #normalized(point: string, x: string): string {
    const graph = this.graph;
    const { kind, epsilon } = this.spec.norm;
    const mean = (x: string) => graph.op("ReduceMean", [x, graph.int64(-1)]);
    const centred = kind === "layerNorm" ? graph.op("Sub", [x, mean(x)]) : x;
    const square = mean(graph.op("Mul", [centred, centred]));
    const deviation = graph.op("Sqrt", [graph.op("Add", [square, graph.floatScalar(epsilon)])]);
    const scale = this.hook(`${point}.hook_scale`, deviation);
    return this.hook(`${point}.hook_normalized`, graph.op("Div", [centred, scale]));
  }

  linear(name: string, x: string): string {
    const quantized = this.weights.quantized?.get(`${name}.weight`);
    if (quantized) return this.#linearOfIntegers(name, x, quantized);
    const inputs = [x, this.float(`${name}.weight`)];
    if (this.weights.tensors.has(`${name}.bias`)) inputs.push(this.float(`${name}.bias`));
    return this.graph.op("Gemm", inputs, this.weights.linear === "outIn" ? { transB: 1 } : {});
  }

  /**
   * x · W with both as 8-bit integers. The operator has one scale for all of x, so each row is divided by
   * its largest number first: a token with large values costs the others no precision.
   */
  #linearOfIntegers(name: string, x: string, { file, shape, offset, scales }: QuantizedTensor) {
    const graph = this.graph;
    const [rows, columns] = shape;
    const location = this.locate(file);
    const place = (at: number, length: number) => ({ location, offset: at, length });
    const integers = graph.external(`${name} integers`, "uint8", [rows, columns], place(offset, rows * columns)); // prettier-ignore
    const scale = graph.external(`${name} scales`, "float32", [columns], place(scales, 4 * columns)); // prettier-ignore
    const zero = this.once(
      `zero point ${columns}`,
      () =>
      graph.initializer(`zero point ${columns}`, "uint8", [columns], new Uint8Array(columns).fill(ZERO_POINT)), // prettier-ignore
    );
    // Layers that read the same values share what is made of them.
    const largest = this.once(`largest of ${x}`, () => {
      const sizes = graph.op("ReduceMax", [graph.op("Abs", [x]), graph.int64(-1)], { keepdims: 1 });
      return graph.op("Max", [sizes, graph.floatScalar(SMALLEST)]);
    });
    const scaled = this.once(`${x} by row`, () => graph.op("Div", [x, largest]));
    const inputs = [scaled, integers, scale, zero];
    const product = graph.op("DynamicQuantizeMatMul", inputs, {}, { domain: "com.microsoft" });
    const y = graph.op("Mul", [product, largest]);
    const bias = `${name}.bias`;
    return this.weights.tensors.has(bias) ? graph.op("Add", [y, this.float(bias)]) : y;
  }

  activation(x: string): string {
    const graph = this.graph;
    const activation: Activation = this.spec.activation;
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
  hook(name: string, x: string): string {
    const width = hookWidth(name, this.spec);
    const value = this.patch.has(name) ? this.flat(`patch.${name}`, width) : x;
    if (this.capture.has(name)) this.unflat(value, width, name);
    return value;
  }

  /** A tensor of the checkpoint as it is stored. */
  stored(name: string): string {
    return this.once(name, () => {
      const info = this.info(name);
      const { dtype, shape, file, offset, length } = info;
      const location = this.locate(file);
      return this.graph.external(name, ONNX_TYPES[dtype]!, shape, { location, offset, length });
    });
  }

  /**
   * A big table [rows, width] of the checkpoint as float32, in pieces of whole rows: ONNX Runtime has
   * what it reads of a tensor and what it packs of it in memory together. They are tensors apart from
   * `stored(name)`: one that a Gather reads too would stay in memory whole beside the packed copy.
   */
  pieces(name: string): string[] {
    const { dtype, shape, file, offset, length } = this.info(name);
    const [rows, width] = shape;
    const step = Math.max(1, Math.floor(PIECE_BYTES / (4 * width)));
    const names: string[] = [];
    for (let from = 0; from < rows; from += step) {
      const count = Math.min(step, rows - from);
      const where = {
        location: this.locate(file),
        offset: offset + (from * length) / rows,
        length: (count * length) / rows,
      };
      const key = `${name} from row ${from}`;
      names.push(
        this.once(`${key} as float32`, () => {
          const stored = this.graph.external(key, ONNX_TYPES[dtype]!, [count, width], where);
          return dtype === "F32" ? stored : this.graph.op("Cast", [stored], { to: CAST_FLOAT });
        }),
      );
    }
    return names;
  }

  /** A tensor of the checkpoint as float32 (16-bit ones are widened once, when the session opens). */
  float(name: string): string {
    return this.once(`${name} as float32`, () => {
      const stored = this.stored(name);
      if (this.info(name).dtype === "F32") return stored;
      return this.graph.op("Cast", [stored], { to: CAST_FLOAT });
    });
  }

  /** The table `name`, for reading rows: as it is stored, or wide for devices without 16-bit kernels. */
  table(name: string): string {
    return this.#hasWideTables ? this.float(`${name}.weight`) : this.stored(`${name}.weight`);
  }

  /** `x`, rows of the table `name`, as float32. */
  widened(name: string, x: string): string {
    if (this.#hasWideTables || this.info(`${name}.weight`).dtype === "F32") return x;
    return this.graph.op("Cast", [x], { to: CAST_FLOAT });
  }

  get #hasWideTables(): boolean {
    return this.request.attention === "plain";
  }

  info(name: string): TensorInfo {
    const info = this.weights.tensors.get(name);
    if (!info) throw new Error(`the graph needs ${name}, which is not bound`);
    return info;
  }

  /** [batch, position, …] → [batch · position, width]. */
  flat(x: string, width: number): string {
    return this.graph.op("Reshape", [x, this.graph.int64(-1, width)]);
  }

  /** [batch · position, width] → [batch, position, width]. */
  unflat(x: string, width: number, name?: string): string {
    return this.graph.op("Reshape", [x, this.shape(width)], {}, { name });
  }

  /** The shape [batch, position, ...sizes]. */
  shape(...sizes: number[]): string {
    const graph = this.graph;
    return this.once(`shape ${sizes.join()}`, () =>
      graph.op("Concat", [this.tokensShape(), graph.int64(...sizes)], { axis: 0 }),
    );
  }

  /** The shape [batch, position]. */
  tokensShape(): string {
    return this.once("shape of tokens", () => this.graph.op("Shape", ["tokens"]));
  }

  /** The batch size, as [1]. */
  batch(): string {
    return this.once("batch", () => this.graph.op("Shape", ["tokens"], { start: 0, end: 1 }));
  }

  isCached(layer: number): boolean {
    const { cache } = this.request;
    return cache !== undefined && cache.from <= layer && layer < cache.to;
  }

  /** Number of positions in the cache, as [1]. */
  pastLength(): string {
    const graph = this.graph;
    const { cache } = this.request;
    if (!cache || cache.from === cache.to) return graph.int64(0);
    const { key } = this.pastOf(cache.from);
    return this.once("past length", () => graph.op("Shape", [key], { start: 2, end: 3 }));
  }

  /** Number of positions in the cache and in `tokens` together, as [1]. */
  totalLength(): string {
    const graph = this.graph;
    return this.once("total length", () => graph.op("Add", [this.pastLength(), this.length()]));
  }

  /** Number of positions in `tokens`, as [1]. */
  length(): string {
    return this.once("length", () => this.graph.op("Shape", ["tokens"], { start: 1, end: 2 }));
  }

  pastOf(layer: number): { key: string; value: string } {
    const { kvHeads, dHead } = this.spec;
    const [key, value] = ["key", "value"].map((part) =>
      this.once(`past.${layer}.${part}`, () => {
        const shape = ["batch", kvHeads, "past", dHead];
        return this.graph.input(`past.${layer}.${part}`, "float32", shape);
      }),
    );
    return { key, value };
  }

  presentOf(layer: number): { key: string; value: string } {
    const { kvHeads, dHead } = this.spec;
    const [key, value] = ["key", "value"].map((part) => {
      const shape = ["batch", kvHeads, "total", dHead];
      return this.graph.output(`present.${layer}.${part}`, "float32", shape);
    });
    return { key, value };
  }

  once(key: string, make: () => string): string {
    let name = this.shared.get(key);
    if (name === undefined) this.shared.set(key, (name = make()));
    return name;
  }
}

/** "To the end" as a bound of Slice. */
export const END = 2 ** 31 - 1;
