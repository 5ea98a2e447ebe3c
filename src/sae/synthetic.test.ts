import { expect, test } from "vitest";

import { syntheticActivations } from "./synthetic.ts";

const config = {
  from: "synthetic" as const,
  ...{ samples: 400, validationSamples: 300, dIn: 96, features: 20, sparsity: 0.29, noise: 0.1 },
};

/** The strengths that explain x best: least squares over all directions, by normal equations. */
function strengths(x: Float32Array, directions: Float32Array, dIn: number): number[] {
  const n = directions.length / dIn;
  const dot = (a: ArrayLike<number>, i: number, b: ArrayLike<number>, j: number) => {
    let sum = 0;
    for (let c = 0; c < dIn; c++) sum += a[i * dIn + c] * b[j * dIn + c];
    return sum;
  };
  const rows = Array.from({ length: n }, (_, i) => [
    ...Array.from({ length: n }, (_, j) => dot(directions, i, directions, j)),
    dot(directions, i, x, 0),
  ]);
  for (let i = 0; i < n; i++)
    for (let k = 0; k < n; k++) {
      if (k === i) continue;
      const factor = rows[k][i] / rows[i][i];
      for (let j = i; j <= n; j++) rows[k][j] -= factor * rows[i][j];
    }
  return rows.map((row, i) => row[n] / row[i]);
}

test("each sample is the stated number of known directions with strengths |N(0,1)|, plus noise", () => {
  const { train, validation, directions } = syntheticActivations(config, 3);
  expect(train).toHaveLength(400 * 96);
  expect(directions).toHaveLength(20 * 96);
  const used = new Array<number>(20).fill(0);
  const all: number[] = [];
  let noise = 0;
  // The validation split is explained by the same directions: one dictionary.
  for (const [data, rows] of [
    [train, 400],
    [validation, 300],
  ] as const)
    for (let n = 0; n < rows; n++) {
      const x = data.subarray(n * 96, (n + 1) * 96);
      const s = strengths(x, directions, 96);
      const residual = Float64Array.from(x);
      s.forEach((v, j) => {
        for (let c = 0; c < 96; c++) residual[c] -= v * directions[j * 96 + c];
      });
      noise += residual.reduce((sum, v) => sum + v * v, 0) / (96 - 20);
      // 20 × 0.29 = 5.8 → 5; strengths under the noise floor (≈ 0.01 here) cannot be told from 0.
      const active = s.filter((v) => v > 0.05).length;
      expect(active).toBeLessThanOrEqual(5);
      expect(Math.min(...s)).toBeGreaterThan(-0.06);
      s.forEach((v, j) => {
        if (v <= 0.05) return;
        used[j]++;
        all.push(v);
      });
    }
  const count = 700 * 5;
  expect(Math.sqrt(noise / 700)).toBeCloseTo(0.1, 2);
  // E|N| = √(2/π), E N² = 1; the share of |N| under 0.05 is 4 %.
  expect(all.length / count).toBeCloseTo(0.96, 1);
  expect(all.reduce((sum, v) => sum + v, 0) / count).toBeCloseTo(Math.sqrt(2 / Math.PI), 1);
  expect(Math.abs(all.reduce((sum, v) => sum + v * v, 0) / count - 1)).toBeLessThan(0.1);
  for (const n of used) expect(Math.abs(n - 168)).toBeLessThan(5 * Math.sqrt(168));
  const mean = directions.reduce((sum, v) => sum + v, 0) / directions.length;
  const square = directions.reduce((sum, v) => sum + v * v, 0) / directions.length;
  expect(Math.abs(mean)).toBeLessThan(0.1);
  expect(Math.abs(square - 1)).toBeLessThan(0.15);
});

test("the same seed gives the same activations, another seed others, and no feature at all is refused", () => {
  const one = syntheticActivations(config, 1);
  expect(syntheticActivations(config, 1)).toEqual(one);
  expect(syntheticActivations(config, 2).directions).not.toEqual(one.directions);
  expect(() => syntheticActivations({ ...config, sparsity: 0.04 }, 1)).toThrow(
    "features × sparsity must be at least 1",
  );
});

test("the default kind gives the numbers that it always gave", () => {
  const { train, validation, directions } = syntheticActivations(
    {
      from: "synthetic",
      ...{ samples: 20, validationSamples: 3, dIn: 5, features: 11, sparsity: 0.29, noise: 0.5 },
    },
    7,
  );
  // Written down before there were other kinds.
  const golden = [
    [directions, [-0.027973, 0.768565, -1.15463, 0.741039, 1.30864]],
    [train, [-4.25341, -1.560776, 2.540717, 1.504448, -0.592004]],
    [validation, [-0.07929, 0.687612, -1.387858, 1.007135, 0.219613]],
  ] as const;
  for (const [got, expected] of golden) {
    const ends = [...got.slice(0, 3), ...got.slice(-2)];
    ends.forEach((v, i) => expect(v).toBeCloseTo(expected[i], 5));
  }
});

const ROWS = 40_000;
/** Many samples of one kind, and in how many of them directions i and j are both active. */
function observed(options: object) {
  const made = syntheticActivations(
    {
      from: "synthetic",
      ...{ samples: 1, validationSamples: ROWS, dIn: 1, features: 14, sparsity: 0.1, noise: 0 },
      ...options,
    },
    5,
  );
  const { rates, validationStrengths: s } = made;
  const n = rates.length;
  const joint = new Float64Array(n * n);
  for (let row = 0; row < ROWS; row++) {
    const active = rates.reduce<number[]>((all, _, j) => {
      if (s[row * n + j] > 0) all.push(j);
      return all;
    }, []);
    for (const i of active) for (const j of active) joint[i * n + j]++;
  }
  const share = (i: number, j = i) => joint[i * n + j] / ROWS;
  const correlation = (i: number, j: number) =>
    (share(i, j) - share(i) * share(j)) /
    Math.sqrt(share(i) * (1 - share(i)) * share(j) * (1 - share(j)));
  return { ...made, n, share, correlation };
}

/** Five standard errors of a share. */
const slack = (p: number) => 5 * Math.sqrt((p * (1 - p)) / ROWS);

test("directions of a group fire together with the stated correlation, and groups by themselves", () => {
  const { n, rates, share, correlation } = observed({
    kind: "correlated",
    ...{ groupSize: 4, correlation: 0.4 },
  });
  for (let i = 0; i < n; i++) {
    expect(rates[i]).toBe(0.1);
    expect(Math.abs(share(i) - 0.1)).toBeLessThan(slack(0.1));
    for (let j = 0; j < i; j++) {
      const same = Math.floor(i / 4) === Math.floor(j / 4);
      expect(Math.abs(correlation(i, j) - (same ? 0.4 : 0))).toBeLessThan(0.04);
    }
  }
});

test("a correlation of 1 makes a group one, of 0 its members independent", () => {
  const one = observed({ kind: "correlated", groupSize: 7, correlation: 1 });
  expect(one.share(0, 6)).toBe(one.share(0));
  expect(one.share(0, 7)).toBeLessThan(0.02);
  const none = observed({ kind: "correlated", groupSize: 7, correlation: 0 });
  expect(Math.abs(none.correlation(0, 6))).toBeLessThan(0.03);
});

test("children fire only beside their parent, at the stated rate, and each by itself", () => {
  // Families of 5, the last of 4: q = 14·0.1 / (3 + 0.25·11).
  const { n, parents, rates, share } = observed({
    kind: "hierarchical",
    ...{ childrenPerParent: 4, childProbability: 0.25 },
  });
  const q = 1.4 / 5.75;
  expect([...parents!]).toEqual([-1, 0, 0, 0, 0, -1, 5, 5, 5, 5, -1, 10, 10, 10]);
  let active = 0;
  for (let j = 0; j < n; j++) {
    const parent = parents![j];
    const rate = parent < 0 ? q : q / 4;
    expect(rates[j]).toBeCloseTo(rate, 12);
    expect(Math.abs(share(j) - rate)).toBeLessThan(slack(rate));
    active += rates[j];
    if (parent < 0) continue;
    expect(share(j, parent)).toBe(share(j));
    const sibling = j - 1;
    if (sibling > parent) expect(Math.abs(share(j, sibling) - q / 16)).toBeLessThan(slack(q / 16));
  }
  expect(active).toBeCloseTo(1.4, 12);
});

test("firing rates of kind zipf fall as 1/rank^s, and directions fire by themselves", () => {
  const { n, rates, share, correlation, parents } = observed({ kind: "zipf", zipfExponent: 1.2 });
  expect(parents).toBeUndefined();
  for (let i = 0; i < n; i++) {
    expect(rates[i] / rates[0]).toBeCloseTo((i + 1) ** -1.2, 12);
    expect(Math.abs(share(i) - rates[i])).toBeLessThan(slack(rates[i]));
    for (let j = 0; j < i; j++) expect(Math.abs(correlation(i, j))).toBeLessThan(0.03);
  }
  expect(rates.reduce((sum, p) => sum + p, 0)).toBeCloseTo(1.4, 12);
});

test.each(["independent", "correlated", "hierarchical", "zipf"] as const)(
  "samples of kind %s are the noted strengths times the directions, the same for the same seed",
  (kind) => {
    const options = {
      ...{ ...config, kind, noise: 0, strengthMean: 2, strengthStd: 0.1 },
      ...{ samples: 10, validationSamples: 200 },
    };
    const made = syntheticActivations(options, 4);
    expect(syntheticActivations(options, 4)).toEqual(made);
    expect(syntheticActivations(options, 5).validation).not.toEqual(made.validation);
    const { validation, directions, validationStrengths } = made;
    let worst = 0;
    for (let n = 0; n < 200; n++)
      for (let c = 0; c < 96; c++) {
        let sum = 0;
        for (let j = 0; j < 20; j++)
          sum += validationStrengths[n * 20 + j] * directions[j * 96 + c];
        worst = Math.max(worst, Math.abs(sum - validation[n * 96 + c]));
      }
    expect(worst).toBeLessThan(1e-4);
    const active = validationStrengths.filter((s) => s > 0);
    expect(active.length).toBeGreaterThan(500);
    expect(Math.min(...active)).toBeGreaterThan(1.5);
    expect(Math.max(...active)).toBeLessThan(2.5);
  },
);

test("a rate above 1 and strengths of 0 are refused, with what to change", () => {
  const make = (options: object) => () => syntheticActivations({ ...config, ...options }, 1);
  expect(make({ kind: "zipf", zipfExponent: 2 })).toThrow(
    /commonest direction .* probability 3\.6.*at most 1: lower activations\.sparsity or activations\.zipfExponent/,
  );
  expect(make({ kind: "hierarchical", sparsity: 0.9, childProbability: 0.1 })).toThrow(
    /a parent .* raise activations\.childProbability/,
  );
  expect(make({ strengthMean: 0, strengthStd: 0 })).toThrow("must not both be 0");
  expect(make({ kind: "correlated", correlation: 1.5 })).toThrow("activations.correlation");
});
