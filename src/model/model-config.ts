/** A `config.json`, read field by field; every complaint names the file, the field and its value. */
import { UserError } from "../error.ts";
import { isRecord } from "../is-record.ts";
import type { Activation, Rotation } from "./spec.ts";

const ACTIVATIONS: Record<string, Activation> = {
  gelu: "geluErf",
  gelu_new: "geluTanh",
  gelu_fast: "geluTanh",
  gelu_pytorch_tanh: "geluTanh",
  relu: "relu",
  silu: "silu",
  swish: "silu",
};

type Fields = Record<string, unknown>;

export class ModelConfig {
  readonly modelType: string;
  readonly #path: string;
  readonly #fields: Fields;

  constructor(json: unknown, path: string) {
    if (!isRecord(json))
      throw new UserError(`${path} is not a JSON object: it should be a model's configuration.`);
    this.#path = path;
    this.#fields = json;
    const type = json["model_type"];
    if (typeof type !== "string") throw this.error("model_type", "must name the model's family");
    this.modelType = type;
  }

  value(field: string): unknown {
    return this.#fields[field];
  }

  /** A part with fields of its own, such as the text model of one that also sees; null: there is none. */
  part(field: string): ModelConfig | null {
    const part = this.value(field);
    return isRecord(part) ? new ModelConfig(part, `${this.#path}, ${field}`) : null;
  }

  /** A positive integer. An absent or null field has the default, if there is one. */
  size(field: string, fallback?: number): number {
    const value = this.value(field) ?? fallback;
    if (Number.isSafeInteger(value) && (value as number) > 0) return value as number;
    throw this.error(field, "must be a positive integer");
  }

  number(field: string, fallback?: number): number {
    const value = this.value(field) ?? fallback;
    if (typeof value === "number" && Number.isFinite(value)) return value;
    throw this.error(field, "must be a number");
  }

  /** A number above 0; null where the field is absent or null. */
  positive(field: string): number | null {
    if (this.value(field) == null) return null;
    const value = this.number(field);
    if (value > 0) return value;
    throw this.error(field, "must be above 0");
  }

  flag(field: string, fallback: boolean): boolean {
    const value = this.value(field) ?? fallback;
    if (typeof value === "boolean") return value;
    throw this.error(field, "must be true or false");
  }

  /** A token id, the first of several, or null. */
  id(field: string): number | null {
    const value: unknown = [this.value(field)].flat()[0] ?? null;
    if (value === null || (Number.isSafeInteger(value) && (value as number) >= 0))
      return value as number | null;
    throw this.error(field, "must be a token id");
  }

  activation(field: string, fallback: string): Activation {
    const value = this.value(field) ?? fallback;
    if (typeof value === "string" && Object.hasOwn(ACTIVATIONS, value)) return ACTIVATIONS[value];
    throw this.error(field, `is not supported; use one of ${Object.keys(ACTIVATIONS).join(", ")}`);
  }

  /** Which layers see a window only, by `layer_types`; undefined where the field is absent. */
  slidingLayers(layers: number): boolean[] | undefined {
    const types = this.value("layer_types");
    if (types == null) return undefined;
    const known = ["full_attention", "sliding_attention"];
    if (
      !Array.isArray(types) ||
      types.length !== layers ||
      !types.every((one) => known.includes(one as string))
    )
      // prettier-ignore
      throw this.error("layer_types", `must have ${layers} entries, each ${known.join(" or ")}`);
    return types.map((type) => type === "sliding_attention");
  }

  /**
   * How positions turn `dim` of each head's numbers. Settings stand at the top (rope_theta, rope_scaling)
   * or together in rope_parameters, there perhaps for each kind of layer apart.
   * @param kind of layer: its key in rope_parameters, and the field that holds its base elsewhere.
   */
  rotation(dim: number, kind: { layers: string; base: string; isScaled: boolean }): Rotation {
    const all = this.value("rope_parameters");
    const own = isRecord(all) ? (isRecord(all[kind.layers]) ? all[kind.layers] : all) : undefined;
    const parameters = own as Fields | undefined;
    const base = (parameters?.["rope_theta"] as number | undefined) ?? this.number(kind.base, 1e4);
    const old = kind.isScaled ? this.value("rope_scaling") : undefined;
    const scaling = parameters ?? (isRecord(old) ? old : {});
    const type = scaling["rope_type"] ?? scaling["type"] ?? "default";
    const field = parameters ? "rope_parameters" : "rope_scaling";
    const number = (name: string) => {
      const value = scaling[name];
      if (typeof value === "number" && value > 0) return value;
      throw this.error(field, `needs ${name}, a number above 0`);
    };
    if (!(base > 0)) throw this.error(kind.base, "must be above 0");
    const inverse = Float32Array.from({ length: dim / 2 }, (_, j) => 1 / base ** ((2 * j) / dim));
    switch (type) {
      case "default":
        return { dim, inverse };
      case "linear": {
        const factor = number("factor");
        return { dim, inverse: inverse.map((one) => one / factor) };
      }
      case "llama3": {
        // Llama 3.1: slow turns are slowed by the factor, fast ones kept, those between blended.
        const factor = number("factor");
        const [low, high] = [number("low_freq_factor"), number("high_freq_factor")];
        const context = number("original_max_position_embeddings");
        return {
          dim,
          inverse: inverse.map((one) => {
            const turns = (context * one) / (2 * Math.PI);
            const share = Math.min(1, Math.max(0, (turns - low) / (high - low)));
            return (1 - share) * (one / factor) + share * one;
          }),
        };
      }
      default:
        throw this.error(field, `has a type (${JSON.stringify(type)}) that is not supported; supported: default, linear, llama3`); // prettier-ignore
    }
  }

  /** The share of each head that is turned, where the family allows a part. */
  rotaryShare(field: string, fallback: number): number {
    const all = this.value("rope_parameters");
    const share = isRecord(all) ? all["partial_rotary_factor"] : undefined;
    return typeof share === "number" ? share : this.number(field, fallback);
  }

  error(field: string, problem: string): UserError {
    const value = JSON.stringify(this.value(field)) ?? "absent";
    return new UserError(`${this.#path}: ${field} (${value}) ${problem}.`);
  }
}
