/** Every call's arguments checked before they reach a device: an op trusts what it gets. */
import { anyShape, Arguments } from "./arguments.ts";
import type { Device, Dtype, Tensor } from "./device.ts";

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
