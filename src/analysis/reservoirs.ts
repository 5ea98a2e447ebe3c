/**
 * What is kept of a stream that is too long to keep: for each of many owners (latents, token types) a
 * bounded number of positions, in typed arrays. What is kept depends on positions and values alone,
 * never on how the stream was cut.
 */

/** A whole number below 2³² that depends on its arguments alone: the draw of a position. */
export function uniformDraw(seed: number, owner: number, position: number): number {
  let h = Math.imul(seed ^ 0x9e3779b9, 0x85ebca6b);
  h = Math.imul(h ^ owner ^ (h >>> 15), 0xc2b2ae35);
  h = Math.imul(h ^ (h >>> 13), 0x27d4eb2f);
  h = Math.imul(h ^ position ^ (h >>> 15), 0xc2b2ae35);
  h = Math.imul(h ^ (h >>> 13), 0x27d4eb2f);
  return (h ^ (h >>> 16)) >>> 0;
}

/** A kept position. */
export interface Kept {
  position: number;
  value: number;
}

/**
 * For each owner the `limit` strongest positions with different keys; of those with the same key the
 * strongest, of equally strong ones the first. Exact: a key that was pushed out can only come back stronger.
 */
export class Strongest {
  readonly #limit: number;
  readonly #sizes: Uint32Array; // [owners]
  readonly #values: Float32Array; // [owners, limit], falling
  readonly #keys: Float64Array;
  readonly #positions: Uint32Array;

  constructor(owners: number, limit: number) {
    this.#limit = limit;
    this.#sizes = new Uint32Array(owners);
    this.#values = new Float32Array(owners * limit);
    this.#keys = new Float64Array(owners * limit);
    this.#positions = new Uint32Array(owners * limit);
  }

  static plannedBytes(owners: number, limit: number): number {
    return owners * (4 + 16 * limit);
  }

  get bytes(): number {
    const { byteLength } = this.#sizes;
    return byteLength + 4 * this.#values.length + 12 * this.#keys.length;
  }

  /** Whether a value is strong enough to be worth an `offer`. */
  admits(owner: number, value: number): boolean {
    const size = this.#sizes[owner];
    return size < this.#limit || value > this.#values[owner * this.#limit + size - 1];
  }

  offer(owner: number, value: number, key: number, position: number): void {
    if (this.#limit === 0) return;
    const base = owner * this.#limit;
    const end = base + this.#sizes[owner];
    let gone = base;
    while (gone < end && this.#keys[gone] !== key) gone++;
    if (gone < end) {
      if (this.#values[gone] >= value) return;
    } else if (end < base + this.#limit) {
      this.#sizes[owner]++;
      gone = end;
    } else gone = end - 1;
    // Everything weaker moves one place down, up to the one that goes.
    let at = gone;
    while (at > base && this.#values[at - 1] < value) at--;
    this.#values.copyWithin(at + 1, at, gone);
    this.#keys.copyWithin(at + 1, at, gone);
    this.#positions.copyWithin(at + 1, at, gone);
    this.#values[at] = value;
    this.#keys[at] = key;
    this.#positions[at] = position;
  }

  /** Strongest first. */
  of(owner: number): Kept[] {
    return Array.from({ length: this.#sizes[owner] }, (_, i) => {
      const at = owner * this.#limit + i;
      return { position: this.#positions[at], value: this.#values[at] };
    });
  }
}

/** For each owner the `limit` positions with the smallest draws: a uniform sample without replacement. */
export class Sample {
  readonly #limit: number;
  readonly #sizes: Uint32Array; // [owners]
  /** [owners, limit], a heap with the largest draw on top. */
  readonly #draws: Uint32Array;
  readonly #positions: Uint32Array;
  readonly #values: Float32Array;

  constructor(owners: number, limit: number) {
    this.#limit = limit;
    this.#sizes = new Uint32Array(owners);
    this.#draws = new Uint32Array(owners * limit);
    this.#positions = new Uint32Array(owners * limit);
    this.#values = new Float32Array(owners * limit);
  }

  static plannedBytes(owners: number, limit: number): number {
    return owners * (4 + 12 * limit);
  }

  get bytes(): number {
    return 4 * this.#sizes.length + 12 * this.#draws.length;
  }

  /** Positions must come in rising order: of equal draws the first stay. */
  offer(owner: number, draw: number, position: number, value: number): void {
    const base = owner * this.#limit;
    const size = this.#sizes[owner];
    const draws = this.#draws;
    let at: number;
    if (size < this.#limit) {
      this.#sizes[owner]++;
      for (at = size; at > 0;) {
        const parent = (at - 1) >> 1;
        if (draws[base + parent] >= draw) break;
        this.#move(base + parent, base + at);
        at = parent;
      }
    } else {
      if (size === 0 || draw >= draws[base]) return;
      for (at = 0; ;) {
        let child = 2 * at + 1;
        if (child >= size) break;
        if (child + 1 < size && draws[base + child + 1] > draws[base + child]) child++;
        if (draws[base + child] <= draw) break;
        this.#move(base + child, base + at);
        at = child;
      }
    }
    draws[base + at] = draw;
    this.#positions[base + at] = position;
    this.#values[base + at] = value;
  }

  /** In the order of their draws, which is random. */
  of(owner: number): Kept[] {
    const base = owner * this.#limit;
    const [draws, positions] = [this.#draws, this.#positions];
    return Array.from({ length: this.#sizes[owner] }, (_, i) => base + i)
      .sort((a, b) => draws[a] - draws[b] || positions[a] - positions[b])
      .map((at) => ({ position: positions[at], value: this.#values[at] }));
  }

  #move(from: number, to: number): void {
    this.#draws[to] = this.#draws[from];
    this.#positions[to] = this.#positions[from];
    this.#values[to] = this.#values[from];
  }
}
