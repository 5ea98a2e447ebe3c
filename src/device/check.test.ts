/** What is refused before a device sees it, and in which words. */
import { expect, test } from "vitest";

import { free, readGradients, training } from "../../test/device-numbers.ts";
import { openDevice } from "./device.ts";

const device = await openDevice("reference");
const [N, d, e, F, K, P] = [4, 3, 2, 6, 2, 5];
const make = (...shape: number[]) => device.tensor(shape);
const indices = (...shape: number[]) => device.tensor(shape, "i32");

/** Arguments that pass, of every kind of codes. */
const valid = () => {
  const fixed = { indices: indices(N, K), values: make(N, K) };
  const ragged = { indices: indices(P), values: make(P), ends: indices(N) };
  const params = { wEnc: make(F, d), bEnc: make(F), wDec: make(F, e) };
  const gradients = { wEnc: make(F, d), bEnc: make(F), wDec: make(F, e) };
  const moments = training(device, F, d, e);
  const stats = { sinceFired: indices(F), counts: indices(F), sums: make(F) };
  return { fixed, ragged, dense: { values: make(N, F) }, params, gradients, moments, stats };
};
const encoder = () => ({ rows: N, x: make(N, d), bPre: null, wEnc: make(F, d), bEnc: make(F) });
const decoder = () => {
  return { rows: N, wDec: make(F, e), bDec: null, target: make(N, e), residual: make(N, e) };
};
const update = () => {
  const { params, moments } = valid();
  const rest = { adam: readGradients, decoder: free, dBPre: null };
  return { rows: N, x: make(N, d), bPre: null, params, moments, ...rest };
};
const denseUpdate = () => {
  const levels = [{ latents: { from: 0, to: F }, residual: make(N, e) }];
  const codes = { acts: make(N, F), dPre: make(N, F) };
  return { ...update(), ...codes, levels, gradScale: 1, normPenalty: 0 };
};
const l1 = { kind: "l1", coefficient: 1 } as const;

type Refusal = [problem: string, run: () => void, message: string | RegExp];

const refusals: Refusal[] = [
  [
    "ragged values of another length than their indices",
    () => device.decodeSparse({ ...decoder(), ...valid().ragged, values: make(P + 1) }),
    "decodeSparse: values must have shape [P] with P = 5 by indices; it is [6]",
  ],
  [
    "fewer ends than rows",
    () => device.decodeSparse({ ...decoder(), ...valid().ragged, ends: indices(N - 1) }),
    "decodeSparse: rows = 4 is more than ends [3] holds",
  ],
  [
    "a residual as wide as the input where the decoder is not",
    () => device.decodeSparse({ ...decoder(), ...valid().fixed, residual: make(N, d) }),
    "decodeSparse: residual must have shape [N, e] with e = 2 by wDec; it is [4, 3]",
  ],
  [
    "gradients not of the values' shape",
    () => {
      const gradient = { dValues: make(N, K), gradScale: 1 };
      device.decodeSparse({ ...decoder(), ...valid().ragged, gradient });
    },
    "decodeSparse: gradient.dValues must have shape [P]; it is [4, 2]",
  ],
  [
    "dense latents as wide as no others",
    () => {
      const [dValues, rowPenalty] = [make(N, F + 1), make(N)];
      const op = { rows: N, penalty: l1, weights: make(F), dValues, dWeights: null, rowPenalty };
      device.penalize({ ...op, codes: { values: make(N, F + 1) } });
    },
    "penalize: codes.values must have shape [N, F] with F = 6 by weights; it is [4, 7]",
  ],
  [
    "a dtype for another",
    () => device.recordFiring({ rows: N, codes: valid().dense, stats: { ...valid().stats, counts: make(F) } }), // prettier-ignore
    "recordFiring: stats.counts must be i32; it is f32",
  ],
  [
    "more kept values than there is room for",
    () => {
      const op = { ...encoder(), ...valid().ragged, cutoff: make(1) };
      device.encodeBatchTopK({ ...op, count: P + 1 });
    },
    "encodeBatchTopK: count must be a whole number from 0 to 5; got 6",
  ],
  [
    "latents beyond the last",
    () => device.decodeDense({ ...decoder(), acts: make(N, F), latents: { from: 2, to: F + 1 } }),
    "decodeDense: latents must be a range within 0 to 6; got 2 to 7",
  ],
  [
    "latents backwards",
    () => device.decodeDense({ ...decoder(), acts: make(N, F), latents: { from: 3, to: 2 } }),
    "decodeDense: latents must be a range within 0 to 6; got 3 to 2",
  ],
  [
    "levels with a gap",
    () => {
      const residual = make(N, e);
      const ranges = [{ from: 0, to: 2 }, { from: 3, to: F }]; // prettier-ignore
      const levels = ranges.map((latents) => ({ latents, residual }));
      device.updateLatentsDense({ ...denseUpdate(), levels });
    },
    /updateLatentsDense: levels must be rising ranges without gaps; one begins at 3, .* ended at 2/,
  ],
  [
    "levels that leave latents out",
    () => {
      const levels = [{ latents: { from: 0, to: 4 }, residual: make(N, e) }];
      device.updateLatentsDense({ ...denseUpdate(), levels });
    },
    "updateLatentsDense: levels must hold all 6 latents; they end at 4",
  ],
  [
    "groups that do not divide the decoder's width",
    () => device.updateLatentsDense({ ...denseUpdate(), normGroups: 3 }),
    "updateLatentsDense: normGroups must divide 2; got 3",
  ],
  [
    "adding to gradients that are not kept",
    () => device.updateLatents({ ...update(), parts: [], accumulate: true }),
    "updateLatents: accumulate adds to gradients, and none are given",
  ],
  [
    "a rank-one part of another width",
    () => {
      const rankOne = { coefficients: make(F), inputs: make(e) };
      device.updateLatents({ ...update(), parts: [], rankOne });
    },
    "updateLatents: rankOne.inputs must have shape [d] with d = 3 by x; it is [2]",
  ],
  [
    "a part's weights' gradients not of its values' shape, by the part's number",
    () => {
      const residual = make(N, e);
      const parts = [
        { ...valid().ragged, dValues: make(P), residual, gradScale: 1 },
        { ...valid().fixed, dValues: make(N, K), residual, gradScale: 1, dWeights: make(P) },
      ];
      device.updateLatents({ ...update(), parts });
    },
    "updateLatents: parts[1].dWeights must have shape [N, K]; it is [5]",
  ],
  [
    "more rows of a vector than its one",
    () => device.addScaled({ rows: 2, x: make(F), scale: 1, out: make(F), accumulate: false }),
    "addScaled: a vector has one row; rows = 2",
  ],
  [
    "more rows of a vector to multiply",
    () => device.multiply({ rows: 2, x: make(F), by: make(1) }),
    "multiply: a vector has one row; rows = 2",
  ],
  [
    "a lower bound that is no number",
    () => {
      const moments = { m: make(F), v: make(F) };
      const op = { param: make(F), grad: make(F), moments, adam: readGradients };
      device.updateVector({ ...op, min: NaN });
    },
    "updateVector: min must be a finite number; got NaN",
  ],
  [
    "a window of no width",
    () => {
      const { dense: codes } = valid();
      const op = { rows: N, codes, pre: make(N, F), threshold: make(F), dValues: make(N, F) };
      const l0 = { coefficient: 1, target: null };
      device.thresholdGradient({ ...op, bandwidth: 0, l0, dThreshold: make(F) });
    },
    "thresholdGradient: bandwidth must be more than 0; got 0",
  ],
  [
    "an L0 to reach of 0",
    () => {
      const { dense: codes } = valid();
      const op = { rows: N, codes, pre: make(N, F), threshold: make(F), dValues: make(N, F) };
      const l0 = { coefficient: 1, target: 0 };
      device.thresholdGradient({ ...op, bandwidth: 1, l0, dThreshold: make(F) });
    },
    "thresholdGradient: l0.target must be more than 0; got 0",
  ],
  [
    "a power whose slope at 0 is infinite",
    () => {
      const penalty = { kind: "lp", coefficient: 1, p: 0.5, delta: 0 } as const;
      const out = { dValues: make(N, F), dWeights: null, rowPenalty: make(N) };
      device.penalize({ rows: N, codes: valid().dense, penalty, weights: null, ...out });
    },
    "penalize: penalty.delta must be more than 0; got 0",
  ],
  [
    "a product whose sums have no rows in common",
    () => {
      const op = { a: make(N, d), b: make(N - 1, e), transA: true, transB: false, rows: N };
      device.matmul({ ...op, out: make(d, e) });
    },
    "matmul: rows = 4 is more than b [3, 2] holds",
  ],
  [
    "a freed tensor",
    () => {
      const x = make(F);
      device.free(x);
      device.sumOfSquares({ x, out: make(1), accumulate: false });
    },
    "sumOfSquares: x was freed or is another device's tensor",
  ],
];

test.each(refusals)("%s is refused", (_problem, run, message) => {
  expect(run).toThrow(RangeError);
  expect(run).toThrow(message);
});

// ---- one tensor as two arguments ----

const aliases: [what: string, run: () => void, message: RegExp][] = [
  [
    "an output and an input before it",
    () => {
      const target = make(N, e);
      device.decodeSparse({ ...decoder(), ...valid().fixed, target, residual: target });
    },
    /residual is written and cannot be the same tensor as target/,
  ],
  [
    "an output and an input after it",
    () => {
      const op = update();
      const parts = [
        { ...valid().fixed, dValues: make(N, K), residual: op.params.wDec, gradScale: 1 },
      ];
      device.updateLatents({ ...op, parts });
    },
    /params\.wDec is written and cannot be the same tensor as parts\[0\]\.residual/,
  ],
  [
    "statistics and the codes they are of",
    () => {
      const { stats } = valid();
      const codes = { indices: stats.counts, values: make(F), ends: indices(N) };
      device.recordFiring({ rows: N, codes, stats });
    },
    /stats\.counts is written and cannot be the same tensor as codes\.indices/,
  ],
  [
    "two outputs",
    () => {
      const dValues = make(N, F);
      const op = { rows: N, codes: valid().dense, penalty: l1, weights: null };
      device.penalize({ ...op, dValues, dWeights: dValues, rowPenalty: make(N) });
    },
    /dWeights is written and cannot be the same tensor as dValues/,
  ],
  [
    "kept gradients and the parameters",
    () => {
      const op = update();
      device.updateLatents({ ...op, parts: [], gradients: op.params });
    },
    /gradients\.wEnc is written and cannot be the same tensor as params\.wEnc/,
  ],
  [
    "a factor and what is multiplied by it",
    () => {
      const x = make(1);
      device.multiply({ rows: 1, x, by: x });
    },
    /x is written and cannot be the same tensor as by/,
  ],
];

test.each(aliases)("%s cannot be one tensor", (_what, run, message) => {
  expect(run).toThrow(message);
});

test("what is only read may be given twice", () => {
  const target = make(N, e);
  device.rowStats({ rows: N, target, residual: target, out: make(N, 4) });
  const residual = make(N, e);
  const shared = { ...valid().ragged, dValues: make(P), residual, gradScale: 1 };
  device.updateLatents({ ...update(), parts: [shared, shared] });
});

test("what is refused has changed nothing", async () => {
  const x = make(F);
  device.write(x, Float32Array.of(1, 2, 3, 4, 5, 6));
  expect(() => device.multiply({ rows: 7, x, by: make(1) })).toThrow(RangeError);
  expect(await device.readF32(x)).toEqual(Float32Array.of(1, 2, 3, 4, 5, 6));
});

test("kept gradients leave the moments out of it: they may be anybody's", () => {
  const { gradients } = valid();
  const op = update();
  // No step is taken, so the shapes of the moments do not matter.
  const moments = training(device, 1, 1);
  expect(() =>
    device.updateLatents({ ...op, parts: [], moments, gradients, accumulate: true }),
  ).not.toThrow();
});
