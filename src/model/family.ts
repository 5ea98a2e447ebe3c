/**
 * Model families as data: what a Hugging Face `config.json` means (`readSpec`) and what the
 * checkpoint calls its tensors (`bindWeights`). The graph builder knows only the result, so a new
 * family is a row here and, where it computes something new, a case there.
 */
import { nearestName, UserError } from "../error.ts";
import type { Safetensors, TensorInfo } from "../safetensors.ts";
import type { Widths } from "./hook-point.ts";

export type Activation = "geluTanh" | "geluErf" | "relu" | "silu";

/** A transformer, described completely: sizes, and the choices in which families differ. */
export interface Spec extends Widths {
  modelType: string;
  vocabSize: number;
  /** Longest sequence, in tokens. */
  contextLength: number;
  norm: { kind: "layerNorm"; epsilon: number };
  /** `learned`: a table with a row per position is added to the embedding. */
  positions: { kind: "learned" };
  /** Factor on the attention scores of each layer. */
  attentionScale: readonly number[];
  activation: Activation;
  /** Whether the unembedding is the transposed embedding. */
  tied: boolean;
  bosId: number | null;
  eosId: number | null;
}

/** Layout of a linear layer's weight: [in, out] (Conv1D of GPT-2) or [out, in] (torch.nn.Linear). */
export type LinearLayout = "inOut" | "outIn";

interface Family {
  read(config: Config): Spec;
  linear: LinearLayout;
  /** Prefixes of tensor names; checkpoints of the bare model lack the outer one. */
  prefixes: readonly string[];
  /** Names in the checkpoint of the tensors below, without prefix; `{}` is the layer. */
  names: Record<Role, string>;
}

/** The modules of a transformer; each has a weight, all but the two tables also a bias. */
type Role =
  | "embedding"
  | "positions"
  | "norm1"
  | "qkv"
  | "attentionOut"
  | "norm2"
  | "mlpIn"
  | "mlpOut"
  | "finalNorm";

const FAMILIES: Record<string, Family> = {
  gpt2: {
    read: (config) => {
      const dModel = config.size("n_embd");
      const heads = config.size("n_head");
      const layers = config.size("n_layer");
      if (dModel % heads !== 0) {
        throw config.error("n_head", `must divide n_embd (${dModel})`);
      }
      if (config.value("add_cross_attention") === true) {
        throw config.error(
          "add_cross_attention",
          "is not supported: encoder-decoder models are not",
        );
      }
      const dHead = dModel / heads;
      const scaled = config.value("scale_attn_weights") !== false;
      const byLayer = config.value("scale_attn_by_inverse_layer_idx") === true;
      return {
        ...common(config),
        layers,
        dModel,
        heads,
        dHead,
        dMlp: config.size("n_inner", 4 * dModel),
        contextLength: config.size("n_positions", 1024),
        norm: { kind: "layerNorm", epsilon: config.number("layer_norm_epsilon", 1e-5) },
        positions: { kind: "learned" },
        attentionScale: Array.from(
          { length: layers },
          (_, layer) => (scaled ? dHead ** -0.5 : 1) / (byLayer ? layer + 1 : 1),
        ),
        activation: config.activation("activation_function", "gelu_new"),
        tied: config.value("tie_word_embeddings") !== false,
      };
    },
    linear: "inOut",
    prefixes: ["transformer.", ""],
    names: {
      embedding: "wte",
      positions: "wpe",
      norm1: "h.{}.ln_1",
      qkv: "h.{}.attn.c_attn",
      attentionOut: "h.{}.attn.c_proj",
      norm2: "h.{}.ln_2",
      mlpIn: "h.{}.mlp.c_fc",
      mlpOut: "h.{}.mlp.c_proj",
      finalNorm: "ln_f",
    },
  },
};

function common(config: Config): Pick<Spec, "modelType" | "vocabSize" | "bosId" | "eosId"> {
  return {
    modelType: config.modelType,
    vocabSize: config.size("vocab_size"),
    bosId: config.id("bos_token_id"),
    eosId: config.id("eos_token_id"),
  };
}

/**
 * The spec that a `config.json` describes. `path` is its path, for messages. Throws UserError,
 * naming the field, its value and what is supported, for anything this runtime would compute wrongly.
 */
export function readSpec(json: unknown, path: string): Spec {
  const config = new Config(json, path);
  if (config.value("quantization_config") != null) {
    throw config.error(
      "quantization_config",
      "is not supported: use the checkpoint in float32, float16 or bfloat16",
    );
  }
  return familyOf(config).read(config);
}

function familyOf(config: Config): Family {
  if (Object.hasOwn(FAMILIES, config.modelType)) return FAMILIES[config.modelType];
  const supported = Object.keys(FAMILIES);
  const nearest = nearestName(config.modelType, supported);
  throw config.error(
    "model_type",
    `is not a supported family${nearest ? ` (did you mean ${nearest}?)` : ""}; supported: ` +
      supported.join(", "),
  );
}

const ACTIVATIONS: Record<string, Activation> = {
  gelu: "geluErf",
  gelu_new: "geluTanh",
  gelu_fast: "geluTanh",
  gelu_pytorch_tanh: "geluTanh",
  relu: "relu",
  silu: "silu",
  swish: "silu",
};

/** A `config.json`, read field by field; every complaint names the file, the field and its value. */
class Config {
  readonly modelType: string;
  readonly #path: string;
  readonly #fields: Record<string, unknown>;

  constructor(json: unknown, path: string) {
    if (typeof json !== "object" || json === null || Array.isArray(json)) {
      throw new UserError(`${path} is not a JSON object: it should be a model's configuration.`);
    }
    this.#path = path;
    this.#fields = json as Record<string, unknown>;
    const type = this.#fields["model_type"];
    if (typeof type !== "string") throw this.error("model_type", "must name the model's family");
    this.modelType = type;
  }

  value(field: string): unknown {
    return this.#fields[field];
  }

  /** A positive integer. An absent or null field has the default, if there is one. */
  size(field: string, fallback?: number): number {
    const value = this.value(field) ?? fallback;
    if (Number.isSafeInteger(value) && (value as number) > 0) return value as number;
    throw this.error(field, "must be a positive integer");
  }

  number(field: string, fallback: number): number {
    const value = this.value(field) ?? fallback;
    if (typeof value === "number" && Number.isFinite(value)) return value;
    throw this.error(field, "must be a number");
  }

  /** A token id, the first of several, or null. */
  id(field: string): number | null {
    const value: unknown = [this.value(field)].flat()[0] ?? null;
    if (value === null || (Number.isSafeInteger(value) && (value as number) >= 0)) {
      return value as number | null;
    }
    throw this.error(field, "must be a token id");
  }

  activation(field: string, fallback: string): Activation {
    const value = this.value(field) ?? fallback;
    if (typeof value === "string" && Object.hasOwn(ACTIVATIONS, value)) return ACTIVATIONS[value];
    throw this.error(field, `is not supported; use one of ${Object.keys(ACTIVATIONS).join(", ")}`);
  }

  error(field: string, problem: string): UserError {
    const value = JSON.stringify(this.value(field)) ?? "absent";
    return new UserError(`${this.#path}: ${field} (${value}) ${problem}.`);
  }
}

/** The tensors of a checkpoint under the graph's names. */
export interface Weights {
  /** How the matrices of linear layers lie. */
  linear: LinearLayout;
  /** `embedding.weight`, `blocks.3.qkv.bias`, …; `unembedding.weight` only if it is not the embedding. */
  tensors: ReadonlyMap<string, TensorInfo>;
}

/**
 * Finds the tensors that `spec` needs. Throws UserError listing those that are missing, and for
 * one whose shape does not fit the configuration or whose type is not a 16- or 32-bit float.
 */
export function bindWeights(spec: Spec, checkpoint: Safetensors): Weights {
  const { names, prefixes, linear } = FAMILIES[spec.modelType];
  const where = checkpoint.files.join(", ");
  const has = (name: string) => checkpoint.tensors.has(name);
  const prefix = prefixes.find((p) => has(`${p}${names.embedding}.weight`));
  if (prefix === undefined) {
    const tried = prefixes.map((p) => `${p}${names.embedding}.weight`).join(" or ");
    throw new UserError(
      `${where} has no embedding (${tried}): these are not the weights of a ${spec.modelType} model.`,
    );
  }

  const tensors = new Map<string, TensorInfo>();
  const missing: string[] = [];
  const bind = (ours: string, theirs: string, shape: readonly number[]) => {
    const info = checkpoint.tensors.get(theirs);
    if (!info) {
      missing.push(theirs);
      return;
    }
    if (info.shape.join() !== shape.join()) {
      throw new UserError(
        `${info.file}: tensor ${theirs} has shape [${info.shape.join(", ")}], but config.json asks ` +
          `for [${shape.join(", ")}]. The two files are not of one model.`,
      );
    }
    if (!["F32", "F16", "BF16"].includes(info.dtype)) {
      throw new UserError(
        `${info.file}: tensor ${theirs} has dtype ${info.dtype}; weights must be F32, F16 or BF16.`,
      );
    }
    tensors.set(ours, info);
  };
  const module = (role: Role, layer: number | null, weight: readonly number[], bias?: number) => {
    const ours = layer === null ? role : `blocks.${layer}.${role}`;
    const theirs = prefix + names[role].replace("{}", String(layer));
    bind(`${ours}.weight`, `${theirs}.weight`, weight);
    if (bias !== undefined) bind(`${ours}.bias`, `${theirs}.bias`, [bias]);
  };
  const linearModule = (role: Role, layer: number, width: number, out: number) =>
    module(role, layer, linear === "inOut" ? [width, out] : [out, width], out);

  const { dModel, heads, dHead, dMlp } = spec;
  module("embedding", null, [spec.vocabSize, dModel]);
  module("positions", null, [spec.contextLength, dModel]);
  for (let layer = 0; layer < spec.layers; layer++) {
    module("norm1", layer, [dModel], dModel);
    linearModule("qkv", layer, dModel, 3 * heads * dHead);
    linearModule("attentionOut", layer, heads * dHead, dModel);
    module("norm2", layer, [dModel], dModel);
    linearModule("mlpIn", layer, dModel, dMlp);
    linearModule("mlpOut", layer, dMlp, dModel);
  }
  module("finalNorm", null, [dModel], dModel);
  // Checkpoints often leave out an unembedding that equals the embedding, whatever the flag says.
  if (!spec.tied && has("lm_head.weight")) {
    bind("unembedding.weight", "lm_head.weight", [spec.vocabSize, dModel]);
  }
  if (missing.length > 0) {
    const shown = missing.slice(0, 10).join(", ");
    throw new UserError(
      `${where} lacks ${missing.length} of the tensors that config.json asks for: ${shown}` +
        `${missing.length > 10 ? ", …" : ""}. Fetch or save the checkpoint again.`,
    );
  }
  return { linear, tensors };
}
