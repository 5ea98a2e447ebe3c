import { expect, test } from "vitest";

import {
  expandHookPoints,
  hookPoints,
  hookShape,
  hookWidth,
  layersAfter,
  parseHookPoint,
  residualBefore,
} from "./hook-point.ts";

const widths = {
  ...{ layers: 12, dModel: 48, heads: 4, kvHeads: 2, dHead: 10, dMlp: 96 },
  ...{ isParallel: false, isGated: false, isRotary: false, isEncoder: false },
};

test("the hook points of a model, and their widths", () => {
  expect(hookPoints(widths)).toHaveLength(3 + 15 * 12);
  expect(hookWidth("hook_embed", widths)).toBe(48);
  expect(hookWidth("blocks.11.hook_resid_post", widths)).toBe(48);
  expect(hookWidth("blocks.0.attn.hook_z", widths)).toBe(40);
  expect(hookWidth("blocks.3.mlp.hook_post", widths)).toBe(96);
  expect(hookWidth("blocks.3.attn.hook_q", widths)).toBe(40);
  expect(hookWidth("blocks.3.attn.hook_k", widths)).toBe(20);
  expect(hookWidth("blocks.3.ln2.hook_scale", widths)).toBe(1);
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
  expect(() => expandHookPoints(["blocks.*.hook_queries"], widths)).toThrow("no hook point");
  expect(() => parseHookPoint("blocks.0.toString", widths)).toThrow("no hook point");
});

test("a block whose attention and MLP read the same stream has no middle", () => {
  const parallel = { ...widths, isParallel: true };
  expect(hookPoints(parallel)).toHaveLength(3 + 14 * 12);
  expect(() => parseHookPoint("blocks.0.hook_resid_mid", parallel)).toThrow("no hook point");
  expect(residualBefore("blocks.3.hook_mlp_out", parallel)).toBe("blocks.3.hook_resid_pre");
  expect(residualBefore("blocks.3.hook_mlp_out", widths)).toBe("blocks.3.hook_resid_mid");
});

test("gates and turned positions have hook points where the model has them", () => {
  const model = { ...widths, isGated: true, isRotary: true };
  expect(hookPoints(model)).toHaveLength(3 + 18 * 12);
  const names = ["blocks.3.mlp.hook_pre_linear", "blocks.3.attn.hook_rot_k"];
  expect(names.map((name) => hookWidth(name, model))).toEqual([96, 20]);
  for (const name of names) expect(() => hookWidth(name, widths)).toThrow("no hook point");
});

test("attention's weights are of no pattern of names, and have a shape but no width", () => {
  const name = "blocks.2.attn.hook_pattern";
  expect(expandHookPoints(["blocks.2.*"], widths)).toHaveLength(15);
  expect(hookShape(name, widths, 3, 7)).toEqual([3, 4, 7, 7]);
  for (const ask of [hookWidth, (one: string) => expandHookPoints([one], widths)])
    expect(() => ask(name, widths)).toThrow("its width depends on the length of the text");
});

test("what runs on from a hook point begins at the first layer whose attention sees it", () => {
  const found = (name: string) => layersAfter(`blocks.3.${name}`, widths).firstLayer;
  expect(["hook_resid_pre", "ln1.hook_normalized", "attn.hook_k"].map(found)).toEqual([3, 3, 3]);
  expect(["attn.hook_z", "ln2.hook_scale", "mlp.hook_pre"].map(found)).toEqual([4, 4, 4]);
  expect(layersAfter("ln_final.hook_normalized", widths)).toEqual({
    firstLayer: 12,
    isWhole: true,
  });
  expect(layersAfter("ln_final.hook_scale", widths)).toEqual({ firstLayer: 12, isWhole: false });
  expect(residualBefore("blocks.3.attn.hook_q", widths)).toBe("blocks.3.hook_resid_pre");
  expect(residualBefore("ln_final.hook_scale", widths)).toBe("blocks.11.hook_resid_post");
});
