import type {
  Device,
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

/** The calls that queue work; everything else on a Device is memory and life cycle. */
type OpName = Exclude<
  keyof Device,
  | "name"
  | "description"
  | "memoryLimit"
  | "tensor"
  | "free"
  | "write"
  | "read"
  | "readF32"
  | "readI32"
  | "close"
>;

/** Per operation, every argument with its shape in letters. What follows may trust it. */
const checks: { [Op in OpName]: (op: Parameters<Device[Op]>[0], see: Arguments) => void } = {
  encodeTopK(op, see) {
    see.encoder(op);
    if (op.eligible) see.eligible(op.eligible);
    see.out("indices", op.indices, "i32", "N", "K").out("values", op.values, "f32", "N", "K");
    see.atMost("K", "F");
  },

  encodeBatchTopK(op, see) {
    see.encoder(op).raggedOut(op).out("cutoff", op.cutoff, "f32", 1);
    see.between("count", op.count, 0, op.indices.shape[0]);
  },

  encodeThreshold(op, see) {
    see.encoder(op).f32("threshold", op.threshold, "F").finite("margin", op.margin);
    see.raggedOut(op).out("pre", op.pre, "f32", "P").out("total", op.total, "i32", 1);
  },

  encodeDense(op, see) {
    see.encoder(op).out("out", op.out, "f32", "N", "F");
  },

  applyThreshold(op, see) {
    see.rows(op.rows).f32("pre", op.pre, "N", "F").f32("threshold", op.threshold, "F");
    see.out("values", op.values, "f32", "N", "F");
  },

  decodeSparse(op, see) {
    see.rows(op.rows).f32("wDec", op.wDec, "F", "e").slots("", op).latents(op.latents);
    see.f32("bDec", op.bDec, "e").f32("target", op.target, "N", "e");
    see.out("residual", op.residual, "f32", "N", "e");
    if (op.gradient) {
      see.likeValues("gradient.dValues", op, op.gradient.dValues, "out");
      see.finite("gradient.gradScale", op.gradient.gradScale);
    }
  },

  valueGradients(op, see) {
    see.rows(op.rows).f32("wDec", op.wDec, "F", "e").slots("", op).latents(op.latents);
    see.f32("residual", op.residual, "N", "e").finite("gradScale", op.gradScale);
    see.likeValues("dValues", op, op.dValues, "out");
  },

  decodeDense(op, see) {
    see.rows(op.rows);
    see.f32("acts", op.acts, "N", "F").f32("wDec", op.wDec, "F", "e").latents(op.latents);
    see.f32("bDec", op.bDec, "e").f32("target", op.target, "N", "e");
    see.out("residual", op.residual, "f32", "N", "e");
  },

  backwardDense(op, see) {
    see.rows(op.rows);
    see.f32("acts", op.acts, "N", "F").f32("residual", op.residual, "N", "e");
    see.f32("wDec", op.wDec, "F", "e").f32("weights", op.weights, "F").latents(op.latents);
    see.finite("gradScale", op.gradScale).finite("l1", op.l1);
    see.out("dPre", op.dPre, "f32", "N", "F");
  },

  penalize(op, see) {
    const { penalty } = op;
    see.rows(op.rows).f32("weights", op.weights, "F").slots("codes.", op.codes);
    see.finite("penalty.coefficient", penalty.coefficient);
    if (penalty.kind === "lp")
      see.positive("penalty.p", penalty.p).positive("penalty.delta", penalty.delta);
    if (penalty.kind === "tanh") see.positive("penalty.c", penalty.c);
    see.likeValues("dValues", op.codes, op.dValues, "out");
    see.likeValues("dWeights", op.codes, op.dWeights, "out");
    see.out("rowPenalty", op.rowPenalty, "f32", "N");
  },

  thresholdGradient(op, see) {
    const { l0 } = op;
    see.rows(op.rows).f32("threshold", op.threshold, "F").slots("codes.", op.codes);
    see.likeValues("pre", op.codes, op.pre).positive("bandwidth", op.bandwidth);
    see.finite("l0.coefficient", l0.coefficient);
    if (l0.target !== null) see.positive("l0.target", l0.target);
    see.likeValues("dValues", op.codes, op.dValues, "out");
    see.out("dThreshold", op.dThreshold, "f32", "F");
  },

  gate(op, see) {
    see.gates(op).likeValues("magnitudes", op.codes, op.magnitudes, "out");
  },

  gateGradient(op, see) {
    see.gates(op).likeValues("magnitudes", op.codes, op.magnitudes);
    see.likeValues("dMagnitudes", op.codes, op.dMagnitudes);
    see.likeValues("dGate", op.codes, op.dGate, "out");
    for (const name of ["dBGate", "dBMag", "dRMag"] as const) see.out(name, op[name], "f32", "F");
  },

  preActPenalty(op, see) {
    see.rows(op.rows).f32("wEnc", op.wEnc, "F", "d").f32("bEnc", op.bEnc, "F");
    see.f32("threshold", op.threshold, "F").f32("weights", op.weights, "F");
    see.slots("codes.", op.codes).likeValues("pre", op.codes, op.pre).eligible(op.eligible);
    see.f32("inputs", op.inputs, "d").finite("coefficient", op.coefficient);
    see.likeValues("dValues", op.codes, op.dValues, "out");
    see
      .out("coefficients", op.coefficients, "f32", "F")
      .out("dThreshold", op.dThreshold, "f32", "F");
    see.out("penalty", op.penalty, "f32", 1);
  },

  updateLatents(op, see) {
    see.rows(op.rows);
    see.f32("x", op.x, "N", "d").f32("bPre", op.bPre, "d");
    see.update(op);
    for (const [p, part] of op.parts.entries()) {
      const name = (argument: string) => `parts[${p}].${argument}`;
      see.forget("K").forget("P"); // each part keeps its own number of latents
      see.slots(`parts[${p}].`, part).likeValues(name("dValues"), part, part.dValues);
      see.likeValues(name("dWeights"), part, part.dWeights ?? null).latents(part.latents);
      see.f32(name("residual"), part.residual, "N", "e").finite(name("gradScale"), part.gradScale);
    }
  },

  updateLatentsDense(op, see) {
    see.rows(op.rows);
    see.f32("x", op.x, "N", "d").f32("bPre", op.bPre, "d");
    see.update(op);
    see.f32("acts", op.acts, "N", "F").f32("dPre", op.dPre, "N", "F");
    see.f32("dWeights", op.dWeights ?? null, "N", "F");
    see.finite("gradScale", op.gradScale).finite("normPenalty", op.normPenalty);
    for (const [l, { latents, residual }] of op.levels.entries())
      see.f32(`levels[${l}].residual`, residual, "N", "e").latents(latents);
    see.levels(op.levels.map(({ latents }) => latents));
  },

  applyLatents(op, see) {
    const { gradients } = op;
    see.f32("gradients.wEnc", gradients.wEnc, "F", "d").f32("gradients.bEnc", gradients.bEnc, "F");
    see.f32("gradients.wDec", gradients.wDec, "F", "e").f32("scale", op.scale, 1);
    see.params(op.params, op.moments).adam(op.adam);
  },

  updateVector(op, see) {
    const letters = anyShape(op.param);
    see.f32("grad", op.grad, ...letters).f32("scale", op.scale ?? null, 1);
    if (op.min !== undefined) see.finite("min", op.min);
    see.out("param", op.param, "f32", ...letters).moments("moments", op.moments, ...letters);
    see.adam(op.adam);
  },

  sumOfSquares(op, see) {
    see.f32("x", op.x, ...anyShape(op.x));
    see.out("out", op.out, "f32", 1);
  },

  clipFactor(op, see) {
    see.f32("squares", op.squares, 1).positive("maxNorm", op.maxNorm);
    see.out("out", op.out, "f32", 1);
  },

  movingAverage(op, see) {
    const letters = anyShape(op.value);
    see.f32("value", op.value, ...letters).finite("rate", op.rate);
    see.out("into", op.into, "f32", ...letters);
  },

  columnSum(op, see) {
    see.rows(op.rows);
    see.f32("x", op.x, "N", "C").out("out", op.out, "f32", "C").finite("scale", op.scale);
  },

  addScaled(op, see) {
    const letters = see.rowsOf(op.rows, op.x);
    see.f32("x", op.x, ...letters).finite("scale", op.scale);
    see.out("out", op.out, "f32", ...letters);
  },

  multiply(op, see) {
    const letters = see.rowsOf(op.rows, op.x);
    see.f32("by", op.by, 1).out("x", op.x, "f32", ...letters);
  },

  inverseVariance(op, see) {
    see.rows(op.rows).f32("x", op.x, "N", "C").finite("factor", op.factor);
    see.out("out", op.out, "f32", 1);
  },

  rowNorms(op, see) {
    see.f32("w", op.w, "F", "d").out("out", op.out, "f32", "F");
    see.divides("groups", op.groups ?? 1, op.w.shape[1]);
  },

  rowStats(op, see) {
    see.rows(op.rows);
    see.f32("target", op.target, "N", "e").f32("residual", op.residual, "N", "e");
    see.out("out", op.out, "f32", "N", 4);
  },

  recordFiring(op, see) {
    const { sinceFired, counts, sums } = op.stats;
    see.rows(op.rows).out("stats.sinceFired", sinceFired, "i32", "F");
    see.out("stats.counts", counts, "i32", "F").out("stats.sums", sums, "f32", "F");
    see.slots("codes.", op.codes);
  },

  matmul(op, see) {
    if (op.rows === undefined) {
      see.f32("a", op.a, ...(op.transA ? ["I", "M"] : ["M", "I"]));
      see.f32("b", op.b, ...(op.transB ? ["Q", "I"] : ["I", "Q"]));
      see.out("out", op.out, "f32", "M", "Q");
      return;
    }
    see.rows(op.rows);
    if (op.transA) {
      see.f32("a", op.a, "N", "M").f32("b", op.b, ...(op.transB ? ["Q", "N"] : ["N", "Q"]));
      see.out("out", op.out, "f32", "M", "Q");
    } else {
      see.f32("a", op.a, "N", "I").f32("b", op.b, ...(op.transB ? ["Q", "I"] : ["I", "Q"]));
      see.out("out", op.out, "f32", "N", "Q");
    }
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
    memoryLimit: device.memoryLimit,
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
function anyShape({ shape }: Tensor): string[] {
  return shape.length === 1 ? ["n"] : ["m", "n"];
}
