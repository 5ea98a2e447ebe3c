/**
 * What works on latents, of every device against the reference, in every layout and under strain.
 * device.test.ts has the plain cases of sparse and dense latents.
 */
import { afterAll, describe, expect, test } from "vitest";

import {
  adam,
  closeDevices,
  codesOf,
  Data,
  devices,
  expectLikeReference,
  expectSameBits,
  layouts,
  play,
  trained,
  type Trial,
} from "../../test/device-trials.ts";
import {
  cases,
  jumping,
  label,
  middling,
  sizes,
  updateLatents,
  updateLatentsDenseGradients,
  updateLatentsGradients,
} from "../../test/latent-trials.ts";
import { openDevice } from "./device.ts";

afterAll(closeDevices);

const TOLERANCE = 2e-6;

for (const device of devices.filter(({ name }) => name !== "reference")) {
  describe(device.name, () => {
    describe.each(cases)(
      "%s of %s latents computes what the reference does",
      (op, layout, make) => {
        test.each(sizes.map((size) => [label(size), size] as const))("%s", async (name, size) => {
          await expectLikeReference(device, make(new Data(op, layout, name), size), TOLERANCE);
        });
      },
    );

    /** The tensors that hold latents' values, whatever the trial calls them. */
    const valuesOf = (trial: Trial) =>
      Object.entries(trial.tensors).filter(([name]) => /^(values\d?|acts|pre)$/.test(name));

    test.each(cases)("%s of %s latents when no latent is active", async (op, layout, make) => {
      const trial = make(new Data("dead", op, layout), middling);
      for (const [, entry] of valuesOf(trial)) entry.data = entry.data.map((v) => v * 0);
      await expectLikeReference(device, trial, TOLERANCE);
    });

    test.each(cases.filter(([, layout]) => layout === "ragged"))(
      "%s of %s latents when no row has any",
      async (op, layout, make) => {
        const trial = make(new Data("empty", op, layout), middling);
        for (const name of ["ends", "ends1"]) trial.tensors[name]?.data.fill(0, 0, middling.rows);
        await expectLikeReference(device, trial, TOLERANCE);
      },
    );

    test.each(cases)("%s of %s latents that are denormal", async (op, layout, make) => {
      const trial = make(new Data("denormal", op, layout), middling);
      for (const [, entry] of valuesOf(trial)) entry.data = entry.data.map((v) => v * 1e-40);
      await expectLikeReference(device, trial, TOLERANCE);
    });

    test.each(cases)(
      "NaN in a row of %s of %s latents goes no further",
      async (op, layout, make) => {
        const trial = make(new Data("nan", op, layout), middling);
        for (const [name, { shape, data }] of valuesOf(trial)) {
          const ends = trial.tensors[name.replace(/values|pre/, "ends")];
          // The first row that has latents, or row 3.
          const n = ends ? ends.data.findIndex((end) => end > 0) : 3;
          const [from, to] = ends ? [0, ends.data[n]] : [n * shape[1], (n + 1) * shape[1]];
          expect(to).toBeGreaterThan(from);
          data.fill(NaN, from, Math.min(from + 2, to));
        }
        await expectLikeReference(device, trial, TOLERANCE);
      },
    );

    // What has the unit of a latent is scaled; penalties keep their δ and c.
    test.each([1e-30, 1e30])("latents of scale %d", async (scale) => {
      const inUnits = /^(values|pre|threshold|bGate|bMag|magnitudes|bEnc|wEnc|target|bDec|sums)$/;
      for (const [op, layout, make] of cases.filter(([name]) => !name.startsWith("update"))) {
        const trial = make(new Data("scale", op, layout), middling);
        for (const [name, entry] of Object.entries(trial.tensors)) {
          if (inUnits.test(name)) entry.data = entry.data.map((v) => v * scale);
        }
        await expectLikeReference(device, trial, TOLERANCE);
      }
    });

    test("a bandwidth as small as its thresholds still has a window", async () => {
      for (const layout of layouts) {
        const scale = 1e-30;
        const { codes, tensors } = jumping(new Data("narrow", layout), middling, layout, scale);
        const trial: Trial = {
          tensors: { ...tensors, dValues: codes.random(), dThreshold: new Data().random([257]) },
          run: (on, t) => {
            const { pre, threshold, dValues, dThreshold } = t;
            on.thresholdGradient({
              ...{ rows: middling.rows, codes: codesOf(t), pre, threshold, dValues, dThreshold },
              ...{ bandwidth: 1.2 * scale, l0: { coefficient: scale, target: null } },
            });
          },
          out: ["dValues", "dThreshold"],
        };
        await expectLikeReference(device, trial, TOLERANCE);
        const { dThreshold } = await play(device, trial);
        expect(dThreshold.some((v) => v !== 0)).toBe(true);
      }
    });

    test("an update without parts is a step of decaying moments", async () => {
      const trial = updateLatents(new Data("no parts"), middling, "fixed");
      trial.run = (on, t) =>
        on.updateLatents({
          ...{ ...trained(t), rows: middling.rows, x: t.x, bPre: null, adam, parts: [] },
          decoder: { projectGradient: true, unitNorm: false },
        });
      await expectLikeReference(device, trial, TOLERANCE);
    });

    test("groups of decoder columns with norm 0 get no gradient from their norms", async () => {
      for (const make of [updateLatentsGradients, updateLatentsDenseGradients]) {
        const size = { ...middling, e: 12 };
        const trial = make(new Data("zero groups"), size, "ragged");
        const { wDec } = trial.tensors;
        wDec.data = wDec.data.map((w, i) => (i % 12 < 6 ? 0 : w));
        await expectLikeReference(device, trial, TOLERANCE);
      }
    });
  });
}

test("the cpu device gives the same bits on 1, 2 and 3 threads", async () => {
  const crews = await Promise.all([1, 2, 3].map((threads) => openDevice("cpu", { threads })));
  try {
    for (const [op, layout, make] of cases) {
      for (const size of [sizes[4], sizes[6], { rows: 700, d: 60, e: 50, F: 300, k: 8 }]) {
        const trial = make(new Data(op, layout, "threads"), size);
        const [one, ...more] = await Promise.all(crews.map((device) => play(device, trial)));
        for (const other of more) {
          for (const name of trial.out)
            expectSameBits(other[name], one[name], `${op}, ${layout}, ${name}, ${label(size)}`);
        }
      }
    }
  } finally {
    await Promise.all(crews.map((device) => device.close()));
  }
});
