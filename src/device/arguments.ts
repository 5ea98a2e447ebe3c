/** One call's arguments, seen one by one: dtypes, shapes that fit together, tensors that live. */
import type {
  Dtype,
  Gate,
  LatentParams,
  LatentRange,
  Moments,
  Slots,
  Tensor,
  UpdateLatents,
  UpdateLatentsDense,
} from "./device.ts";

/**
 * The arguments of one call. A letter means the size it had where it was seen first, and a number
 * itself; "N" is a capacity, of which `rows` must fit into each. Absent (null) arguments pass.
 */
export class Arguments {
  #sizes = new Map<string, { size: number; from: string }>();
  #rows: number | undefined;
  #inputs = new Map<Tensor, string>();
  #outputs = new Map<Tensor, string>();
  readonly #op: string;
  readonly #live: WeakSet<Tensor>;

  constructor(op: string, live: WeakSet<Tensor>) {
    this.#op = op;
    this.#live = live;
  }

  rows(rows: number): this {
    if (!Number.isInteger(rows) || rows < 0) {
      this.#fail(`rows must be a whole number, 0 or more; got ${rows}`);
    }
    this.#rows = rows;
    return this;
  }

  /** The rows of a matrix, or the one row that a vector is; returns the letters of its shape. */
  rowsOf(rows: number, tensor: Tensor): string[] {
    this.rows(rows);
    if (tensor.shape.length !== 1) return ["N", "C"];
    if (rows > 1) this.#fail(`a vector has one row; rows = ${rows}`);
    return ["C"];
  }

  f32(name: string, tensor: Tensor | null, ...letters: (string | number)[]): this {
    return this.#input(name, tensor, "f32", letters);
  }

  i32(name: string, tensor: Tensor | null, ...letters: (string | number)[]): this {
    return this.#input(name, tensor, "i32", letters);
  }

  out(name: string, tensor: Tensor | null, dtype: Dtype, ...letters: (string | number)[]): this {
    if (tensor === null) return this;
    this.#shape(name, tensor, dtype, letters);
    const other = this.#outputs.get(tensor) ?? this.#inputs.get(tensor);
    if (other) this.#fail(`${name} is written and cannot be the same tensor as ${other}`);
    this.#outputs.set(tensor, name);
    return this;
  }

  moments(name: string, moments: Moments, ...letters: string[]): this {
    this.out(`${name}.m`, moments.m, "f32", ...letters);
    return this.out(`${name}.v`, moments.v, "f32", ...letters);
  }

  /** What every encoding reads. */
  encoder(op: { rows: number; x: Tensor; bPre: Tensor | null; wEnc: Tensor; bEnc: Tensor }): this {
    this.rows(op.rows).f32("x", op.x, "N", "d").f32("bPre", op.bPre, "d");
    return this.f32("wEnc", op.wEnc, "F", "d").f32("bEnc", op.bEnc, "F");
  }

  raggedOut(op: { indices: Tensor; values: Tensor; ends: Tensor }): this {
    this.out("indices", op.indices, "i32", "P").out("values", op.values, "f32", "P");
    return this.out("ends", op.ends, "i32", "N");
  }

  eligible({ sinceFired, atLeast }: { sinceFired: Tensor; atLeast: number }): this {
    this.i32("eligible.sinceFired", sinceFired, "F");
    return this.finite("eligible.atLeast", atLeast);
  }

  /** Latents in any form; `prefix` stands before their names. */
  slots(prefix: string, codes: Slots): this {
    if (codes.ends) this.i32(`${prefix}ends`, codes.ends, "N");
    if (codes.indices) this.i32(`${prefix}indices`, codes.indices, ...lettersOf(codes));
    return this.f32(`${prefix}values`, codes.values, ...lettersOf(codes));
  }

  /** A tensor of the shape of the codes' values. */
  likeValues(name: string, codes: Slots, tensor: Tensor | null, out?: "out"): this {
    const letters = lettersOf(codes);
    return out ? this.out(name, tensor, "f32", ...letters) : this.f32(name, tensor, ...letters);
  }

  /** Within the latents that there are. */
  latents(range: LatentRange | undefined): this {
    if (!range) return this;
    const { from, to } = range;
    const dSae = this.#sizes.get("F")!.size;
    if (!(Number.isInteger(from) && Number.isInteger(to) && 0 <= from && from <= to && to <= dSae))
      this.#fail(`latents must be a range within 0 to ${dSae}; got ${from} to ${to}`);
    return this;
  }

  /** All latents, in rising ranges. */
  levels(ranges: LatentRange[]): this {
    const dSae = this.#sizes.get("F")!.size;
    let end = 0;
    for (const { from, to } of ranges) {
      if (from !== end)
        this.#fail(
          `levels must be rising ranges without gaps; one begins at ${from}, the last ended at ${end}`,
        );
      end = to;
    }
    if (end !== dSae) this.#fail(`levels must hold all ${dSae} latents; they end at ${end}`);
    return this;
  }

  gates(op: Gate): this {
    this.rows(op.rows).f32("rMag", op.rMag, "F").f32("bGate", op.bGate, "F");
    return this.f32("bMag", op.bMag, "F").slots("codes.", op.codes);
  }

  update(op: UpdateLatents | UpdateLatentsDense): this {
    const { params, moments, gradients, rankOne } = op;
    if (gradients) {
      this.f32("params.wEnc", params.wEnc, "F", "d").f32("params.bEnc", params.bEnc, "F");
      this.f32("params.wDec", params.wDec, "F", "e");
      this.out("gradients.wEnc", gradients.wEnc, "f32", "F", "d");
      this.out("gradients.bEnc", gradients.bEnc, "f32", "F");
      this.out("gradients.wDec", gradients.wDec, "f32", "F", "e");
    } else {
      if (op.accumulate) this.#fail("accumulate adds to gradients, and none are given");
      this.params(params, moments);
    }
    if (rankOne) {
      this.f32("rankOne.coefficients", rankOne.coefficients, "F");
      this.f32("rankOne.inputs", rankOne.inputs, "d");
    }
    this.divides("normGroups", op.normGroups ?? 1, params.wDec.shape[1]);
    return this.out("dBPre", op.dBPre, "f32", "d").adam(op.adam);
  }

  params(params: LatentParams, moments: { wEnc: Moments; bEnc: Moments; wDec: Moments }): this {
    this.out("params.wEnc", params.wEnc, "f32", "F", "d").moments(
      "moments.wEnc",
      moments.wEnc,
      "F",
      "d",
    );
    this.out("params.bEnc", params.bEnc, "f32", "F").moments("moments.bEnc", moments.bEnc, "F");
    return this.out("params.wDec", params.wDec, "f32", "F", "e").moments(
      "moments.wDec",
      moments.wDec,
      "F",
      "e",
    );
  }

  adam(adam: object): this {
    const { learningRate, beta1, beta2, eps, step } = adam as Record<string, number>;
    this.finite("adam.learningRate", learningRate);
    if (!(beta1 >= 0 && beta1 < 1)) this.#fail(`adam.beta1 must be in [0, 1); got ${beta1}`);
    if (!(beta2 >= 0 && beta2 < 1)) this.#fail(`adam.beta2 must be in [0, 1); got ${beta2}`);
    if (!(Math.fround(eps) > 0)) this.#fail(`adam.eps must be more than 0 as an f32; got ${eps}`);
    if (!(Number.isInteger(step) && step >= 1)) this.#fail(`adam.step counts from 1; got ${step}`);
    return this;
  }

  finite(name: string, value: number): this {
    if (!Number.isFinite(value)) this.#fail(`${name} must be a finite number; got ${value}`);
    return this;
  }

  positive(name: string, value: number): this {
    if (!(Number.isFinite(value) && value > 0))
      this.#fail(`${name} must be more than 0; got ${value}`);
    return this;
  }

  between(name: string, value: number, least: number, most: number): this {
    if (!(Number.isInteger(value) && value >= least && value <= most))
      this.#fail(`${name} must be a whole number from ${least} to ${most}; got ${value}`);
    return this;
  }

  divides(name: string, value: number, whole: number): this {
    if (!(Number.isInteger(value) && value >= 1 && whole % value === 0))
      this.#fail(`${name} must divide ${whole}; got ${value}`);
    return this;
  }

  atMost(small: string, large: string): void {
    const [a, b] = [this.#sizes.get(small)!, this.#sizes.get(large)!];
    if (a.size > b.size) {
      this.#fail(
        `${small} = ${a.size} (${a.from}) must be at most ${large} = ${b.size} (${b.from})`,
      );
    }
  }

  forget(letter: string): this {
    this.#sizes.delete(letter);
    return this;
  }

  #input(name: string, tensor: Tensor | null, dtype: Dtype, letters: (string | number)[]): this {
    if (tensor === null) return this;
    this.#shape(name, tensor, dtype, letters);
    const written = this.#outputs.get(tensor);
    if (written) this.#fail(`${written} is written and cannot be the same tensor as ${name}`);
    this.#inputs.set(tensor, name);
    return this;
  }

  #shape(name: string, tensor: Tensor, dtype: Dtype, letters: (string | number)[]): void {
    if (!this.#live.has(tensor)) this.#fail(`${name} was freed or is another device's tensor`);
    if (tensor.dtype !== dtype) this.#fail(`${name} must be ${dtype}; it is ${tensor.dtype}`);
    const seen = `[${tensor.shape.join(", ")}]`;
    if (tensor.shape.length !== letters.length) {
      this.#fail(`${name} must have shape [${letters.join(", ")}]; it is ${seen}`);
    }
    for (const [axis, letter] of letters.entries()) {
      const size = tensor.shape[axis];
      if (letter === "N") {
        if (this.#rows! > size)
          this.#fail(`rows = ${this.#rows} is more than ${name} ${seen} holds`);
        continue;
      }
      if (size < 1) this.#fail(`${name} must have no empty side; it is ${seen}`);
      const known =
        typeof letter === "number" ? { size: letter, from: "" } : this.#sizes.get(letter);
      if (!known) this.#sizes.set(letter as string, { size, from: name });
      else if (known.size !== size) {
        const why = known.from ? `${letter} = ${known.size} by ${known.from}` : `${known.size}`;
        this.#fail(`${name} must have shape [${letters.join(", ")}] with ${why}; it is ${seen}`);
      }
    }
  }

  #fail(problem: string): never {
    throw new RangeError(`${this.#op}: ${problem}`);
  }
}

/** The shape of the values of latents in any form. */
function lettersOf(codes: Slots): string[] {
  return codes.ends ? ["P"] : codes.indices ? ["N", "K"] : ["N", "F"];
}

/** The letters of a tensor that may have any shape. */
export function anyShape({ shape }: Tensor): string[] {
  return shape.length === 1 ? ["n"] : ["m", "n"];
}
