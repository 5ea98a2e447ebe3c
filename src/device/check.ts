import type { Device, Dtype, LatentParams, Moments, Tensor } from "./device.ts";

/** The calls that queue work; everything else on a Device is memory and life cycle. */
type OpName = Exclude<
  keyof Device,
  "name" | "description" | "tensor" | "free" | "write" | "read" | "readF32" | "readI32" | "close"
>;

/** Per operation, every argument with its shape in letters. What follows may trust it. */
const checks: { [Op in OpName]: (op: Parameters<Device[Op]>[0], see: Arguments) => void } = {
  encodeTopK(op, see) {
    see.rows(op.rows);
    see.f32("x", op.x, "N", "d").f32("bPre", op.bPre, "d");
    see.f32("wEnc", op.wEnc, "F", "d").f32("bEnc", op.bEnc, "F");
    if (op.eligible) {
      see.i32("eligible.sinceFired", op.eligible.sinceFired, "F");
      see.finite("eligible.atLeast", op.eligible.atLeast);
    }
    see.out("indices", op.indices, "i32", "N", "K").out("values", op.values, "f32", "N", "K");
    see.atMost("K", "F");
  },

  encodeRelu(op, see) {
    see.rows(op.rows);
    see.f32("x", op.x, "N", "d").f32("bPre", op.bPre, "d");
    see.f32("wEnc", op.wEnc, "F", "d").f32("bEnc", op.bEnc, "F");
    see.out("acts", op.acts, "f32", "N", "F");
  },

  decodeSparse(op, see) {
    see.rows(op.rows);
    see.i32("indices", op.indices, "N", "K").f32("values", op.values, "N", "K");
    see.f32("wDec", op.wDec, "F", "d").f32("bDec", op.bDec, "d").f32("target", op.target, "N", "d");
    see.out("residual", op.residual, "f32", "N", "d");
    if (op.gradient) {
      see.out("gradient.dValues", op.gradient.dValues, "f32", "N", "K");
      see.finite("gradient.gradScale", op.gradient.gradScale);
    }
  },

  decodeDense(op, see) {
    see.rows(op.rows);
    see.f32("acts", op.acts, "N", "F").f32("wDec", op.wDec, "F", "d");
    see.f32("bDec", op.bDec, "d").f32("target", op.target, "N", "d");
    see.out("residual", op.residual, "f32", "N", "d");
  },

  backwardDense(op, see) {
    see.rows(op.rows);
    see.f32("acts", op.acts, "N", "F").f32("residual", op.residual, "N", "d");
    see.f32("wDec", op.wDec, "F", "d").f32("weights", op.weights, "F");
    see.finite("gradScale", op.gradScale).finite("l1", op.l1);
    see.out("dPre", op.dPre, "f32", "N", "F");
  },

  updateLatents(op, see) {
    see.rows(op.rows);
    see.f32("x", op.x, "N", "d").f32("bPre", op.bPre, "d");
    for (const [p, part] of op.parts.entries()) {
      const name = (argument: string) => `parts[${p}].${argument}`;
      see.forget("K"); // each part keeps its own number of latents
      see.i32(name("indices"), part.indices, "N", "K").f32(name("values"), part.values, "N", "K");
      see.f32(name("dValues"), part.dValues, "N", "K");
      see.f32(name("residual"), part.residual, "N", "d").finite(name("gradScale"), part.gradScale);
    }
    see.update(op.params, op.moments, op.adam, op.dBPre);
  },

  updateLatentsDense(op, see) {
    see.rows(op.rows);
    see.f32("x", op.x, "N", "d").f32("bPre", op.bPre, "d");
    see.f32("acts", op.acts, "N", "F").f32("dPre", op.dPre, "N", "F");
    see.f32("residual", op.residual, "N", "d");
    see.finite("gradScale", op.gradScale).finite("normPenalty", op.normPenalty);
    see.update(op.params, op.moments, op.adam, op.dBPre);
  },

  updateVector(op, see) {
    see.f32("grad", op.grad, "n").out("param", op.param, "f32", "n");
    see.moments("moments", op.moments, "n").adam(op.adam);
  },

  columnSum(op, see) {
    see.rows(op.rows);
    see.f32("x", op.x, "N", "C").out("out", op.out, "f32", "C").finite("scale", op.scale);
  },

  rowNorms(op, see) {
    see.f32("w", op.w, "F", "d").out("out", op.out, "f32", "F");
  },

  rowStats(op, see) {
    see.rows(op.rows);
    see.f32("target", op.target, "N", "d").f32("residual", op.residual, "N", "d");
    see.out("out", op.out, "f32", "N", 4);
  },

  recordFiring(op, see) {
    see.rows(op.rows);
    if ("acts" in op.codes) see.f32("codes.acts", op.codes.acts, "N", "F");
    else {
      see.i32("codes.indices", op.codes.indices, "N", "K");
      see.f32("codes.values", op.codes.values, "N", "K");
    }
    see.out("stats.sinceFired", op.stats.sinceFired, "i32", "F");
    see
      .out("stats.counts", op.stats.counts, "i32", "F")
      .out("stats.sums", op.stats.sums, "f32", "F");
  },

  matmul(op, see) {
    see.f32("a", op.a, ...(op.transA ? ["I", "M"] : ["M", "I"]));
    see.f32("b", op.b, ...(op.transB ? ["P", "I"] : ["I", "P"]));
    see.out("out", op.out, "f32", "M", "P");
  },
};

/** `device` with every argument checked before it gets there. */
export function checked(device: Device): Device {
  const live = new WeakSet<Tensor>();
  const guard = <Op extends OpName>(name: Op) => {
    const check = checks[name] as (op: unknown, see: Arguments) => void;
    const run = device[name].bind(device) as (op: unknown) => void;
    return (op: unknown) => {
      check(op, new Arguments(name, live));
      run(op);
    };
  };
  const ops = Object.fromEntries((Object.keys(checks) as OpName[]).map((n) => [n, guard(n)]));
  const own = (call: string, tensor: Tensor) => {
    if (!live.has(tensor))
      throw new RangeError(`${call}: the tensor was freed or is another device's`);
  };
  const whole = (call: string, what: string, value: number, max: number) => {
    if (!Number.isInteger(value) || value < 0 || value > max) {
      throw new RangeError(
        `${call}: ${what} must be a whole number from 0 to ${max}; got ${value}`,
      );
    }
  };
  const read = async (call: string, tensor: Tensor, count: number | undefined, dtype?: Dtype) => {
    own(call, tensor);
    if (count !== undefined) whole(call, "count", count, sizeOf(tensor.shape));
    if (dtype && tensor.dtype !== dtype) {
      throw new RangeError(`${call}: the tensor is ${tensor.dtype}, not ${dtype}`);
    }
    return device.read(tensor, count);
  };
  return {
    ...(ops as Pick<Device, OpName>),
    name: device.name,
    description: device.description,
    tensor(shape, dtype = "f32") {
      if (shape.length < 1 || shape.length > 2) {
        throw new RangeError(`tensor: shape must have one or two sizes; got [${shape.join(", ")}]`);
      }
      for (const size of shape) whole("tensor", "each size", size, 2 ** 31 - 1);
      const tensor = device.tensor([...shape], dtype);
      live.add(tensor);
      return tensor;
    },
    free(...tensors) {
      for (const tensor of tensors) {
        own("free", tensor);
        live.delete(tensor);
      }
      device.free(...tensors);
    },
    write(tensor, data, offset = 0) {
      own("write", tensor);
      const dtype = data instanceof Float32Array ? "f32" : "i32";
      if (dtype !== tensor.dtype) {
        throw new RangeError(`write: the tensor is ${tensor.dtype}, the data ${dtype}`);
      }
      const size = sizeOf(tensor.shape);
      if (data.length > size) {
        throw new RangeError(`write: ${data.length} numbers do not fit into ${size}`);
      }
      whole("write", "offset", offset, size - data.length);
      device.write(tensor, data, offset);
    },
    read: (tensor, count) => read("read", tensor, count),
    readF32: (tensor, count) => read("readF32", tensor, count, "f32") as Promise<Float32Array>,
    readI32: (tensor, count) => read("readI32", tensor, count, "i32") as Promise<Int32Array>,
    close: () => device.close(),
  };
}

/** Number of elements of a shape. */
export function sizeOf(shape: readonly number[]): number {
  return shape.reduce((product, size) => product * size, 1);
}

/**
 * The arguments of one call. A letter means the size it had where it was seen first, and a number
 * itself; "N" is a capacity, of which `rows` must fit into each. Absent (null) arguments pass.
 */
class Arguments {
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

  update(
    params: LatentParams,
    moments: { wEnc: Moments; bEnc: Moments; wDec: Moments },
    adam: object,
    dBPre: Tensor | null,
  ): this {
    this.out("params.wEnc", params.wEnc, "f32", "F", "d").out(
      "params.bEnc",
      params.bEnc,
      "f32",
      "F",
    );
    this.out("params.wDec", params.wDec, "f32", "F", "d").moments(
      "moments.wEnc",
      moments.wEnc,
      "F",
      "d",
    );
    this.moments("moments.bEnc", moments.bEnc, "F").moments("moments.wDec", moments.wDec, "F", "d");
    return this.out("dBPre", dBPre, "f32", "d").adam(adam);
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

  atMost(small: string, large: string): void {
    const [a, b] = [this.#sizes.get(small)!, this.#sizes.get(large)!];
    if (a.size > b.size) {
      this.#fail(
        `${small} = ${a.size} (${a.from}) must be at most ${large} = ${b.size} (${b.from})`,
      );
    }
  }

  forget(letter: string): void {
    this.#sizes.delete(letter);
  }

  #input(name: string, tensor: Tensor | null, dtype: Dtype, letters: (string | number)[]): this {
    if (tensor === null) return this;
    this.#shape(name, tensor, dtype, letters);
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
