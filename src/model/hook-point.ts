/**
 * Hook points: places in a transformer whose values can be read or replaced, under TransformerLens
 * names and with its meanings. Values are flattened to [batch, position, width]: `attn.hook_z`,
 * [batch, position, head, dHead] there, is heads · dHead wide here. Only attention's weights,
 * `attn.hook_pattern` [batch, head, query, key], are no vectors of positions.
 */
import { nearestName, UserError } from "../error.ts";

/** What a model's hook points depend on. */
export interface Widths {
  layers: number;
  dModel: number;
  heads: number;
  /** Heads of keys and values, each shared by heads / kvHeads queries. */
  kvHeads: number;
  dHead: number;
  dMlp: number;
  /** Attention and MLP read the same stream: there is no hook_resid_mid then. */
  isParallel: boolean;
  /** The MLP's hidden layer is act(gate x) ⊙ (up x). */
  isGated: boolean;
  /** Positions turn queries and keys. */
  isRotary: boolean;
  /** It sees the whole text at every position, and norms stand behind the sums (BERT). */
  isEncoder: boolean;
}

/** What is at the hook points of a block, by their names in TransformerLens: how wide it is. */
const BLOCK_HOOKS = {
  hook_resid_pre: (w: Widths) => w.dModel,
  "ln1.hook_scale": () => 1,
  "ln1.hook_normalized": (w: Widths) => w.dModel,
  "attn.hook_q": (w: Widths) => w.heads * w.dHead,
  "attn.hook_k": (w: Widths) => w.kvHeads * w.dHead,
  "attn.hook_v": (w: Widths) => w.kvHeads * w.dHead,
  "attn.hook_rot_q": (w: Widths) => w.heads * w.dHead,
  "attn.hook_rot_k": (w: Widths) => w.kvHeads * w.dHead,
  "attn.hook_z": (w: Widths) => w.heads * w.dHead,
  hook_attn_out: (w: Widths) => w.dModel,
  hook_resid_mid: (w: Widths) => w.dModel,
  "ln2.hook_scale": () => 1,
  "ln2.hook_normalized": (w: Widths) => w.dModel,
  "mlp.hook_pre": (w: Widths) => w.dMlp,
  "mlp.hook_pre_linear": (w: Widths) => w.dMlp,
  "mlp.hook_post": (w: Widths) => w.dMlp,
  hook_mlp_out: (w: Widths) => w.dModel,
  hook_resid_post: (w: Widths) => w.dModel,
  hook_normalized_resid_post: (w: Widths) => w.dModel,
};

/** Those outside the blocks. */
const OUTER_HOOKS = {
  hook_embed: (w: Widths) => w.dModel,
  hook_full_embed: (w: Widths) => w.dModel,
  "ln_final.hook_scale": () => 1,
  "ln_final.hook_normalized": (w: Widths) => w.dModel,
};

/** Attention's weights, [head, query, key]: no vector for each position, so nothing that patterns of names mean. */
const PATTERN = "attn.hook_pattern";

export type BlockHook = keyof typeof BLOCK_HOOKS | typeof PATTERN;
export type OuterHook = keyof typeof OUTER_HOOKS;

/** A hook point taken apart; layer is null outside the blocks. */
export type HookPoint =
  { name: string; kind: OuterHook; layer: null } | { name: string; kind: BlockHook; layer: number };

/** Every hook point of a model that has a vector for each position, in the order the data passes them. */
export function hookPoints(widths: Widths): string[] {
  const outer = outerHooks(widths);
  const isLast = (name: string) => name.startsWith("ln_final");
  const names: string[] = outer.filter((name) => !isLast(name));
  for (let layer = 0; layer < widths.layers; layer++)
    for (const kind of blockHooks(widths)) names.push(`blocks.${layer}.${kind}`);
  return [...names, ...outer.filter(isLast)];
}

function outerHooks({ isEncoder }: Widths): OuterHook[] {
  return isEncoder
    ? ["hook_embed", "hook_full_embed"]
    : ["hook_embed", "ln_final.hook_scale", "ln_final.hook_normalized"];
}

function blockHooks({ isParallel, isGated, isRotary, isEncoder }: Widths) {
  const absent: (string | false)[] = [
    isParallel && "hook_resid_mid",
    !isGated && "mlp.hook_pre_linear",
    ...(isRotary ? [] : ["attn.hook_rot_q", "attn.hook_rot_k"]),
    !isEncoder && "hook_normalized_resid_post",
  ];
  const all = Object.keys(BLOCK_HOOKS) as (keyof typeof BLOCK_HOOKS)[];
  const own = all.filter((kind) => !absent.includes(kind));
  if (!isEncoder) return own;
  // A norm is passed behind the sum that it belongs to.
  const place = (kind: string) => {
    const [norm] = kind.split(".");
    const sum = { ln1: "hook_resid_mid", ln2: "hook_resid_post" }[norm];
    return all.findIndex((one) => one === (sum ?? kind));
  };
  return own.sort((a, b) => place(a) - place(b));
}

/** Takes a name apart. Throws UserError, with the names that would do, if the model has no such point. */
export function parseHookPoint(name: string, widths: Widths): HookPoint {
  const outer = outerHooks(widths).find((one) => one === name);
  if (outer) return { name, kind: outer, layer: null };
  const [, digits, kind] = /^blocks\.(0|[1-9]\d*)\.(.+)$/.exec(name) ?? [];
  const layer = Number(digits);
  const known = [...blockHooks(widths), PATTERN].find((one) => one === kind);
  if (layer < widths.layers && known) return { name, kind: known as BlockHook, layer };
  throw unknown(name, widths);
}

/**
 * The first layer whose attention sees the values at a hook point, and whether those values are all
 * that it and what follows see of the layers before.
 */
export function layersAfter(
  name: string,
  widths: Widths,
): { firstLayer: number; isWhole: boolean } {
  const { kind, layer } = parseHookPoint(name, widths);
  switch (kind) {
    case "hook_embed":
    case "hook_full_embed":
      return { firstLayer: 0, isWhole: kind === "hook_full_embed" };
    case "ln_final.hook_scale":
    case "ln_final.hook_normalized":
      return { firstLayer: widths.layers, isWhole: kind === "ln_final.hook_normalized" };
    case "hook_resid_pre":
      return { firstLayer: layer, isWhole: true };
    case "ln1.hook_scale":
    case "ln1.hook_normalized":
      return { firstLayer: widths.isEncoder ? layer + 1 : layer, isWhole: false };
    case "attn.hook_q":
    case "attn.hook_k":
    case "attn.hook_v":
    case "attn.hook_rot_q":
    case "attn.hook_rot_k":
      return { firstLayer: layer, isWhole: false };
    default:
      return { firstLayer: layer + 1, isWhole: /^hook_(normalized_)?resid/.test(kind) };
  }
}

/**
 * The hook point of the residual stream that what comes of the values at a hook point is added to;
 * null where they are the stream themselves. With both of them given, nothing before them is needed.
 */
export function residualBefore(name: string, widths: Widths): string | null {
  const { kind, layer } = parseHookPoint(name, widths);
  switch (kind) {
    case "hook_embed":
    case "hook_full_embed":
    case "hook_resid_pre":
    case "hook_resid_mid":
    case "hook_resid_post":
    case "hook_normalized_resid_post":
      return null;
    case "ln1.hook_scale":
    case "ln1.hook_normalized":
      return `blocks.${layer}.${widths.isEncoder ? "hook_resid_mid" : "hook_resid_pre"}`;
    case "attn.hook_q":
    case "attn.hook_k":
    case "attn.hook_v":
    case "attn.hook_rot_q":
    case "attn.hook_rot_k":
    case "attn.hook_pattern":
    case "attn.hook_z":
    case "hook_attn_out":
      return `blocks.${layer}.hook_resid_pre`;
    case "ln2.hook_scale":
    case "ln2.hook_normalized":
      if (widths.isEncoder) return `blocks.${layer}.hook_resid_post`;
      return `blocks.${layer}.${widths.isParallel ? "hook_resid_pre" : "hook_resid_mid"}`;
    case "mlp.hook_pre":
    case "mlp.hook_pre_linear":
    case "mlp.hook_post":
    case "hook_mlp_out":
      return `blocks.${layer}.${widths.isParallel ? "hook_resid_pre" : "hook_resid_mid"}`;
    case "ln_final.hook_scale":
    case "ln_final.hook_normalized":
      return lastResidual(widths);
    default:
      return kind satisfies never;
  }
}

/** The hook point of the residual stream behind the last block. */
export function lastResidual({ layers, isEncoder }: Widths): string {
  return `blocks.${layers - 1}.${isEncoder ? "hook_normalized_resid_post" : "hook_resid_post"}`;
}

/** The shape of the values at a hook point, for rows of `length` tokens; UserError if the model has no such point. */
export function hookShape(name: string, widths: Widths, batch: number, length: number): number[] {
  if (parseHookPoint(name, widths).kind === PATTERN) return [batch, widths.heads, length, length];
  return [batch, length, hookWidth(name, widths)];
}

/** Width of the values at a hook point. Throws UserError if the model has no such point, or it has no width. */
export function hookWidth(name: string, widths: Widths): number {
  const { kind, layer } = parseHookPoint(name, widths);
  if (kind === PATTERN) throw widthless(name);
  return layer === null ? OUTER_HOOKS[kind](widths) : BLOCK_HOOKS[kind](widths);
}

function widthless(name: string): UserError {
  return new UserError(
    `${name} has a number for each pair of positions, so its width depends on the length of the text: ` +
      "it can be read and replaced with Model.forward, but not collected, steered or given to an autoencoder.",
  );
}

/**
 * Names for patterns: `*` stands for any characters, `blocks.*.hook_resid_post` for one point per
 * layer. In the model's order, each once. Throws UserError if a pattern fits no hook point with a width.
 */
export function expandHookPoints(patterns: Iterable<string>, widths: Widths): string[] {
  return matchHookPoints(patterns, hookPoints(widths), (pattern) =>
    /^blocks\..*hook_pattern$/.test(pattern) ? widthless(pattern) : unknown(pattern, widths),
  );
}

/**
 * Those of the names `all` that fit one of the patterns, in the order of `all`.
 * @throws what `unknown` makes of a pattern that fits none.
 */
export function matchHookPoints(
  patterns: Iterable<string>,
  all: readonly string[],
  unknown: (pattern: string) => Error,
): string[] {
  const wanted = new Set<string>();
  for (const pattern of patterns) {
    const escaped = pattern.replace(/[.+?^${}()|[\]\\]/g, "\\$&").replaceAll("*", ".*");
    const found = all.filter((name) => new RegExp(`^${escaped}$`).test(name));
    if (found.length === 0) throw unknown(pattern);
    for (const name of found) wanted.add(name);
  }
  return all.filter((name) => wanted.has(name));
}

function unknown(name: string, widths: Widths): UserError {
  const nearest = nearestName(name, hookPoints(widths));
  return new UserError(
    `the model has no hook point ${name}${nearest ? `; did you mean ${nearest}?` : "."} ` +
      `It has ${outerHooks(widths).join(", ")} and blocks.N.<hook> for N from 0 to ${widths.layers - 1}, ` +
      `where <hook> is one of ${blockHooks(widths).join(", ")} and, in Model.forward, ${PATTERN}.`,
  );
}
