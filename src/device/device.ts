import { nearestName, UserError } from "../error.ts";

/**
 * The device seam: a short list of named operations, each a whole, fusable piece of an SAE's
 * forward or backward pass. Not a tensor library and no autograd: an SAE's gradients are
 * closed-form. `reference.ts` is the definition of every operation in plain loops; the other
 * devices are tested against it.
 *
 * Contract
 * - Operations are queued and run in order; they write into tensors the caller made. `read` is the
 *   only call that waits for numbers.
 * - Shapes are checked once (check.ts), before a device sees them; a wrong one throws a RangeError
 *   that names the operation and the argument. A tensor an operation writes cannot be another of
 *   its arguments.
 * - Same device, same inputs, same bits, whatever the number of threads.
 * - Every [batch, …] tensor has a capacity; `rows` says how many of its rows an operation uses. The
 *   rows after those are neither read nor written.
 * - W_enc and W_dec both live as [dSae, dIn]: one contiguous row per latent.
 * - NaN goes into what is computed from it and no further: it never hangs an operation, and ranks
 *   like -Infinity in a selection.
 *
 * Letters in shapes: N rows of the batch (capacity), d = dIn, F = dSae, K = latents kept per row.
 */

export type DeviceName = "reference" | "cpu";
export type Dtype = "f32" | "i32";
export type TensorData = Float32Array | Int32Array;

/** A block of a device's memory. Made by `device.tensor`, zero-filled, owned by whoever made it. */
export interface Tensor {
  readonly shape: readonly number[];
  readonly dtype: Dtype;
}

/** The trainable per-latent parameters. */
export interface LatentParams {
  wEnc: Tensor; // [F, d]
  bEnc: Tensor; // [F]
  wDec: Tensor; // [F, d]
}

/** Adam's first and second moments for one parameter, of the parameter's shape. */
export interface Moments {
  m: Tensor;
  v: Tensor;
}

/** Adam (Kingma & Ba 2015), as PyTorch states it: p -= lr/(1-β1^t) · m / (√(v/(1-β2^t)) + eps). */
export interface Adam {
  learningRate: number;
  beta1: number;
  beta2: number;
  eps: number;
  /** t, counted from 1. */
  step: number;
}

/** What happens to each decoder row W_dec[j] around the Adam step. */
export interface DecoderConstraint {
  /** Remove from the row's gradient G the part along the row: G -= (G·u)u with u = W/‖W‖. */
  projectGradient: boolean;
  /** After the step divide the row by its norm (rows of norm 0 stay 0). */
  unitNorm: boolean;
}

/**
 * Sparse latents: K slots per row, ordered by falling value, ties to the lower index; an unused slot
 * has index -1 and value 0. A latent is active in a row where its value is > 0; no latent stands in
 * two slots of one row.
 */
export interface SparseCodes {
  indices: Tensor; // i32 [N, K]
  values: Tensor; // f32 [N, K], never negative
}

/** One reconstruction's contribution to the gradients of the latents. */
export interface SparseGradient extends SparseCodes {
  dValues: Tensor; // [N, K] loss gradient of each value, 0 where the value is 0
  residual: Tensor; // [N, d] target - reconstruction
  /** The loss gradient of the reconstruction is -gradScale · residual. */
  gradScale: number;
}

export interface EncodeTopK extends SparseCodes {
  rows: number;
  x: Tensor; // [N, d]
  /** Subtracted from x before encoding (the decoder bias), or null. */
  bPre: Tensor | null; // [d]
  wEnc: Tensor;
  bEnc: Tensor;
  /** Only latents with sinceFired[f] >= atLeast may be selected (AuxK: the dead ones). */
  eligible?: { sinceFired: Tensor; atLeast: number };
}

export interface EncodeRelu {
  rows: number;
  x: Tensor; // [N, d]
  bPre: Tensor | null; // [d]
  wEnc: Tensor;
  bEnc: Tensor;
  acts: Tensor; // out [N, F]
}

export interface DecodeSparse extends SparseCodes {
  rows: number;
  wDec: Tensor;
  bDec: Tensor | null; // [d]
  target: Tensor; // [N, d]
  residual: Tensor; // out [N, d]
  /** When given, also the loss gradient of each value. */
  gradient?: { dValues: Tensor; gradScale: number }; // out [N, K]
}

export interface DecodeDense {
  rows: number;
  acts: Tensor; // [N, F]
  wDec: Tensor;
  bDec: Tensor | null; // [d]
  target: Tensor; // [N, d]
  residual: Tensor; // out [N, d]
}

export interface BackwardDense {
  rows: number;
  acts: Tensor; // [N, F]
  residual: Tensor; // [N, d]
  gradScale: number;
  wDec: Tensor;
  /** Added to the gradient of every active latent; multiplied by weights[f] when weights are given. */
  l1: number;
  weights: Tensor | null; // [F]
  dPre: Tensor; // out [N, F]
}

interface UpdateCommon {
  rows: number;
  x: Tensor; // [N, d]
  bPre: Tensor | null; // [d]
  params: LatentParams;
  moments: { wEnc: Moments; bEnc: Moments; wDec: Moments };
  adam: Adam;
  decoder: DecoderConstraint;
  /** Out [d], when given: the loss gradient of bPre, -Σ_f (Σ_n dPre[n,f]) W_enc[f] with W_enc before the step. */
  dBPre: Tensor | null;
}

export interface UpdateLatents extends UpdateCommon {
  /** Gradients of all parts are added before the one Adam step. */
  parts: SparseGradient[];
}

export interface UpdateLatentsDense extends UpdateCommon {
  acts: Tensor; // [N, F]
  dPre: Tensor; // [N, F]
  residual: Tensor; // [N, d]
  gradScale: number;
  /** λ of a penalty λ Σ_n Σ_f acts[n,f]·‖W_dec[f]‖: adds λ (Σ_n acts[n,f]) W_dec[f]/‖W_dec[f]‖ to the decoder's gradient. */
  normPenalty: number;
}

export interface UpdateVector {
  param: Tensor; // [n]
  grad: Tensor; // [n]
  moments: Moments;
  adam: Adam;
}

/** Running per-latent statistics, all [F]. */
export interface FiringStats {
  sinceFired: Tensor; // i32: rows since the latent last had a value > 0
  counts: Tensor; // i32: rows in which the latent had a value > 0, added up
  sums: Tensor; // f32: its values, added up
}

export interface Device {
  readonly name: DeviceName;
  /** One line for a person: threads, instruction set. */
  readonly description: string;

  /** A zero-filled tensor. Throws UserError when it does not fit into memory. */
  tensor(shape: readonly number[], dtype?: Dtype): Tensor;
  free(...tensors: Tensor[]): void;
  /** Copies `data` into the tensor from element `offset` on; the array may be reused at once. */
  write(tensor: Tensor, data: TensorData, offset?: number): void;
  /** A copy of the tensor's (or its first `count` elements') numbers, after all queued operations. */
  read(tensor: Tensor, count?: number): Promise<TensorData>;
  readF32(tensor: Tensor, count?: number): Promise<Float32Array>;
  readI32(tensor: Tensor, count?: number): Promise<Int32Array>;
  close(): Promise<void>;

  /**
   * z = (x - bPre) W_encᵀ + b_enc; per row the K largest z (of the eligible latents), values
   * max(z, 0); a slot whose value is 0 keeps its index, and such slots are ordered by falling z.
   * z is an f32: ties are ties of rounded sums, so devices agree on indices only where the values
   * differ by more than rounding.
   */
  encodeTopK(op: EncodeTopK): void;
  /** acts = max((x - bPre) W_encᵀ + b_enc, 0). */
  encodeRelu(op: EncodeRelu): void;
  /** residual = target - (Σ_j values[n,j] W_dec[indices[n,j]] + b_dec); dValues[n,j] = -gradScale ⟨residual[n], W_dec[indices[n,j]]⟩ where values[n,j] > 0, else 0. */
  decodeSparse(op: DecodeSparse): void;
  /** residual = target - (acts W_dec + b_dec). */
  decodeDense(op: DecodeDense): void;
  /** dPre = (-gradScale residual W_decᵀ + l1·weights) where acts > 0, else 0. */
  backwardDense(op: BackwardDense): void;
  /** Gradients of W_enc, b_enc, W_dec gathered latent by latent, then constraint and Adam in the same sweep. Latents without gradient still take their (decay-only) Adam step. */
  updateLatents(op: UpdateLatents): void;
  /** The same from dense codes: G_dec = actsᵀ(-gradScale residual) + norm penalty, G_enc = dPreᵀ(x - bPre), g_b = Σ_n dPre. */
  updateLatentsDense(op: UpdateLatentsDense): void;
  /** One Adam step of a vector. */
  updateVector(op: UpdateVector): void;
  /** out[c] = scale · Σ_{n<rows} x[n,c], plus the former out[c] when `accumulate`. */
  columnSum(op: { rows: number; x: Tensor; scale: number; out: Tensor; accumulate: boolean }): void;
  /** out[f] = ‖w[f]‖₂. */
  rowNorms(op: { w: Tensor; out: Tensor }): void;
  /** Per row ‖target‖², ‖x̂‖², ⟨target, x̂⟩, ‖residual‖², with x̂ = target - residual; out [N, 4]. */
  rowStats(op: { rows: number; target: Tensor; residual: Tensor; out: Tensor }): void;
  /** Updates the firing statistics from one batch of codes; firing in the last row gives sinceFired 0. */
  recordFiring(op: {
    rows: number;
    codes: SparseCodes | { acts: Tensor };
    stats: FiringStats;
  }): void;
  /** out [M, P] = op(a) op(b), op = transpose when asked; a, b, out are whole matrices. */
  matmul(op: { a: Tensor; b: Tensor; transA: boolean; transB: boolean; out: Tensor }): void;
}

/** What a person may ask for; "auto" is the fastest device that works here. */
export const deviceNames = ["auto", "cpu", "reference"] as const;

export interface DeviceOptions {
  /** Worker threads of the cpu device; default: one per core. */
  threads?: number;
}

/**
 * Opens a device; close it when done. "cpu" runs on worker threads (ONNX Runtime for matrix
 * products, WebAssembly for the rest), "reference" in plain loops, slowly, with sums in float64.
 * Throws UserError for an unknown name, a thread count that makes no sense, or a missing build.
 */
export async function openDevice(
  name: DeviceName | "auto",
  options: DeviceOptions = {},
): Promise<Device> {
  const { threads } = options;
  if (threads !== undefined && !(Number.isInteger(threads) && threads >= 1 && threads <= 1024)) {
    throw new UserError(`threads must be a whole number from 1 to 1024; got ${threads}`);
  }
  const { checked } = await import("./check.ts");
  switch (name) {
    case "reference": {
      const { openReference } = await import("./reference.ts");
      return checked(openReference());
    }
    case "auto":
    case "cpu": {
      const { openCpu } = await import("./cpu.ts");
      return checked(await openCpu(options));
    }
    default: {
      const unknown: string = name satisfies never;
      const near = nearestName(unknown, deviceNames);
      throw new UserError(
        `unknown device "${unknown}"; devices are ${deviceNames.join(", ")}` +
          (near ? `. Did you mean "${near}"?` : ""),
      );
    }
  }
}
