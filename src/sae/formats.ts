/**
 * SAEs as files that others read. The only place with their snake_case names.
 *
 * - A folder in SAELens' layout (version 6): cfg.json and sae_weights.safetensors with W_enc
 *   [d_in, d_sae], b_enc, W_dec [d_sae, d_in], b_dec; threshold for jumprelu; b_gate (for b_enc),
 *   b_mag and r_mag for gated; W_dec [d_sae, d_out] and W_skip [d_out, d_in] of a (skip) transcoder.
 *   A batchTopk SAE is written as the jumprelu one that it is once trained, a crosscoder as an SAE of
 *   its hook points side by side. Beside them our own metadata.json, which remembers what it was.
 *   SAELens has no topk and no gated transcoders; under names of our own they are in the same layout,
 *   see `forSaeLens`.
 * - A PyTorch file, see `torchCheckpoint`.
 */
import { mkdir, open, readFile, rename, rm } from "node:fs/promises";
import { dirname, join } from "node:path";
import { messageOf, UserError } from "../error.ts";
import { isRecord } from "../is-record.ts";
import { Safetensors } from "../safetensors.ts";
import { writeSafetensors } from "../safetensors-write.ts";
import type { Selection } from "./architecture.ts";
import { Sae } from "./sae.ts";
import type { SaeSpec } from "./weights.ts";
import { torchFile, TorchTensor, type TorchValue } from "./torch-file.ts";

/** What is known about an SAE beside its weights; all of it may be absent. */
export interface SaeDetails {
  /** What the activations were taken from, for cfg.json. */
  modelName?: string;
  hookPoint?: string;
  /** What a transcoder predicts. */
  targetHookPoint?: string;
  /** Of a crosscoder, in the order of its heads, instead of `hookPoint`. */
  hookPoints?: string[];
  contextLength?: number;
  prependBos?: boolean;
  /** How the documents became rows beside that, where it is out of the usual (PackingRules). */
  eos?: true | undefined;
  packing?: "separate" | undefined;
  dataset?: string;
  /** Mean share of the latents that are active in a row: L0 / dSae. */
  averageSparsity?: number;
  /** Latents that fire in more than 1 % of the rows. */
  activeFeatures?: number;
  /** The configuration it was trained with; plain JSON, as the next two. */
  trainingConfig?: unknown;
  /** Final metrics. */
  metrics?: unknown;
  /** Hashes of weights, data and tokenizer, versions, seeds. */
  provenance?: unknown;
}

/** SAELens' names for our architectures; "_transcoder" or "_skip_transcoder" is added to them, see `layoutName`. */
const architectures = {
  relu: "standard",
  topk: "topk",
  batchTopk: "jumprelu",
  jumprelu: "jumprelu",
  gated: "gated",
} as const satisfies Record<Selection["architecture"], string>;

/** SAELens calls a transcoder without any other name one of ReLU latents. It registers those and the ones of jumprelu. */
function layoutName({ selection, transcoder, skip }: SaeSpec): string {
  const name = architectures[selection.architecture];
  if (!transcoder) return name;
  return [...(name === "standard" ? [] : [name]), ...(skip ? ["skip"] : []), "transcoder"].join(
    "_",
  );
}

/** What `layoutName` made a name from. */
function readLayoutName(name: unknown): { name: unknown; transcoder: boolean; skip: boolean } {
  const match = /^(?:(.+?)_)??(skip_)?transcoder$/.exec(String(name));
  if (!match) return { name, transcoder: false, skip: false };
  return { name: match[1] ?? "standard", transcoder: true, skip: match[2] !== undefined };
}

/**
 * Writes cfg.json, sae_weights.safetensors and metadata.json into `folder`, with its transforms
 * folded into the weights. cfg.json comes last: a folder that has one is complete.
 * @throws UserError when the disk is full.
 */
export async function saveSae(folder: string, sae: Sae, details: SaeDetails = {}): Promise<void> {
  const folded = sae.fold();
  const { W_enc, b_enc, W_dec, b_dec, spec } = folded;
  const { dIn, dOut, dSae, heads, matryoshkaWidths, selection, applyBDecToInput } = spec;
  const vector = (data: Float32Array) => ({ dtype: "F32", shape: [data.length], data }) as const;
  const threshold =
    selection.architecture === "batchTopk"
      ? new Float32Array(dSae).fill(selection.threshold)
      : folded.threshold;
  const { b_mag, r_mag, W_skip } = folded;
  await mkdir(folder, { recursive: true });
  await writeSafetensors(join(folder, "sae_weights.safetensors"), {
    W_enc: { dtype: "F32", shape: [dIn, dSae], data: transpose(W_enc, dSae, dIn) },
    [selection.architecture === "gated" ? "b_gate" : "b_enc"]: vector(b_enc),
    W_dec: { dtype: "F32", shape: [dSae, dOut], data: W_dec },
    b_dec: vector(b_dec),
    ...(threshold && { threshold: vector(threshold) }),
    ...(b_mag && { b_mag: vector(b_mag) }),
    ...(r_mag && { r_mag: vector(r_mag) }),
    ...(W_skip && { W_skip: { dtype: "F32", shape: [dOut, dIn], data: W_skip } }),
  });
  await writeJson(join(folder, "metadata.json"), {
    n_features: dSae,
    activation_dim: dIn,
    selection,
    ...(heads.length > 1 && { heads }),
    ...(matryoshkaWidths.length > 1 && { matryoshka_widths: matryoshkaWidths }),
    avg_sparsity: details.averageSparsity,
    active_features: details.activeFeatures,
    training_config: details.trainingConfig,
    metrics: details.metrics,
    provenance: details.provenance,
  });
  await writeJson(join(folder, "cfg.json"), {
    architecture: layoutName(spec),
    ...(selection.architecture === "topk" && {
      k: selection.k,
      rescale_acts_by_decoder_norm: false,
    }),
    d_in: dIn,
    d_sae: dSae,
    ...(spec.transcoder && { d_out: dOut }),
    dtype: "float32",
    device: "cpu",
    apply_b_dec_to_input: applyBDecToInput,
    normalize_activations: spec.input.kind === "layerNorm" ? "layer_norm" : "none",
    reshape_activations: "none",
    metadata: {
      // The layout's version; without one SAELens takes the file for an older layout.
      sae_lens_version: "6.0.0",
      model_name: details.modelName,
      hook_name: details.hookPoint,
      hook_name_out: details.targetHookPoint,
      hook_names: details.hookPoints,
      context_size: details.contextLength,
      prepend_bos: details.prependBos,
      append_eos: details.eos,
      packing: details.packing,
      dataset_path: details.dataset,
    },
  });
}

/**
 * The SAE as SAELens can compute it, for `saveSae`: itself, but a gated transcoder as a jumprelu one.
 * With u = W_enc t and shared directions the gate u + b_gate > 0 is a threshold on the magnitude
 * e^r u + b_mag (Rajamanoharan et al. 2024, appendix): θ = b_mag - e^r b_gate.
 * @throws UserError for a topk transcoder, which SAELens has no class for.
 */
export function forSaeLens(sae: Sae): Sae {
  const { spec, b_enc, b_mag, r_mag } = sae;
  const { architecture } = spec.selection;
  if (!spec.transcoder || !["topk", "gated"].includes(architecture)) return sae;
  if (!b_mag || !r_mag)
    throw new UserError(
      "SAELens has no transcoder with top-k latents. Export it with --format pt, or train with sae.architecture batchTopk, which becomes the threshold transcoder that SAELens reads.",
    );
  const { dIn } = spec;
  const W_enc = sae.W_enc.map((w, i) => w * Math.exp(r_mag[Math.floor(i / dIn)]));
  const threshold = b_mag.map((b, f) => b - Math.exp(r_mag[f]) * b_enc[f]);
  const { W_dec, b_dec, W_skip } = sae;
  return new Sae(
    { ...spec, selection: { architecture: "jumprelu" } },
    { W_enc, b_enc: b_mag, threshold, W_dec, b_dec, ...(W_skip && { W_skip }) },
  );
}

/**
 * Reads a folder in SAELens' layout.
 * @throws UserError when a file or tensor is missing, a shape is not what cfg.json says, or the SAE
 * is of a kind that this version cannot compute exactly.
 */
export async function loadSae(folder: string): Promise<{ sae: Sae; details: SaeDetails }> {
  const cfg = await readJson(join(folder, "cfg.json"));
  if (!cfg)
    throw new UserError(
      `${folder} has no cfg.json; give a folder with cfg.json and sae_weights.safetensors.`,
    );
  const at = join(folder, "cfg.json");
  const { name, transcoder, skip } = readLayoutName(cfg.architecture);
  const selection = readSelection({ ...cfg, architecture: name }, at);
  const dIn = readCount(cfg, "d_in", at);
  const dOut = transcoder ? readCount(cfg, "d_out", at) : dIn;
  const dSae = readCount(cfg, "d_sae", at);
  requireValue(cfg, at, "normalize_activations", transcoder ? ["none"] : ["none", "layer_norm"]);
  requireValue(cfg, at, "reshape_activations", ["none"]);
  if (selection.architecture === "topk" && selection.k > dSae)
    throw new UserError(`${at}: k must be at most d_sae (${dSae}); got ${selection.k}`);
  const applyBDecToInput = cfg.apply_b_dec_to_input ?? !transcoder;
  if (typeof applyBDecToInput !== "boolean")
    throw new UserError(
      `${at}: apply_b_dec_to_input must be true or false; got ${JSON.stringify(applyBDecToInput)}`,
    );

  const store = await Safetensors.open(join(folder, "sae_weights.safetensors"));
  try {
    const read = (name: string, ...shape: number[]): Promise<Float32Array> => {
      const seen = store.info(name);
      if (seen.shape.join() !== shape.join())
        throw new UserError(
          `${seen.file}: ${name} must have shape [${shape.join(", ")}] by cfg.json's d_in ${dIn} and d_sae ${dSae}; it has [${seen.shape.join(", ")}]`,
        );
      return store.floats(name);
    };
    const { architecture } = selection;
    const isGated = architecture === "gated";
    const weights = {
      W_enc: transpose(await read("W_enc", dIn, dSae), dIn, dSae),
      b_enc: await read(isGated ? "b_gate" : "b_enc", dSae),
      W_dec: await read("W_dec", dSae, dOut),
      b_dec: await read("b_dec", dOut),
      ...(skip && { W_skip: await read("W_skip", dOut, dIn) }),
      ...(architecture === "jumprelu" && { threshold: await read("threshold", dSae) }),
      ...(isGated && { b_mag: await read("b_mag", dSae), r_mag: await read("r_mag", dSae) }),
    };
    const spec = {
      ...{ selection, dIn, dOut, dSae, transcoder, skip, applyBDecToInput },
      ...(await structureOf(folder, dIn, dSae)),
      // SAELens multiplies outputs by the deviation alone, which is the same but for its epsilon.
      ...(cfg.normalize_activations === "layer_norm" && {
        input: { kind: "layerNorm", eps: 1e-5 } as const,
      }),
    };
    const was = await batchTopKOf(folder, weights.threshold);
    const sae = was
      ? new Sae({ ...spec, selection: was }, { ...weights, threshold: undefined })
      : new Sae(spec, weights);
    return { sae, details: await readDetails(folder, cfg) };
  } finally {
    await store.close();
  }
}

/**
 * A PyTorch checkpoint of the SAE as two nn.Linear layers:
 * x̂ = decoder(select(encoder(x))) with encoder.weight [dSae, dIn] and decoder.weight [dIn, dSae].
 * A decoder bias that is subtracted from the input goes into the encoder's: b_enc - W_enc b_dec.
 * `config.activation` says what select is: relu, or topk with `config.k` (then relu); batchTopk and
 * jumprelu keep z where z > max(threshold, 0); gated gives max(e^{r_mag} W_enc x + b_mag, 0) where
 * encoder(x) > 0. `skip.weight` [dOut, dIn] is added by a skip transcoder. When
 * `config.normalize_activations` is layer_norm, x is each row less its mean, divided by its standard
 * deviation, and both are undone on x̂.
 */
export function torchCheckpoint(sae: Sae, details: SaeDetails = {}): Uint8Array {
  const folded = sae.fold();
  const { W_enc, b_enc, W_dec, b_dec, W_skip, b_mag, r_mag, spec } = folded;
  const { dIn, dOut, dSae, selection, applyBDecToInput } = spec;
  const bias = Float64Array.from(b_enc);
  const magnitudeBias = Float64Array.from(b_mag ?? []);
  for (let f = 0; applyBDecToInput && f < dSae; f++) {
    let shift = 0;
    for (let c = 0; c < dIn; c++) shift += W_enc[f * dIn + c] * b_dec[c];
    bias[f] -= shift;
    if (r_mag) magnitudeBias[f] -= Math.exp(r_mag[f]) * shift;
  }
  const threshold =
    selection.architecture === "batchTopk"
      ? new Float32Array(dSae).fill(selection.threshold)
      : folded.threshold;
  const extra: [string, TorchTensor][] = [];
  if (threshold) extra.push(["threshold", new TorchTensor([dSae], threshold)]);
  if (r_mag)
    extra.push(
      ["r_mag", new TorchTensor([dSae], r_mag)],
      ["b_mag", new TorchTensor([dSae], Float32Array.from(magnitudeBias))],
    );
  return torchFile({
    model_state_dict: new Map([
      ["encoder.weight", new TorchTensor([dSae, dIn], W_enc)],
      ["encoder.bias", new TorchTensor([dSae], Float32Array.from(bias))],
      ["decoder.weight", new TorchTensor([dOut, dSae], transpose(W_dec, dSae, dOut))],
      ["decoder.bias", new TorchTensor([dOut], b_dec)],
      ...(W_skip ? [["skip.weight", new TorchTensor([dOut, dIn], W_skip)] as const] : []),
      ...extra,
    ]),
    config: {
      activation: selection.architecture,
      k: selection.architecture === "topk" ? selection.k : undefined,
      d_in: dIn,
      d_sae: dSae,
      d_out: spec.transcoder ? dOut : undefined,
      normalize_activations: spec.input.kind === "layerNorm" ? "layer_norm" : undefined,
      heads: spec.heads.length > 1 ? spec.heads : undefined,
      model_name: details.modelName,
      hook_name: details.hookPoint,
      hook_name_out: details.targetHookPoint,
      hook_names: details.hookPoints,
    },
    training_config: plain(details.trainingConfig ?? {}),
    metrics: plain(details.metrics ?? {}),
  });
}

/** Writes `torchCheckpoint` to `path`, as a whole or not at all. @throws UserError when the disk is full. */
export async function saveTorchCheckpoint(
  path: string,
  sae: Sae,
  details: SaeDetails = {},
): Promise<void> {
  await mkdir(dirname(path), { recursive: true });
  await writeWhole(path, torchCheckpoint(sae, details));
}

function readSelection(cfg: Record<string, unknown>, at: string): Selection {
  switch (cfg.architecture) {
    case "standard":
      return { architecture: "relu" };
    case "jumprelu":
    case "gated":
      return { architecture: cfg.architecture };
    case "topk":
      // Selecting by z‖W_dec‖ is another function than selecting by z.
      requireValue(cfg, at, "rescale_acts_by_decoder_norm", [false]);
      return { architecture: "topk", k: readCount(cfg, "k", at) };
    default: {
      const known = [...new Set(Object.values(architectures))].join(", ");
      throw new UserError(
        `${at}: unknown architecture ${JSON.stringify(cfg.architecture)}; this version reads ${known}`,
      );
    }
  }
}

/** Heads and nested prefixes that metadata.json tells of, if they go with the weights. */
async function structureOf(
  folder: string,
  dIn: number,
  dSae: number,
): Promise<Partial<Pick<SaeSpec, "heads" | "matryoshkaWidths">>> {
  const meta = (await readJson(join(folder, "metadata.json"))) ?? {};
  const counts = (value: unknown): number[] =>
    Array.isArray(value) && value.every(Number.isSafeInteger) ? (value as number[]) : [];
  const heads = counts(meta.heads);
  const matryoshkaWidths = counts(meta.matryoshka_widths);
  return {
    ...(heads.reduce((a, b) => a + b, 0) === dIn && { heads }),
    ...(matryoshkaWidths.at(-1) === dSae && { matryoshkaWidths }),
  };
}

/** The batch top-k selection that metadata.json says a jumprelu SAE comes from, if its threshold is that one still. */
async function batchTopKOf(
  folder: string,
  threshold: Float32Array | undefined,
): Promise<Selection | undefined> {
  if (!threshold) return undefined;
  const selection = (await readJson(join(folder, "metadata.json")))?.selection;
  if (!isRecord(selection) || selection.architecture !== "batchTopk") return undefined;
  const { k, threshold: theta } = selection;
  if (typeof k !== "number" || typeof theta !== "number") return undefined;
  const isSame = threshold.every((v) => v === Math.fround(theta));
  return isSame ? { architecture: "batchTopk", k, threshold: theta } : undefined;
}

function readCount(cfg: Record<string, unknown>, key: string, at: string): number {
  const value = cfg[key];
  if (!Number.isSafeInteger(value) || (value as number) < 1)
    throw new UserError(`${at}: ${key} must be a positive integer; got ${JSON.stringify(value)}`);
  return value as number;
}

/** Absent counts as the first of `allowed`. */
function requireValue(
  cfg: Record<string, unknown>,
  at: string,
  key: string,
  allowed: readonly (string | boolean)[],
): void {
  const value = cfg[key] ?? allowed[0];
  if (!(allowed as readonly unknown[]).includes(value))
    throw new UserError(
      `${at}: ${key} is ${JSON.stringify(value)}; this version can only read ${allowed.map((v) => JSON.stringify(v)).join(" or ")}`,
    );
}

async function readDetails(folder: string, cfg: Record<string, unknown>): Promise<SaeDetails> {
  const meta = (await readJson(join(folder, "metadata.json"))) ?? {};
  const from = (isRecord(cfg.metadata) ? cfg.metadata : {}) as Record<string, never>;
  return {
    modelName: from.model_name ?? undefined,
    hookPoint: from.hook_name ?? undefined,
    ...(from.hook_name_out ? { targetHookPoint: from.hook_name_out } : {}),
    ...(from.hook_names ? { hookPoints: from.hook_names } : {}),
    contextLength: from.context_size ?? undefined,
    prependBos: from.prepend_bos ?? undefined,
    ...(from.append_eos === true && { eos: true as const }),
    ...(from.packing === "separate" && { packing: "separate" as const }),
    dataset: from.dataset_path ?? undefined,
    averageSparsity: meta.avg_sparsity as number | undefined,
    activeFeatures: meta.active_features as number | undefined,
    trainingConfig: meta.training_config,
    metrics: meta.metrics,
    provenance: meta.provenance,
  };
}

/** [rows, columns] → [columns, rows]. */
function transpose(matrix: Float32Array, rows: number, columns: number): Float32Array {
  const out = new Float32Array(matrix.length);
  // Tiles keep both sides in the cache: a plain double loop is several times slower at 24,576 × 768.
  const tile = 32;
  for (let r0 = 0; r0 < rows; r0 += tile)
    for (let c0 = 0; c0 < columns; c0 += tile)
      for (let r = r0; r < Math.min(rows, r0 + tile); r++)
        for (let c = c0; c < Math.min(columns, c0 + tile); c++)
          out[c * rows + r] = matrix[r * columns + c];
  return out;
}

/** What JSON would keep of a value: no undefined, no functions. */
function plain(value: unknown): TorchValue {
  return JSON.parse(JSON.stringify(value)) as TorchValue;
}

async function readJson(path: string): Promise<Record<string, unknown> | undefined> {
  let text: string;
  try {
    text = await readFile(path, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw new UserError(`${path} cannot be read: ${messageOf(error)}`);
  }
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new UserError(`${path} is not JSON: ${messageOf(error)}`);
  }
  if (!isRecord(value)) throw new UserError(`${path} is not a JSON object`);
  return value;
}

async function writeJson(path: string, value: unknown): Promise<void> {
  await writeWhole(path, new TextEncoder().encode(JSON.stringify(value, null, 2) + "\n"));
}

async function writeWhole(path: string, bytes: Uint8Array): Promise<void> {
  const temporary = `${path}.${process.pid}.tmp`;
  try {
    const handle = await open(temporary, "w");
    try {
      await handle.writeFile(bytes);
      await handle.sync();
    } finally {
      await handle.close();
    }
    await rename(temporary, path);
  } catch (error) {
    await rm(temporary, { force: true });
    if ((error as NodeJS.ErrnoException).code === "ENOSPC")
      throw new UserError(
        `no space left on the disk for ${path} (${bytes.length} bytes): free some.`,
      );
    throw error;
  }
}
