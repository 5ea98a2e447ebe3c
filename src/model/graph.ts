/**
 * A transformer's spec and weights → an ONNX graph that computes exactly what is asked for:
 * values at hook points, logits, losses, with any hook point's value replaced from outside. The
 * graph is described whole; `OnnxGraph` writes only the nodes that an output needs, so layers past
 * the last capture are never built, and tensors nobody reads are never loaded.
 *
 * The residual stream is kept as [batch · position, dModel], so that linear layers are one Gemm
 * with bias; values get their batch dimension back at the hook points.
 */
import { hookWidth, parseHookPoint } from "./hook-point.ts";
import { CAST_FLOAT, END, GraphParts, type GraphRequest, type Locate } from "./graph-parts.ts";
import type { Rotation, Spec } from "./spec.ts";
import type { Weights } from "./weights.ts";
export type { GraphRequest } from "./graph-parts.ts";

/** The graph as ONNX bytes. Input `tokens`: int32 [batch, position]; `lengths`, if asked for: int64 [batch]. */
export function buildGraph(
  spec: Spec,
  weights: Weights,
  request: GraphRequest,
  locate: Locate,
): Uint8Array<ArrayBuffer> {
  return new Builder(spec, weights, request, locate).build();
}

class Builder extends GraphParts {
  build(): Uint8Array<ArrayBuffer> {
    const graph = this.graph;
    const spec = this.spec;
    graph.input("tokens", "int32", ["batch", "position"]);
    const shapeOf = (name: string) =>
      parseHookPoint(name, spec).kind === "attn.hook_pattern"
        ? ["batch", spec.heads, "position", "total"]
        : ["batch", "position", hookWidth(name, spec)];
    for (const name of this.patch) graph.input(`patch.${name}`, "float32", shapeOf(name));
    for (const name of this.capture) graph.output(name, "float32", shapeOf(name));

    let residual = this.#embed();
    for (let layer = 0; layer < spec.layers; layer++)
      residual = spec.isEncoder
        ? this.#encoderBlock(layer, residual)
        : this.#block(layer, residual);
    this.#head(residual);
    return graph.encode();
  }

  /** tokens → [batch · position, dModel]. */
  #embed(): string {
    const graph = this.graph;
    const { dModel } = this.spec;
    // Rows are gathered before they are widened: casting the whole table would copy it.
    const rows = graph.op("Gather", [this.table("embedding"), "tokens"]);
    const scaled = this.times(this.widened("embedding", rows), this.spec.embeddingScale);
    const embedded = this.hook("hook_embed", this.flat(scaled, dModel));
    const { positions } = this.spec;
    if (positions.kind === "rotary") return embedded;
    const bounds = [this.pastLength(), this.totalLength()].map((length) =>
      positions.offset === 0 ? length : graph.op("Add", [length, graph.int64(positions.offset)]),
    );
    const table = this.table("positions");
    const added = this.widened("positions", graph.op("Slice", [table, ...bounds, graph.int64(0)]));
    const placed = this.flat(graph.op("Add", [this.unflat(embedded, dModel), added]), dModel);
    if (!this.spec.isEncoder) return placed;
    return this.hook("hook_full_embed", this.norm("embeddingNorm", this.#typed(placed)));
  }

  /** With the embedding of the first token type, which is that of a text alone. */
  #typed(x: string): string {
    if (this.spec.tokenTypes === 0) return x;
    const graph = this.graph;
    const row = graph.op("Gather", [this.stored("tokenTypes.weight"), graph.int64Scalar(0)]);
    return graph.op("Add", [x, this.widened("tokenTypes", row)]);
  }

  #block(layer: number, x: string): string {
    const graph = this.graph;
    const { isParallel, hasPostNorms } = this.spec;
    const at = `blocks.${layer}`;
    const pre = this.hook(`${at}.hook_resid_pre`, x);
    const added = (name: string, norm: string, value: string) =>
      this.hook(`${at}.${name}`, hasPostNorms ? this.norm(`${at}.${norm}`, value) : value);

    const z = this.#attention(layer, this.norm(`${at}.norm1`, pre, `${at}.ln1`));
    const projected = this.linear(`${at}.attentionOut`, this.hook(`${at}.attn.hook_z`, z));
    const attentionOut = added("hook_attn_out", "postNorm1", projected);
    const sum = graph.op("Add", [pre, attentionOut]);
    const mid = isParallel ? sum : this.hook(`${at}.hook_resid_mid`, sum);

    const read = this.norm(`${at}.norm2`, isParallel ? pre : mid, `${at}.ln2`);
    const post = this.hook(`${at}.mlp.hook_post`, this.#hidden(at, read));
    const mlpOut = added("hook_mlp_out", "postNorm2", this.linear(`${at}.mlpOut`, post));
    return this.hook(`${at}.hook_resid_post`, graph.op("Add", [mid, mlpOut]));
  }

  /** A block whose norms stand behind the sums. */
  #encoderBlock(layer: number, x: string): string {
    const graph = this.graph;
    const at = `blocks.${layer}`;
    const pre = this.hook(`${at}.hook_resid_pre`, x);
    const z = this.hook(`${at}.attn.hook_z`, this.#attention(layer, pre));
    const attentionOut = this.hook(`${at}.hook_attn_out`, this.linear(`${at}.attentionOut`, z));
    const mid = this.hook(`${at}.hook_resid_mid`, graph.op("Add", [pre, attentionOut]));
    const read = this.norm(`${at}.norm1`, mid, `${at}.ln1`);
    const hidden = this.hook(`${at}.mlp.hook_post`, this.#hidden(at, read));
    const mlpOut = this.hook(`${at}.hook_mlp_out`, this.linear(`${at}.mlpOut`, hidden));
    const post = this.hook(`${at}.hook_resid_post`, graph.op("Add", [read, mlpOut]));
    return this.hook(
      `${at}.hook_normalized_resid_post`,
      this.norm(`${at}.norm2`, post, `${at}.ln2`),
    );
  }

  /** The hidden layer of an MLP, behind its activation. */
  #hidden(at: string, x: string): string {
    const up = this.linear(`${at}.mlpIn`, x);
    if (!this.spec.isGated) return this.activation(this.hook(`${at}.mlp.hook_pre`, up));
    const gate = this.activation(this.hook(`${at}.mlp.hook_pre`, this.linear(`${at}.gate`, x)));
    return this.graph.op("Mul", [gate, this.hook(`${at}.mlp.hook_pre_linear`, up)]);
  }

  /** Multi-head attention, causal but in encoders: normalised residual [rows, dModel] → z [rows, heads · dHead]. */
  #attention(layer: number, x: string): string {
    const graph = this.graph;
    const { heads, kvHeads, dHead, attentionScale, hasQkNorms, positions } = this.spec;
    const rotation = positions.kind === "rotary" ? positions.layers[layer] : null;
    const at = `blocks.${layer}`;
    const parts = this.#queriesKeysValues(layer, x);
    const [query, key, value] = (["q", "k", "v"] as const).map((name, i) =>
      graph.op("Reshape", [
        this.hook(`${at}.attn.hook_${name}`, parts[i]),
        this.shape(name === "q" ? heads : kvHeads, dHead),
      ]),
    );
    const placed = (role: string, name: string, x: string) => {
      const normed = hasQkNorms ? this.norm(`${at}.${role}`, x) : x;
      const byHead = this.#byHead(normed);
      return this.#hookByHead(`${at}.attn.${name}`, rotation ? this.#turned(byHead, rotation) : byHead); // prettier-ignore
    };
    const q = placed("queryNorm", "hook_rot_q", query);
    const k = placed("keyNorm", "hook_rot_k", key);
    const v = this.#byHead(value);
    const scale = attentionScale[layer];
    const pattern = `${at}.attn.hook_pattern`;
    const z =
      // The operator keeps its weights to itself.
      this.request.attention === "plain" || this.capture.has(pattern) || this.patch.has(pattern)
        ? this.#plainAttention(layer, q, k, v, scale)
        : this.#onnxAttention(layer, q, k, v, scale);
    return this.flat(graph.op("Transpose", [z], { perm: [0, 2, 1, 3] }), heads * dHead);
  }

  /** Each [rows, head · dHead]. */
  #queriesKeysValues(layer: number, x: string): string[] {
    const graph = this.graph;
    const { heads, dHead, qkv } = this.spec;
    const at = `blocks.${layer}`;
    const split = (x: string, sizes: string) =>
      graph.ops("Split", [x, sizes], { axis: -1 }, { outputs: 3 });
    switch (qkv) {
      case "apart":
        return ["query", "key", "value"].map((name) => this.linear(`${at}.${name}`, x));
      case "joined": {
        const width = heads * dHead;
        return split(this.linear(`${at}.qkv`, x), graph.int64(width, width, width));
      }
      case "joinedByHead": {
        const all = this.linear(`${at}.qkv`, x);
        const byHead = graph.op("Reshape", [all, this.shape(heads, 3 * dHead)]);
        const parts = split(byHead, graph.int64(dHead, dHead, dHead));
        return parts.map((part) => this.flat(part, heads * dHead));
      }
      default:
        return qkv satisfies never;
    }
  }

  /** [batch, position, head, dHead] → [batch, head, position, dHead]. */
  #byHead(x: string): string {
    return this.graph.op("Transpose", [x], { perm: [0, 2, 1, 3] });
  }

  /** A hook point of values [batch, head, position, dHead]. */
  #hookByHead(name: string, x: string): string {
    if (!this.capture.has(name) && !this.patch.has(name)) return x;
    const { dHead } = this.spec;
    const width = hookWidth(name, this.spec);
    const value = this.hook(name, this.flat(this.#byHead(x), width));
    return this.#byHead(this.graph.op("Reshape", [value, this.shape(width / dHead, dHead)]));
  }

  /** Queries or keys [batch, head, position, dHead], turned by their positions. */
  #turned(x: string, { dim, inverse }: Rotation): string {
    const graph = this.graph;
    // Told apart by what they are: layers share them.
    const key = `turn ${inverse.join()}`;
    const angles = this.once(key, () => {
      const row = graph.initializer(key, "float32", [1, dim / 2], inverse);
      const column = graph.op("Unsqueeze", [this.queryPositions(), graph.int64(1)]);
      return graph.op("Mul", [graph.op("Cast", [column], { to: CAST_FLOAT }), row]);
    });
    const [cosines, sines] = ["Cos", "Sin"].map((op) =>
      this.once(`${op} ${key}`, () => graph.op(op, [angles])),
    );
    const rows = this.once("rows of the turn", () => {
      const length = this.scalar(this.length());
      const range = graph.op("Range", [graph.int64Scalar(0), length, graph.int64Scalar(1)]);
      return graph.op("Expand", [
        graph.op("Unsqueeze", [range, graph.int64(0)]),
        this.tokensShape(),
      ]);
    });
    const partial = dim === this.spec.dHead ? {} : { rotary_embedding_dim: dim };
    return graph.op("RotaryEmbedding", [x, cosines, sines, rows], partial);
  }

  /** Of an encoder: the mask [batch, 1, position, position] of keys within each row's length, if lengths are given. */
  #keysInside(): string[] {
    if (!this.request.lengths) return [];
    const graph = this.graph;
    const mask = this.once("keys inside", () => {
      const lengths = graph.op("Unsqueeze", [
        graph.input("lengths", "int64", ["batch"]),
        graph.int64(1, 2, 3),
      ]);
      const inside = graph.op("Less", [this.queryPositions(), lengths]);
      const one = graph.int64(1);
      const shape = [this.batch(), one, this.length(), this.length()];
      return graph.op("Expand", [inside, graph.op("Concat", shape, { axis: 0 })]);
    });
    return [mask];
  }

  #onnxAttention(layer: number, q: string, k: string, v: string, scale: number): string {
    const graph = this.graph;
    const { windows, scoreCap } = this.spec;
    const cap = scoreCap === null ? {} : { softcap: { float: scoreCap } };
    const attributes = { scale: { float: scale }, ...cap };
    if (!this.isCached(layer)) {
      if (this.spec.isEncoder)
        return graph.op("Attention", [q, k, v, ...this.#keysInside()], attributes);
      if (windows[layer] === null)
        return graph.op("Attention", [q, k, v], { ...attributes, is_causal: 1 });
      return graph.op("Attention", [q, k, v, this.mask(windows[layer])], attributes);
    }
    const past = this.pastOf(layer);
    const present = this.presentOf(layer);
    const inputs = [q, k, v, this.mask(windows[layer]), past.key, past.value];
    const outputs = [`blocks.${layer}.attention`, present.key, present.value];
    return graph.ops("Attention", inputs, attributes, { outputs })[0];
  }

  #plainAttention(layer: number, q: string, k: string, v: string, scale: number): string {
    const graph = this.graph;
    const { heads, kvHeads, dHead, scoreCap, windows } = this.spec;
    if (this.isCached(layer)) {
      const past = this.pastOf(layer);
      const present = this.presentOf(layer);
      k = graph.op("Concat", [past.key, k], { axis: 2 }, { name: present.key });
      v = graph.op("Concat", [past.value, v], { axis: 2 }, { name: present.value });
    }
    // Queries that share keys and values become rows of one product: [batch, kvHead, share · position, …].
    const share = heads / kvHeads;
    const [length, total] = [this.length(), this.totalLength()];
    const shape = (...sizes: string[]) => graph.op("Concat", [this.batch(), ...sizes], { axis: 0 });
    const grouped = (x: string) =>
      share === 1 ? x : graph.op("Reshape", [x, shape(graph.int64(kvHeads, -1, dHead))]);
    const apart = (x: string, last: string) =>
      share === 1 ? x : graph.op("Reshape", [x, shape(graph.int64(heads), length, last)]);
    const keys = graph.op("Transpose", [k], { perm: [0, 1, 3, 2] });
    const products = graph.op("MatMul", [grouped(this.times(q, scale)), keys]);
    const scores = this.capped(apart(products, total), scoreCap);
    const masks = this.spec.isEncoder ? this.#keysInside() : [this.mask(windows[layer])];
    const masked = masks.reduce((sum, mask) => {
      const hidden = this.once(`additive ${mask}`, () =>
        graph.op("Where", [mask, graph.floatScalar(0), graph.floatScalar(-Infinity)]),
      );
      return graph.op("Add", [sum, hidden]);
    }, scores);
    const point = `blocks.${layer}.attn.hook_pattern`;
    const own = graph.op("Softmax", [masked], { axis: -1 });
    const pattern = this.patch.has(point) ? `patch.${point}` : own;
    if (this.capture.has(point)) graph.op("Identity", [pattern], {}, { name: point });
    const rows = share === 1 ? pattern : graph.op("Reshape", [pattern, shape(graph.int64(kvHeads, -1), total)]); // prettier-ignore
    return apart(graph.op("MatMul", [rows, v]), graph.int64(dHead));
  }

  /** Final norm (of an encoder what predicts masked tokens) and unembedding, for the positions that are asked for. */
  #head(residual: string): void {
    const graph = this.graph;
    const { logits, loss } = this.request;
    const { dModel, vocabSize } = this.spec;
    if (this.spec.isEncoder && !this.weights.tensors.has("headDense.weight")) return;
    const normed = this.spec.isEncoder
      ? this.norm("headNorm", this.activation(this.linear("headDense", residual)))
      : this.norm("finalNorm", residual, "ln_final");
    const unembed = (rows: string) => {
      const name = this.weights.tensors.has("unembedding.weight") ? "unembedding" : "embedding";
      const parts = this.pieces(`${name}.weight`).map((matrix) =>
        graph.op("Gemm", [rows, matrix], { transB: 1 }),
      );
      const whole = parts.length === 1 ? parts[0] : graph.op("Concat", parts, { axis: 1 });
      const logits = this.spec.isEncoder
        ? graph.op("Add", [whole, this.float("unembedding.bias")])
        : whole;
      return this.capped(logits, this.spec.logitCap);
    };
    const positions = (from: number, to: number) => {
      const bounds = [graph.int64(from), graph.int64(to), graph.int64(1)];
      const chosen = graph.op("Slice", [this.unflat(normed, dModel), ...bounds]);
      return this.flat(chosen, dModel);
    };
    /** [batch · n, vocabulary] → [batch, n, vocabulary]. */
    const byBatch = (rows: string, name?: string) => {
      const shape = graph.op("Concat", [this.batch(), graph.int64(-1, vocabSize)], { axis: 0 });
      return graph.op("Reshape", [rows, shape], {}, { name });
    };

    let predictions: string | undefined; // logits at every position but the last
    if (logits === "all") {
      byBatch(unembed(normed), "logits");
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
}
