/** What a `config.json` means. */
import { nearestName } from "../error.ts";
import { isRecord } from "../is-record.ts";
import { FAMILIES, WRAPPERS } from "./families.ts";
import { ModelConfig } from "./model-config.ts";
import type { Spec } from "./spec.ts";

/**
 * The spec that a `config.json` describes. `path` is its path, for messages. Throws UserError,
 * naming the field, its value and what is supported, for anything this runtime would compute wrongly.
 */
export function readSpec(json: unknown, path: string): Spec {
  const outer = new ModelConfig(json, path);
  if (outer.value("quantization_config") != null) {
    throw outer.error(
      "quantization_config",
      "is not supported: use the checkpoint in float32, float16 or bfloat16",
    );
  }
  const wrapped = Object.hasOwn(WRAPPERS, outer.modelType) ? WRAPPERS[outer.modelType] : undefined;
  const config = (wrapped !== undefined && outer.part(wrapped)) || outer;
  if (Object.hasOwn(FAMILIES, config.modelType)) return FAMILIES[config.modelType].read(config);
  const supported = supportedFamilies();
  const nearest = nearestName(config.modelType, supported);
  throw config.error(
    "model_type",
    `is not a supported family${nearest ? ` (did you mean ${nearest}?)` : ""}; supported: ` +
      supported.join(", "),
  );
}

/** The field of a `config.json` that says which family the model is of, as one writes it. */
export function familyField(json: unknown): string {
  const type = isRecord(json) ? json["model_type"] : undefined;
  const wrapped = typeof type === "string" && Object.hasOwn(WRAPPERS, type) ? WRAPPERS[type] : null;
  const isInside = wrapped !== null && isRecord(json) && isRecord(json[wrapped]);
  return isInside ? `${wrapped}.model_type` : "model_type";
}

/** Every `model_type` that `readSpec` knows. */
export function supportedFamilies(): string[] {
  return [...Object.keys(FAMILIES), ...Object.keys(WRAPPERS)];
}
