/** Products of matrices in the shared memory, block by block in the workers' own memories. */
import type { Crew } from "./cpu-crew.ts";
import { roundUp, type CpuTensor } from "./cpu-memory.ts";
import type { OwnMemory } from "./cpu-products.ts";

/** Rows of a block in a matrix product. */
export const BLOCK_ROWS = 256;
/** Terms of a sum that one product adds; longer sums are added product by product. */
export const BLOCK_INNER = 1024;

/**
 * The blocks [m0, m1, n0, n1] of an [m, n] matrix that this worker is dealt. Blocks are large, for
 * fast products, yet at least eight where the matrix allows it, so that all workers have some.
 */
export function dealBlocks(crew: Crew, m: number, n: number) {
  const down = Math.ceil(m / BLOCK_ROWS);
  const wanted = Math.ceil(n / Math.ceil(8 / Math.max(1, down)));
  const width = Math.min(768, Math.max(64, roundUp(wanted, 16)));
  const across = Math.ceil(n / width);
  return {
    height: Math.min(BLOCK_ROWS, m),
    width,
    *[Symbol.iterator]() {
      for (const block of crew.deal(down * across)) {
        const m0 = Math.floor(block / across) * BLOCK_ROWS;
        const n0 = (block % across) * width;
        yield [m0, Math.min(m0 + BLOCK_ROWS, m), n0, Math.min(n0 + width, n)] as const;
      }
    },
  };
}

/** A matrix, or its transpose, as a factor; `center` is the address of a row to subtract, or 0. */
export interface Factor {
  tensor: Pick<CpuTensor, "address" | "rows" | "columns" | "stride">;
  transposed: boolean;
  center: number;
}

export const plain = (tensor: Factor["tensor"], center = 0): Factor => ({
  tensor,
  transposed: false,
  center,
});
export const transposed = (tensor: Factor["tensor"]): Factor => ({
  tensor,
  transposed: true,
  center: 0,
});

export interface ProductRoom {
  a: number;
  b: number;
  out: number;
  partial: number;
  /** Where a block of a transposed A lies before it is turned. */
  raw: number;
  /** Floats from one block of A's terms to the next, when all are kept; 0: the next takes its place. */
  keptA: number;
  keptB: number;
}

/** How many floats of a factor are kept in a worker's own memory, so that its blocks need not be copied again. */
const KEPT = 2 ** 22;

/**
 * Room for products of at most m rows, n columns and `inner` terms, of which A is transposed or not,
 * and for `more` floats by name. Blocks of A, or B, that several products have in common are copied
 * once: `common` says of which factor all blocks are kept.
 */
export function layOutProduct<More extends string>(
  own: OwnMemory,
  size: ProductSize,
  more: Record<More, number>,
): ProductRoom & Record<More, number> {
  const { keptA, keptB, ...floats } = floatsOfProduct(size);
  const at = own.layOut<string>({ ...floats, ...more }) as Record<
    keyof typeof floats | More,
    number
  >;
  return { ...at, keptA, keptB };
}

/** The floats that a product's operands take. */
export function floatsOfProduct({ m, n, inner, turned, common }: ProductSize): ProductRoom {
  const depth = Math.min(inner, BLOCK_INNER);
  const blocks = Math.ceil(inner / BLOCK_INNER);
  const keepA = common === "a" && m * depth * blocks <= KEPT;
  const keepB = common === "b" && depth * n * blocks <= KEPT;
  return {
    a: m * depth * (keepA ? blocks : 1),
    b: depth * n * (keepB ? blocks : 1),
    out: m * n,
    partial: blocks > 1 ? m * n : 0,
    raw: turned ? m * depth : 0,
    keptA: keepA ? m * depth : 0,
    keptB: keepB ? depth * n : 0,
  };
}

export interface ProductSize {
  m: number;
  n: number;
  inner: number;
  /** A is transposed. */
  turned?: boolean;
  /** The factor that has the same place in all the products. */
  common?: "a" | "b";
}

/**
 * Rows [m0, m1) and columns [n0, n1) of A B into `at.out` of the worker's own memory, its rows
 * n1 - n0 floats apart. [i0, i1) are the terms that the sums have.
 */
export async function product(
  { own, ownKernels }: Crew,
  at: ProductRoom,
  a: Factor,
  b: Factor,
  [m0, m1]: Range,
  [n0, n1]: Range,
  [i0, i1]: Range,
): Promise<void> {
  const load = (address: number, factor: Factor, [r0, r1]: Range, [c0, c1]: Range) => {
    if (own.load(address, factor.tensor, r0, r1, c0, c1) && factor.center) {
      ownKernels.centerRows(address, factor.center + c0 * 4, (c1 - c0) * 4, r1 - r0);
    }
  };
  const [m, n] = [m1 - m0, n1 - n0];
  for (let k0 = i0, block = 0; k0 < i1; k0 += BLOCK_INNER, block++) {
    const terms = [k0, Math.min(k0 + BLOCK_INNER, i1)] as const;
    const k = terms[1] - k0;
    const from = { a: at.a + block * at.keptA * 4, b: at.b + block * at.keptB * 4 };
    // Turned here and not by the product, whose packing suffers where rows are powers of two long.
    if (a.transposed) {
      own.load(at.raw, a.tensor, ...terms, m0, m1);
      ownKernels.transpose(at.raw, k, m, from.a);
    } else load(from.a, a, [m0, m1], terms);
    if (b.transposed) load(from.b, b, [n0, n1], terms);
    else load(from.b, b, terms, [n0, n1]);
    const out = block === 0 ? at.out : at.partial;
    await own.multiply({ transA: false, transB: b.transposed, m, n, k, ...from, out });
    if (block > 0) ownKernels.addTo(at.out, at.partial, m * n * 4);
  }
  if (i0 === i1) own.f32(at.out, m * n).fill(0);
}

type Range = readonly [number, number];
