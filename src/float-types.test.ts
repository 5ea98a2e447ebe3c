import { describe, expect, test } from "vitest";

import { areFinite, bf16ToF32, f16ToF32, f32ToBf16, f32ToF16, int8ToF32 } from "./float-types.ts";
import { Rng } from "./rng.ts";

const everyHalf = Uint16Array.from({ length: 65536 }, (_, i) => i);

/** The float32 bits of a float16, by the definition of the format. */
function f16Bits(half: number): number {
  const exponent = (half >>> 10) & 31;
  const mantissa = half & 1023;
  const sign = (half & 0x8000) << 16;
  if (exponent === 31) return (sign | 0x7f800000 | (mantissa << 13)) >>> 0;
  const magnitude =
    exponent === 0 ? mantissa * 2 ** -24 : (1 + mantissa / 1024) * 2 ** (exponent - 15);
  return (sign | new Uint32Array(Float32Array.of(magnitude).buffer)[0]) >>> 0;
}

const CONVERSIONS = [
  { name: "float16", convert: f16ToF32, bits: f16Bits },
  { name: "bfloat16", convert: bf16ToF32, bits: (half: number) => (half << 16) >>> 0 },
];
/** None, less than a vector, parts of one, and around what the kernels are given at a time. */
const LENGTHS = [0, 1, 7, 8, 9, 15, 17, 16_383, 16_384, 16_385, 40_001];

describe("16-bit floats", () => {
  const bits = (values: number[], convert: (v: Float32Array) => Uint16Array) =>
    [...convert(Float32Array.from(values))].map((b) => b.toString(16).padStart(4, "0"));

  test("float32 → bfloat16 rounds to nearest even", () => {
    // Bits as torch.tensor(x).to(torch.bfloat16) gives them.
    expect(
      bits([1, -2, 3.140625, 1.00390625, 1.01171875, 0.1, 3.3895e38, Infinity, -0], f32ToBf16),
    ).toEqual(["3f80", "c000", "4049", "3f80", "3f82", "3dcd", "7f7f", "7f80", "8000"]);
    expect(bits([3.4e38], f32ToBf16)).toEqual(["7f80"]); // beyond the largest finite value
    expect(bf16ToF32(f32ToBf16(Float32Array.of(NaN)))[0]).toBeNaN();
  });

  test("float32 → float16 rounds to nearest even, subnormals and limits included", () => {
    // Bits as numpy.float32(x).astype(numpy.float16).view(numpy.uint16) gives them.
    expect(
      bits([1, -2, 0.1, 65504, 65519, 65520, 2 ** -14, 2 ** -24, 2 ** -25, 3 * 2 ** -25], f32ToF16),
    ).toEqual(["3c00", "c000", "2e66", "7bff", "7bff", "7c00", "0400", "0001", "0000", "0002"]);
    expect(bits([2049, 2051, 1e-8, -Infinity, 6.097e-5, -0], f32ToF16)).toEqual([
      ...["6800", "6802", "0000", "fc00", "03ff", "8000"],
    ]);
    expect(f16ToF32(f32ToF16(Float32Array.of(NaN)))[0]).toBeNaN();
  });

  test("every float16 and bfloat16 comes back from float32 unchanged", () => {
    const all = Uint16Array.from({ length: 65536 }, (_, i) => i);
    const isNan = (x: number) => Number.isNaN(x);
    for (const [back, forth] of [
      [f16ToF32, f32ToF16],
      [bf16ToF32, f32ToBf16],
    ] as const) {
      const values = back(all);
      const again = forth(values);
      for (let i = 0; i < 65536; i++) if (!isNan(values[i]) && again[i] !== i) expect(i).toBe(-1);
      expect(values.filter(isNan).length).toBeGreaterThan(0);
    }
    expect([...f16ToF32(Uint16Array.of(0x3555, 0x0001, 0x7bff))]).toEqual([
      0.333251953125,
      2 ** -24,
      65504,
    ]);
  });

  test.each(CONVERSIONS)(
    "each of the 65,536 $name becomes its float32, NaN bit for bit",
    ({ convert, bits }) => {
      const found = new Uint32Array(convert(everyHalf).buffer);
      expect(found).toEqual(Uint32Array.from(everyHalf, bits));
    },
  );

  test.each(CONVERSIONS)(
    "$name of any number, from and to anywhere, are converted and nothing beside them",
    ({ convert, bits }) => {
      const rng = new Rng(5);
      const halves = Uint16Array.from({ length: 50_000 }, () => rng.uniform() * 65536);
      for (const length of LENGTHS)
        for (const offset of [0, 1, 3, 7]) {
          const out = new Float32Array(offset + length + 9).fill(-1);
          convert(halves.subarray(offset, offset + length), out.subarray(offset, offset + length));
          const expected = new Float32Array(out.length).fill(-1);
          const target = new Uint32Array(expected.buffer);
          for (let i = offset; i < offset + length; i++) target[i] = bits(halves[i]);
          expect(new Uint32Array(out.buffer)).toEqual(target);
        }
    },
  );
});

test("int8 rows of any width are their scales' multiples, and nothing beside them is touched", () => {
  const rng = new Rng(7);
  for (const [rows, width] of [
    [0, 5],
    [1, 1],
    [3, 7],
    [2, 8],
    [5, 9],
    [70, 768],
    [40_000, 1],
    [3, 16_385],
    [2, 33_000],
  ]) {
    // prettier-ignore
    const q = Int8Array.from({ length: rows * width }, () => rng.uniform() * 256 - 128);
    const scales = Float32Array.from({ length: rows }, () => rng.normal());
    const out = new Float32Array(rows * width + 9).fill(-1);
    int8ToF32(q, scales, width, out.subarray(3, 3 + rows * width));
    const expected = new Float32Array(out.length).fill(-1);
    for (let i = 0; i < q.length; i++) expected[3 + i] = q[i] * scales[Math.floor(i / width)];
    expect(out.every((x, i) => x === expected[i])).toBe(true);
  }
});

describe("the search for what is not finite", () => {
  const F16 = { type: "F16", bad: [0x7c00, 0xfc00, 0x7e01, 0xfc01], good: 0xfbff } as const;
  const BF16 = { type: "BF16", bad: [0x7f80, 0xff80, 0x7fc1, 0xff81], good: 0xff7f } as const;

  test.each([F16, BF16])("finds it anywhere among $type, and nothing else", (kind) => {
    for (const length of [...LENGTHS, 32_767, 32_768, 32_769])
      expect(areFinite(kind.type, new Uint16Array(length).fill(kind.good))).toBe(true);
    for (const length of [1, 7, 8, 9, 33])
      for (const offset of [0, 1, 5])
        for (let at = 0; at < length; at++) {
          const values = new Uint16Array(length + offset + 1).fill(kind.good);
          // Neighbours do not count.
          if (offset > 0) values[offset - 1] = kind.bad[0];
          values[offset + length] = kind.bad[0];
          const part = values.subarray(offset, offset + length);
          expect(areFinite(kind.type, part)).toBe(true);
          part[at] = kind.bad[at % 4];
          expect(areFinite(kind.type, part)).toBe(false);
        }
    const last = new Uint16Array(70_001).fill(kind.good);
    last[70_000] = kind.bad[2];
    expect(areFinite(kind.type, last)).toBe(false);
  });

  test("of all 16-bit patterns, those are not finite whose float32 is not", () => {
    for (const { type, convert } of [
      { type: "F16", convert: f16ToF32 },
      { type: "BF16", convert: bf16ToF32 },
    ] as const) {
      const values = convert(everyHalf);
      const wrong = everyHalf.filter(
        (half) => areFinite(type, Uint16Array.of(half)) !== Number.isFinite(values[half]),
      );
      expect([...wrong]).toEqual([]);
    }
  });

  test("finds it anywhere among float32, and nothing else", () => {
    const largest = 2 ** 127 * (2 - 2 ** -23);
    for (const length of [1, 3, 4, 5, 9, 16_385])
      for (let at = 0; at < length; at += length > 9 ? 8_192 : 1) {
        const values = new Float32Array(length + 2).fill(-largest);
        [values[0], values[length + 1]] = [NaN, Infinity];
        const part = values.subarray(1, length + 1);
        expect(areFinite("F32", part)).toBe(true);
        part[at] = [NaN, Infinity, -Infinity][at % 3];
        expect(areFinite("F32", part)).toBe(false);
      }
  });
});
