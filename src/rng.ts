/**
 * A seeded random number generator whose whole state is four integers, so that it can be
 * checkpointed. sfc32 (Chris Doty-Humphrey, PractRand), seeded through splitmix32.
 * Same seed, same numbers, on every platform: only 32-bit integer arithmetic and IEEE doubles,
 * except `normal`, which uses Math.log, Math.cos and Math.sin (same for one JavaScript engine).
 */
export type RngState = [number, number, number, number];

export class Rng {
  #a: number;
  #b: number;
  #c: number;
  #counter: number;

  /** `stream` words keep generators of one seed apart: `new Rng(seed, "weights")`. */
  constructor(seed: number, ...stream: (string | number)[]) {
    let h = mix32(seed >>> 0) ^ mix32(Math.floor(seed / 4294967296) ^ 0x9e3779b9);
    for (const word of stream) {
      for (const ch of String(word)) h = mix32(h ^ ch.codePointAt(0)!);
      h = mix32(h ^ 0x51ed270b);
    }
    const next = () => mix32((h = (h + 0x9e3779b9) | 0));
    this.#a = next();
    this.#b = next();
    this.#c = next();
    this.#counter = 1;
    for (let i = 0; i < 12; i++) this.uint32();
  }

  static fromState(state: RngState): Rng {
    const rng = new Rng(0);
    [rng.#a, rng.#b, rng.#c, rng.#counter] = state;
    return rng;
  }

  state(): RngState {
    return [this.#a, this.#b, this.#c, this.#counter];
  }

  /** Uniform integer in [0, 2^32). */
  uint32(): number {
    const sum = (((this.#a + this.#b) | 0) + this.#counter) | 0;
    this.#counter = (this.#counter + 1) | 0;
    this.#a = this.#b ^ (this.#b >>> 9);
    this.#b = (this.#c + (this.#c << 3)) | 0;
    this.#c = ((this.#c << 21) | (this.#c >>> 11)) + sum;
    this.#c |= 0;
    return sum >>> 0;
  }

  /** Uniform double in [0, 1) with 53 random bits. */
  uniform(): number {
    return ((this.uint32() >>> 5) * 67108864 + (this.uint32() >>> 6)) / 9007199254740992;
  }

  /** Uniform integer in [0, n), n ≤ 2^32, without modulo bias. */
  int(n: number): number {
    const limit = 4294967296 - (4294967296 % n);
    let draw = this.uint32();
    while (draw >= limit) draw = this.uint32();
    return draw % n;
  }

  /** Standard normal (Box–Muller, one of the pair is dropped so that the state stays four integers). */
  normal(): number {
    return Math.sqrt(-2 * Math.log(1 - this.uniform())) * Math.cos(2 * Math.PI * this.uniform());
  }

  /** Fisher–Yates in place. */
  shuffle<T extends { length: number; [index: number]: unknown }>(items: T): T {
    for (let i = items.length - 1; i > 0; i--) {
      const j = this.int(i + 1);
      const swap = items[i];
      items[i] = items[j];
      items[j] = swap;
    }
    return items;
  }
}

function mix32(x: number): number {
  x = Math.imul(x ^ (x >>> 16), 0x21f0aaad);
  x = Math.imul(x ^ (x >>> 15), 0x735a2d97);
  return x ^ (x >>> 15);
}
