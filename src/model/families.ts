/**
 * Model families as data: what a Hugging Face `config.json` means and what the checkpoint calls its
 * tensors. The graph builder knows only the result, so a new family is a row here and, where it
 * computes something new, a case there.
 */
import type { ModelConfig } from "./model-config.ts";
import type { LinearLayout, Rotation, Spec } from "./spec.ts";

/** The modules of a transformer; each has a weight, some a bias. */
export type Role =
  | "embedding"
  | "positions"
  | "tokenTypes"
  | "embeddingNorm"
  | "norm1"
  | "qkv"
  | "query"
  | "key"
  | "value"
  | "queryNorm"
  | "keyNorm"
  | "attentionOut"
  | "postNorm1"
  | "norm2"
  | "gate"
  | "mlpIn"
  | "mlpOut"
  | "postNorm2"
  | "finalNorm";

export interface Family {
  /** Throws UserError for settings that this runtime would compute wrongly. */
  read(config: ModelConfig): Spec;
  linear: LinearLayout;
  /** Prefixes of tensor names; checkpoints of the bare model lack the outer one. */
  prefixes: readonly string[];
  /** Names in the checkpoint, without prefix; `{}` is the layer. */
  names: Partial<Record<Role, string>>;
  /** The unembedding that is no transposed embedding; without prefix. */
  unembedding: string;
  /**
   * What an encoder's predictions of masked tokens go through before the unembedding, and the biases behind
   * it under the names they may have; without prefix. Checkpoints of the bare model have none of it.
   */
  maskedHead?: { dense: string; norm: string; biases: readonly string[] };
}

/** The fields of config.json that hold a family's sizes. */
const SIZES = {
  layers: "num_hidden_layers",
  dModel: "hidden_size",
  heads: "num_attention_heads",
};

/** What most families have; each says what is different. */
function plain(config: ModelConfig, fields = SIZES) {
  const layers = config.size(fields.layers);
  const dModel = config.size(fields.dModel);
  const heads = config.size(fields.heads);
  const ownHead = config.value("head_dim") == null ? undefined : config.size("head_dim");
  if (ownHead === undefined && dModel % heads !== 0)
    throw config.error(fields.heads, `must divide ${fields.dModel} (${dModel})`);
  const dHead = ownHead ?? dModel / heads;
  return {
    modelType: config.modelType,
    ...{ layers, dModel, heads, dHead, kvHeads: heads },
    ...{ isParallel: false, isGated: false, isRotary: false, isEncoder: false },
    vocabSize: config.size("vocab_size"),
    ...{ embeddingScale: 1, tokenTypes: 0 },
    ...{ hasPostNorms: false, hasQkNorms: false },
    hasBias: { qkv: true, attentionOut: true, mlp: true },
    attentionScale: each(layers, () => dHead ** -0.5),
    windows: each<number | null>(layers, () => null),
    ...{ scoreCap: null, logitCap: null },
    bosId: config.id("bos_token_id"),
    eosId: config.id("eos_token_id"),
  };
}

const each = <T>(layers: number, of: (layer: number) => T): T[] =>
  Array.from({ length: layers }, (_, layer) => of(layer));

function gpt2(config: ModelConfig): Spec {
  const spec = plain(config, { layers: "n_layer", dModel: "n_embd", heads: "n_head" });
  if (config.value("add_cross_attention") === true)
    throw config.error("add_cross_attention", "is not supported: encoder-decoder models are not");
  const scaled = config.value("scale_attn_weights") !== false;
  const byLayer = config.value("scale_attn_by_inverse_layer_idx") === true;
  return {
    ...spec,
    dMlp: config.size("n_inner", 4 * spec.dModel),
    contextLength: config.size("n_positions", 1024),
    norm: layerNorm(config.number("layer_norm_epsilon", 1e-5)),
    positions: { kind: "learned", offset: 0 },
    qkv: "joined",
    attentionScale: each(
      spec.layers,
      (layer) => (scaled ? spec.dHead ** -0.5 : 1) / (byLayer ? layer + 1 : 1),
    ),
    activation: config.activation("activation_function", "gelu_new"),
    tied: config.flag("tie_word_embeddings", true),
  };
}

function gptNeo(config: ModelConfig): Spec {
  const spec = plain(config, { ...SIZES, layers: "num_layers", heads: "num_heads" });
  return {
    ...spec,
    dMlp: config.size("intermediate_size", 4 * spec.dModel),
    contextLength: config.size("max_position_embeddings", 2048),
    norm: layerNorm(config.number("layer_norm_epsilon", 1e-5)),
    positions: { kind: "learned", offset: 0 },
    qkv: "apart",
    hasBias: { qkv: false, attentionOut: true, mlp: true },
    attentionScale: each(spec.layers, () => 1), // its scores are not scaled
    windows: neoWindows(config, spec.layers),
    activation: config.activation("activation_function", "gelu_new"),
    tied: config.flag("tie_word_embeddings", true),
  };
}

/** `attention_layers`, or [[kinds, how often], …] to be written out. */
function neoWindows(config: ModelConfig, layers: number): (number | null)[] {
  const types = config.value("attention_types");
  const written = Array.isArray(types)
    ? types.flatMap((pair: unknown) => {
        const [kinds, times] = Array.isArray(pair) ? (pair as unknown[]) : [];
        const isPair = Array.isArray(kinds) && Number.isSafeInteger(times) && (times as number) <= layers; // prettier-ignore
        return isPair ? each(times as number, () => kinds as unknown[]).flat() : [undefined];
      })
    : undefined;
  const kinds = (config.value("attention_layers") ?? written) as unknown;
  const isKnown = (kind: unknown) => kind === "global" || kind === "local";
  if (!Array.isArray(kinds) || kinds.length !== layers || !kinds.every(isKnown))
    throw config.error("attention_types", `must say global or local for each of ${layers} layers`);
  const window = config.size("window_size", 256);
  return kinds.map((kind) => (kind === "local" ? window : null));
}

function opt(config: ModelConfig): Spec {
  const spec = plain(config);
  const { dModel } = spec;
  if (!config.flag("do_layer_norm_before", true))
    throw config.error("do_layer_norm_before", "is not supported: norms after the sum (OPT-350m)");
  if (config.size("word_embed_proj_dim", dModel) !== dModel)
    throw config.error("word_embed_proj_dim", `is not supported unless it is hidden_size (${dModel})`); // prettier-ignore
  if (config.flag("_remove_final_layer_norm", false))
    throw config.error("_remove_final_layer_norm", "is not supported");
  if (!config.flag("layer_norm_elementwise_affine", true))
    throw config.error("layer_norm_elementwise_affine", "is not supported");
  const bias = config.flag("enable_bias", true);
  return {
    ...spec,
    dMlp: config.size("ffn_dim"),
    contextLength: config.size("max_position_embeddings", 2048),
    norm: layerNorm(1e-5),
    positions: { kind: "learned", offset: 2 },
    qkv: "apart",
    hasBias: { qkv: bias, attentionOut: bias, mlp: bias },
    activation: config.activation("activation_function", "relu"),
    tied: config.flag("tie_word_embeddings", true),
  };
}

function gptNeoX(config: ModelConfig): Spec {
  const spec = plain(config);
  const dim = Math.trunc(spec.dHead * config.rotaryShare("rotary_pct", 0.25));
  const base = config.value("rope_theta") == null ? "rotary_emb_base" : "rope_theta";
  const bias = config.flag("attention_bias", true);
  return {
    ...spec,
    isParallel: config.flag("use_parallel_residual", true),
    isRotary: true,
    dMlp: config.size("intermediate_size"),
    contextLength: config.size("max_position_embeddings", 2048),
    norm: layerNorm(config.number("layer_norm_eps", 1e-5)),
    positions: rotary(spec.layers, () => config.rotation(dim, { ...EVERY_LAYER, base })),
    qkv: "joinedByHead",
    hasBias: { qkv: bias, attentionOut: bias, mlp: true },
    activation: config.activation("hidden_act", "gelu"),
    tied: config.flag("tie_word_embeddings", false),
  };
}

const EVERY_LAYER = { layers: "full_attention", base: "rope_theta", isScaled: true };

/** Llama, and what has come of it. */
function llama(config: ModelConfig): Spec {
  const spec = plain(config);
  const { heads } = spec;
  const kvHeads = config.size("num_key_value_heads", heads);
  if (heads % kvHeads !== 0)
    throw config.error("num_key_value_heads", `must divide num_attention_heads (${heads})`);
  const bias = config.flag("attention_bias", false);
  return {
    ...spec,
    kvHeads,
    dMlp: config.size("intermediate_size"),
    contextLength: config.size("max_position_embeddings", 2048),
    norm: { kind: "rmsNorm", epsilon: config.number("rms_norm_eps", 1e-6), isPlusOne: false },
    positions: rotary(spec.layers, () => config.rotation(spec.dHead, EVERY_LAYER)),
    qkv: "apart",
    hasBias: { qkv: bias, attentionOut: bias, mlp: config.flag("mlp_bias", false) },
    activation: config.activation("hidden_act", "silu"),
    ...{ isGated: true, isRotary: true },
    tied: config.flag("tie_word_embeddings", false),
  };
}

function mistral(config: ModelConfig): Spec {
  const spec = llama(config);
  const sliding = config.slidingLayers(spec.layers) ?? each(spec.layers, () => true);
  const window = config.value("sliding_window") == null ? null : config.size("sliding_window");
  return { ...spec, windows: sliding.map((slides) => (slides ? window : null)) };
}

function smolLm3(config: ModelConfig): Spec {
  const spec = llama(config);
  const interval = config.size("no_rope_layer_interval", 4);
  const listed = config.value("no_rope_layers");
  // 1: turned.
  const turned = Array.isArray(listed) ? listed : each(spec.layers, (layer) => +((layer + 1) % interval !== 0)); // prettier-ignore
  if (turned.length !== spec.layers)
    throw config.error("no_rope_layers", `must have an entry for each of ${spec.layers} layers`);
  const rotation = config.rotation(spec.dHead, EVERY_LAYER);
  return { ...spec, positions: rotary(spec.layers, (layer) => (turned[layer] ? rotation : null)) };
}

function qwen2(config: ModelConfig): Spec {
  const spec = llama(config);
  const { layers } = spec;
  const slides = config.flag("use_sliding_window", false);
  const from = config.number("max_window_layers", 28);
  const sliding = config.slidingLayers(layers) ?? each(layers, (layer) => slides && layer >= from);
  const window = sliding.includes(true) ? config.size("sliding_window", 4096) : null;
  return {
    ...spec,
    hasBias: { qkv: true, attentionOut: false, mlp: false },
    windows: sliding.map((one) => (one ? window : null)),
  };
}

function qwen3(config: ModelConfig): Spec {
  const bias = config.flag("attention_bias", false);
  return {
    ...qwen2(config),
    hasQkNorms: true,
    hasBias: { qkv: bias, attentionOut: bias, mlp: false },
  };
}

function gemma(config: ModelConfig): Spec {
  const spec = llama(config);
  // Old checkpoints say "gelu" in hidden_act and mean its tanh form.
  const activation = config.value("hidden_activation") == null ? "geluTanh" : config.activation("hidden_activation", ""); // prettier-ignore
  return {
    ...spec,
    activation,
    norm: { ...spec.norm, isPlusOne: true },
    embeddingScale: Math.sqrt(spec.dModel),
    tied: config.flag("tie_word_embeddings", true),
  };
}

function gemma2(config: ModelConfig): Spec {
  const spec = gemma(config);
  const { layers } = spec;
  const sliding = config.slidingLayers(layers) ?? each(layers, (layer) => layer % 2 === 0);
  const window = config.size("sliding_window", 4096);
  const scale = config.number("query_pre_attn_scalar", 256) ** -0.5;
  return {
    ...spec,
    hasPostNorms: true,
    attentionScale: each(layers, () => scale),
    windows: sliding.map((one) => (one ? window : null)),
    scoreCap: config.positive("attn_logit_softcapping"),
    logitCap: config.positive("final_logit_softcapping"),
  };
}

function gemma3(config: ModelConfig): Spec {
  const { layers, dHead, ...spec } = gemma2(config);
  const pattern = config.size("sliding_window_pattern", 6);
  const sliding =
    config.slidingLayers(layers) ?? each(layers, (layer) => (layer + 1) % pattern !== 0);
  const window = config.size("sliding_window", 4096);
  const whole = config.rotation(dHead, EVERY_LAYER);
  const local = config.rotation(dHead, {
    ...{ layers: "sliding_attention", base: "rope_local_base_freq", isScaled: false },
  });
  return {
    ...{ ...spec, layers, dHead, hasQkNorms: true },
    windows: sliding.map((one) => (one ? window : null)),
    positions: rotary(layers, (layer) => (sliding[layer] ? local : whole)),
  };
}

function bert(config: ModelConfig): Spec {
  const spec = plain(config);
  if ((config.value("position_embedding_type") ?? "absolute") !== "absolute")
    throw config.error("position_embedding_type", "is not supported; only absolute is");
  for (const field of ["is_decoder", "add_cross_attention"])
    if (config.flag(field, false))
      throw config.error(field, "is not supported: of BERT only encoders are");
  return {
    ...{ ...spec, isEncoder: true },
    tokenTypes: config.size("type_vocab_size", 2),
    dMlp: config.size("intermediate_size"),
    contextLength: config.size("max_position_embeddings", 512),
    norm: layerNorm(config.number("layer_norm_eps", 1e-12)),
    positions: { kind: "learned", offset: 0 },
    qkv: "apart",
    activation: config.activation("hidden_act", "gelu"),
    tied: config.flag("tie_word_embeddings", true),
  };
}

function distilBert(config: ModelConfig): Spec {
  return {
    ...plain(config, { layers: "n_layers", dModel: "dim", heads: "n_heads" }),
    isEncoder: true,
    dMlp: config.size("hidden_dim"),
    contextLength: config.size("max_position_embeddings", 512),
    norm: layerNorm(1e-12),
    positions: { kind: "learned", offset: 0 },
    qkv: "apart",
    activation: config.activation("activation", "gelu"),
    tied: config.flag("tie_word_embeddings", true),
  };
}

const layerNorm = (epsilon: number) => ({ kind: "layerNorm", epsilon, isPlusOne: false }) as const;

function rotary(layers: number, of: (layer: number) => Rotation | null): Spec["positions"] {
  return { kind: "rotary", layers: each(layers, of) };
}

const LLAMA_NAMES = {
  embedding: "embed_tokens",
  norm1: "layers.{}.input_layernorm",
  query: "layers.{}.self_attn.q_proj",
  key: "layers.{}.self_attn.k_proj",
  value: "layers.{}.self_attn.v_proj",
  queryNorm: "layers.{}.self_attn.q_norm",
  keyNorm: "layers.{}.self_attn.k_norm",
  attentionOut: "layers.{}.self_attn.o_proj",
  norm2: "layers.{}.post_attention_layernorm",
  gate: "layers.{}.mlp.gate_proj",
  mlpIn: "layers.{}.mlp.up_proj",
  mlpOut: "layers.{}.mlp.down_proj",
  finalNorm: "norm",
};

const likeLlama = (read: Family["read"]): Family => ({
  read,
  linear: "outIn",
  prefixes: ["model.", "language_model.model.", "model.language_model.", ""],
  names: LLAMA_NAMES,
  unembedding: "lm_head",
});

/** "post_attention_layernorm" is the norm of what attention adds there, not of what the MLP reads. */
const likeGemma2 = (read: Family["read"]): Family => ({
  ...likeLlama(read),
  names: {
    ...LLAMA_NAMES,
    postNorm1: "layers.{}.post_attention_layernorm",
    norm2: "layers.{}.pre_feedforward_layernorm",
    postNorm2: "layers.{}.post_feedforward_layernorm",
  },
});

/** By `model_type`. */
export const FAMILIES: Readonly<Record<string, Family>> = {
  gpt2: {
    read: gpt2,
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
    unembedding: "lm_head",
  },
  gpt_neo: {
    read: gptNeo,
    linear: "outIn",
    prefixes: ["transformer.", ""],
    names: {
      embedding: "wte",
      positions: "wpe",
      norm1: "h.{}.ln_1",
      query: "h.{}.attn.attention.q_proj",
      key: "h.{}.attn.attention.k_proj",
      value: "h.{}.attn.attention.v_proj",
      attentionOut: "h.{}.attn.attention.out_proj",
      norm2: "h.{}.ln_2",
      mlpIn: "h.{}.mlp.c_fc",
      mlpOut: "h.{}.mlp.c_proj",
      finalNorm: "ln_f",
    },
    unembedding: "lm_head",
  },
  opt: {
    read: opt,
    linear: "outIn",
    prefixes: ["model.decoder.", "decoder.", ""],
    names: {
      embedding: "embed_tokens",
      positions: "embed_positions",
      norm1: "layers.{}.self_attn_layer_norm",
      query: "layers.{}.self_attn.q_proj",
      key: "layers.{}.self_attn.k_proj",
      value: "layers.{}.self_attn.v_proj",
      attentionOut: "layers.{}.self_attn.out_proj",
      norm2: "layers.{}.final_layer_norm",
      mlpIn: "layers.{}.fc1",
      mlpOut: "layers.{}.fc2",
      finalNorm: "final_layer_norm",
    },
    unembedding: "lm_head",
  },
  gpt_neox: {
    read: gptNeoX,
    linear: "outIn",
    prefixes: ["gpt_neox.", ""],
    names: {
      embedding: "embed_in",
      norm1: "layers.{}.input_layernorm",
      qkv: "layers.{}.attention.query_key_value",
      attentionOut: "layers.{}.attention.dense",
      norm2: "layers.{}.post_attention_layernorm",
      mlpIn: "layers.{}.mlp.dense_h_to_4h",
      mlpOut: "layers.{}.mlp.dense_4h_to_h",
      finalNorm: "final_layer_norm",
    },
    unembedding: "embed_out",
  },
  llama: likeLlama(llama),
  mistral: likeLlama(mistral),
  smollm3: likeLlama(smolLm3),
  qwen2: likeLlama(qwen2),
  qwen3: likeLlama(qwen3),
  gemma: likeLlama(gemma),
  gemma2: likeGemma2(gemma2),
  gemma3_text: likeGemma2(gemma3),
  bert: {
    read: bert,
    linear: "outIn",
    prefixes: ["bert.", ""],
    names: {
      embedding: "embeddings.word_embeddings",
      positions: "embeddings.position_embeddings",
      tokenTypes: "embeddings.token_type_embeddings",
      embeddingNorm: "embeddings.LayerNorm",
      query: "encoder.layer.{}.attention.self.query",
      key: "encoder.layer.{}.attention.self.key",
      value: "encoder.layer.{}.attention.self.value",
      attentionOut: "encoder.layer.{}.attention.output.dense",
      norm1: "encoder.layer.{}.attention.output.LayerNorm",
      mlpIn: "encoder.layer.{}.intermediate.dense",
      mlpOut: "encoder.layer.{}.output.dense",
      norm2: "encoder.layer.{}.output.LayerNorm",
    },
    unembedding: "cls.predictions.decoder",
    maskedHead: {
      dense: "cls.predictions.transform.dense",
      norm: "cls.predictions.transform.LayerNorm",
      biases: ["cls.predictions.bias", "cls.predictions.decoder.bias"],
    },
  },
  distilbert: {
    read: distilBert,
    linear: "outIn",
    prefixes: ["distilbert.", ""],
    names: {
      embedding: "embeddings.word_embeddings",
      positions: "embeddings.position_embeddings",
      embeddingNorm: "embeddings.LayerNorm",
      query: "transformer.layer.{}.attention.q_lin",
      key: "transformer.layer.{}.attention.k_lin",
      value: "transformer.layer.{}.attention.v_lin",
      attentionOut: "transformer.layer.{}.attention.out_lin",
      norm1: "transformer.layer.{}.sa_layer_norm",
      mlpIn: "transformer.layer.{}.ffn.lin1",
      mlpOut: "transformer.layer.{}.ffn.lin2",
      norm2: "transformer.layer.{}.output_layer_norm",
    },
    unembedding: "vocab_projector",
    maskedHead: {
      dense: "vocab_transform",
      norm: "vocab_layer_norm",
      biases: ["vocab_projector.bias"],
    },
  },
};

/** Models whose text part is one of the families: `model_type` → the field that holds its config. */
export const WRAPPERS: Readonly<Record<string, string>> = { gemma3: "text_config" };
