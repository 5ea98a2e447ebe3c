/**
 * Hook points: places in a transformer whose values can be read or replaced, under TransformerLens
 * names and with its meanings. Values are flattened to [batch, position, width]: `attn.hook_z`,
 * [batch, position, head, dHead] there, is heads · dHead wide here.
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
}

/** The hook points of one block in the order the data passes them, and their widths. */
const BLOCK_HOOKS = {
  hook_resid_pre: (w: Widths) => w.dModel,
  "attn.hook_z": (w: Widths) => w.heads * w.dHead,
  hook_attn_out: (w: Widths) => w.dModel,
  hook_resid_mid: (w: Widths) => w.dModel,
  "mlp.hook_post": (w: Widths) => w.dMlp,
  hook_mlp_out: (w: Widths) => w.dModel,
  hook_resid_post: (w: Widths) => w.dModel,
};

export type BlockHook = keyof typeof BLOCK_HOOKS;

/** A hook point taken apart; `hook_embed` belongs to no block. */
export type HookPoint =
  | { name: string; kind: "hook_embed"; layer: null }
  | { name: string; kind: BlockHook; layer: number };

/** Every hook point of a model, in the order the data passes them. */
export function hookPoints(widths: Widths): string[] {
  const names = ["hook_embed"];
  for (let layer = 0; layer < widths.layers; layer++)
    for (const kind of blockHooks(widths)) names.push(`blocks.${layer}.${kind}`);
  return names;
}

function blockHooks({ isParallel }: Widths): BlockHook[] {
  const all = Object.keys(BLOCK_HOOKS) as BlockHook[];
  return isParallel ? all.filter((kind) => kind !== "hook_resid_mid") : all;
}

/** Takes a name apart. Throws UserError, with the names that would do, if the model has no such point. */
export function parseHookPoint(name: string, widths: Widths): HookPoint {
  if (name === "hook_embed") return { name, kind: name, layer: null };
  const [, digits, kind] = /^blocks\.(0|[1-9]\d*)\.(.+)$/.exec(name) ?? [];
  const layer = Number(digits);
  const known = blockHooks(widths).find((one) => one === kind);
  if (layer < widths.layers && known) return { name, kind: known, layer };
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
  if (kind === "hook_embed") return { firstLayer: 0, isWhole: false };
  const isWhole = kind.startsWith("hook_resid");
  return { firstLayer: kind === "hook_resid_pre" ? layer : layer + 1, isWhole };
}

/**
 * The hook point of the residual stream that what comes of the values at a hook point is added to;
 * null where they are the stream themselves. With both of them given, nothing before them is needed.
 */
export function residualBefore(name: string, widths: Widths): string | null {
  const { kind, layer } = parseHookPoint(name, widths);
  switch (kind) {
    case "hook_embed":
    case "hook_resid_pre":
    case "hook_resid_mid":
    case "hook_resid_post":
      return null;
    case "attn.hook_z":
    case "hook_attn_out":
      return `blocks.${layer}.hook_resid_pre`;
    case "mlp.hook_post":
    case "hook_mlp_out":
      return `blocks.${layer}.${widths.isParallel ? "hook_resid_pre" : "hook_resid_mid"}`;
    default:
      return kind satisfies never;
  }
}

/** Width of the values at a hook point. Throws UserError if the model has no such point. */
export function hookWidth(name: string, widths: Widths): number {
  const { kind } = parseHookPoint(name, widths);
  return kind === "hook_embed" ? widths.dModel : BLOCK_HOOKS[kind](widths);
}

/**
 * Names for patterns: `*` stands for any characters, `blocks.*.hook_resid_post` for one point per
 * layer. In the model's order, each once. Throws UserError if a pattern fits no hook point.
 */
export function expandHookPoints(patterns: Iterable<string>, widths: Widths): string[] {
  return matchHookPoints(patterns, hookPoints(widths), (pattern) => unknown(pattern, widths));
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
      `It has hook_embed and blocks.N.<hook> for N from 0 to ${widths.layers - 1}, where <hook> is ` +
      `one of ${blockHooks(widths).join(", ")}.`,
  );
}
