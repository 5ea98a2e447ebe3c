import { expect, test } from "vitest";

import {
  expandHookPoints,
  hookPoints,
  hookWidth,
  parseHookPoint,
  residualBefore,
} from "./hook-point.ts";

const widths = {
  ...{ layers: 12, dModel: 48, heads: 4, kvHeads: 2, dHead: 10, dMlp: 96 },
  isParallel: false,
};

test("a model has one embedding hook and seven per block, each with its width", () => {
  expect(hookPoints(widths)).toHaveLength(1 + 7 * 12);
  expect(hookWidth("hook_embed", widths)).toBe(48);
  expect(hookWidth("blocks.11.hook_resid_post", widths)).toBe(48);
  expect(hookWidth("blocks.0.attn.hook_z", widths)).toBe(40);
  expect(hookWidth("blocks.3.mlp.hook_post", widths)).toBe(96);
  for (const name of hookPoints(widths)) expect(parseHookPoint(name, widths).name).toBe(name);
});

test("patterns expand in the model's order, each point once", () => {
  expect(
    expandHookPoints(["blocks.1*.hook_resid_post", "blocks.0.*_z", "blocks.10.*post"], widths),
  ).toEqual([
    "blocks.0.attn.hook_z",
    "blocks.1.hook_resid_post",
    "blocks.10.mlp.hook_post",
    "blocks.10.hook_resid_post",
    "blocks.11.hook_resid_post",
  ]);
});

test("an unknown hook point is refused with the nearest and the valid names", () => {
  expect(() => hookWidth("blocks.2.hook_resid_pots", widths)).toThrow(
    /no hook point blocks\.2\.hook_resid_pots; did you mean blocks\.2\.hook_resid_post\?.*N from 0 to 11.*attn\.hook_z/,
  );
  for (const name of ["blocks.12.hook_resid_pre", "blocks.01.hook_resid_pre", "resid", ""]) {
    expect(() => parseHookPoint(name, widths)).toThrow("no hook point");
  }
  expect(() => expandHookPoints(["blocks.*.hook_q"], widths)).toThrow("no hook point");
  expect(() => parseHookPoint("blocks.0.toString", widths)).toThrow("no hook point");
});

test("a block whose attention and MLP read the same stream has no middle", () => {
  const parallel = { ...widths, isParallel: true };
  expect(hookPoints(parallel)).toHaveLength(1 + 6 * 12);
  expect(() => parseHookPoint("blocks.0.hook_resid_mid", parallel)).toThrow("no hook point");
  expect(residualBefore("blocks.3.hook_mlp_out", parallel)).toBe("blocks.3.hook_resid_pre");
  expect(residualBefore("blocks.3.hook_mlp_out", widths)).toBe("blocks.3.hook_resid_mid");
});
