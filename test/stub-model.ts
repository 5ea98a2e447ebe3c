/**
 * A language model for tests of what lies around one: a token per UTF-16 code unit, and activations
 * that say where they come from.
 */
import type { CollectModel } from "../src/model/collect.ts";
import { UserError } from "../src/error.ts";

export const BOS = 0;
/** A token of the text that passes for a special one. */
export const SPECIAL = "!".charCodeAt(0);
const WIDTHS: Record<string, number> = { hook_embed: 3, "blocks.0.hook_resid_post": 4 };

/** Token i of a row, at position p, has [token, p, tokens before it in the row, 1 (, -token)] / 8 at every hook point. */
export function stubActivation(row: ArrayLike<number>, p: number, width: number): number[] {
  let before = 0;
  for (let i = 0; i < p; i++) before += row[i];
  return [row[p], p, before % 1000, 1].slice(0, width).map((x) => x / 8);
}

export interface StubOptions {
  /** Put in place of the first activation of this token, where there is one. */
  odd?: { token: number; value: number };
  /** Milliseconds per forward pass. */
  delayMs?: number;
  /** Where it is said to run. */
  device?: CollectModel["device"];
}

export function stubModel({ odd, delayMs, device = "cpu" }: StubOptions = {}): CollectModel {
  const hookWidth = (name: string) => {
    if (Object.hasOwn(WIDTHS, name)) return WIDTHS[name];
    throw new UserError(`no hook point ${name}`);
  };
  return {
    device,
    info: {
      source: "stub",
      folder: "stub",
      family: "stub",
      layers: 1,
      dModel: 4,
      heads: 1,
      kvHeads: 1,
      ...{ isParallel: false, isGated: false, isRotary: false, isEncoder: false },
      dHead: 4,
      dMlp: 4,
      vocabSize: 65536,
      contextLength: 1024,
      parameters: 0,
    },
    tokenizer: {
      vocabSize: 65536,
      bosId: BOS,
      eosId: null,
      specialIds: [BOS, SPECIAL],
      hash: "stub",
      encode(text) {
        const ids = Int32Array.from(text, (_, i) => text.charCodeAt(i));
        const starts = ids.map((_, i) => i);
        return { ids, starts, ends: starts.map((start) => start + 1) };
      },
      decode: (ids) => String.fromCharCode(...Array.from(ids)),
      tokenBytes: (id) => Uint8Array.of(id),
    },
    expandHookPoints: (patterns) =>
      [...patterns].flatMap((pattern) => {
        if (pattern === "*") return Object.keys(WIDTHS);
        hookWidth(pattern);
        return [pattern];
      }),
    hookWidth,
    weightsHash: () => Promise.resolve("stub weights"),
    async forward({ tokens, batch, length, capture = [] }) {
      if (delayMs) await new Promise((resolve) => setTimeout(resolve, delayMs));
      const activations: Record<string, Float32Array> = {};
      for (const name of capture) {
        const width = hookWidth(name);
        const values = (activations[name] = new Float32Array(batch * length * width));
        for (let r = 0; r < batch; r++) {
          const row = tokens.subarray(r * length, (r + 1) * length);
          for (let p = 0; p < length; p++) {
            const start = (r * length + p) * width;
            values.set(stubActivation(row, p, width), start);
            if (row[p] === odd?.token) values[start] = odd.value;
          }
        }
      }
      return { activations };
    },
  };
}
