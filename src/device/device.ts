import { nearestName, UserError } from "../error.ts";

/**
 * The device seam: a list of named operations, each a whole, fusable piece of an SAE's forward or
 * backward pass. Not a tensor library and no autograd: an SAE's gradients are closed-form.
 * `reference.ts` is the definition of every operation in plain loops; the other devices are tested
 * against it.
 *
 * Contract
 * - Operations are queued and run in order; they write into tensors the caller made. `read` is the
 *   only call that waits for numbers.
 * - Shapes are checked once (check.ts), before a device sees them; a wrong one throws a RangeError
 *   that names the operation and the argument. A tensor an operation writes cannot be another of
 *   its arguments.
 * - Same device, same inputs, same bits, whatever the number of threads and whatever ran before.
 * - Every [batch, …] tensor has a capacity; `rows` says how many of its rows an operation uses. The
 *   rows after those are neither read nor written.
 * - W_enc and W_dec live as [dSae, width]: one contiguous row per latent.
 * - NaN goes into what is computed from it and no further: it never hangs an operation, and ranks
 *   like -Infinity in a selection.
 *
 * Letters in shapes: N rows of the batch (capacity), d width of the input, e width of what is
 * reconstructed (d for an autoencoder), F = dSae, K slots per row, P slots in all.
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
  wDec: Tensor; // [F, e]
}

/** The loss gradients of the per-latent parameters, of their shapes. */
export type LatentGradients = LatentParams;

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

/** Latents from ≤ f < to. */
export interface LatentRange {
  from: number;
  to: number;
}

/**
 * Which latents a row has, without their values, in one of two forms. An unused slot has an index
 * outside [0, F), such as -1. No latent stands in two slots of one row.
 * - fixed: `indices` [N, K], by falling value (ties to the lower index).
 * - ragged: `indices` [P] and `ends` [N]; row n has the slots ends[n-1] … ends[n]-1 (0 stands for
 *   ends[-1]), its latents rising. What lies behind the last row's slots is neither read nor written.
 */
export interface SparseLayout {
  indices: Tensor; // i32 [N, K] or [P]
  ends?: Tensor; // i32 [N]
}

/** Sparse latents. A latent is active in a row where its value is > 0. */
export interface SparseCodes extends SparseLayout {
  values: Tensor; // f32, of the shape of indices, never negative
}

/** Any latents: sparse ones, or dense ones [N, F], where slot f of a row is latent f. */
export type Slots = SparseCodes | { indices?: undefined; ends?: undefined; values: Tensor };

/** One reconstruction's contribution to the gradients of the latents. A slot with value 0 and dValue 0 contributes nothing. */
export interface SparseGradient extends SparseCodes {
  /** Loss gradient of each slot's pre-activation, of the shape of values. */
  dValues: Tensor;
  residual: Tensor; // [N, e] target - reconstruction
  /** The loss gradient of the reconstruction is -gradScale · residual. */
  gradScale: number;
  /** Only slots with these latents count. */
  latents?: LatentRange;
  /** Of the shape of values: the loss gradient of each slot's decoder norm (see `penalize`, `normGroups`). */
  dWeights?: Tensor;
  /** False: the residual gives the decoder no gradient (a detached decoder); dWeights still do. Default true. */
  decoder?: boolean;
}

interface EncodeCommon {
  rows: number;
  x: Tensor; // [N, d]
  /** Subtracted from x before encoding (the decoder bias), or null. */
  bPre: Tensor | null; // [d]
  wEnc: Tensor;
  bEnc: Tensor;
}

export interface EncodeTopK extends EncodeCommon {
  indices: Tensor; // out i32 [N, K]
  values: Tensor; // out [N, K]
  /** Only latents with sinceFired[f] >= atLeast may be selected (AuxK: the dead ones). */
  eligible?: { sinceFired: Tensor; atLeast: number };
}

export interface EncodeBatchTopK extends EncodeCommon {
  /** How many values are kept in the whole batch; at most P. */
  count: number;
  indices: Tensor; // out i32 [P]
  values: Tensor; // out [P]
  ends: Tensor; // out i32 [N]
  /** Out [1]: the smallest value kept, 0 when none was. */
  cutoff: Tensor;
}

export interface EncodeThreshold extends EncodeCommon {
  /** [F], or null for 0. */
  threshold: Tensor | null;
  /** Pairs below the threshold by less than this are listed too, with value 0; threshold - margin is rounded to an f32. */
  margin: number;
  indices: Tensor; // out i32 [P]
  values: Tensor; // out [P]
  /** Out [P], z of each slot, or null. */
  pre: Tensor | null;
  ends: Tensor; // out i32 [N]
  /** Out i32 [1]: pairs that there are. When they are more than P, indices, values, pre and ends are undefined. */
  total: Tensor;
}

export interface EncodeDense extends EncodeCommon {
  activation: "relu" | "none";
  out: Tensor; // out [N, F]
}

export interface DecodeSparse extends SparseCodes {
  rows: number;
  wDec: Tensor;
  bDec: Tensor | null; // [e]
  target: Tensor; // [N, e]
  residual: Tensor; // out [N, e]
  /** Only slots with these latents are decoded. */
  latents?: LatentRange;
  /** When given, also the loss gradient of each value, as by `valueGradients`. */
  gradient?: Pick<ValueGradients, "dValues" | "gradScale" | "inactiveToo">;
}

export interface ValueGradients extends SparseCodes {
  rows: number;
  wDec: Tensor;
  residual: Tensor; // [N, e]
  gradScale: number;
  dValues: Tensor; // out, of the shape of values
  /** Only slots with these latents are written; without a range all are, unused ones with 0. */
  latents?: LatentRange;
  /** True: also for used slots whose value is 0 (which get 0 otherwise). */
  inactiveToo?: boolean;
}

export interface DecodeDense {
  rows: number;
  acts: Tensor; // [N, F]
  wDec: Tensor;
  bDec: Tensor | null; // [e]
  target: Tensor; // [N, e]
  residual: Tensor; // out [N, e]
  latents?: LatentRange;
}

export interface BackwardDense {
  rows: number;
  /** Where it is not > 0 the gradient is 0; null: all latents count as active. */
  acts: Tensor | null; // [N, F]
  residual: Tensor; // [N, e]
  gradScale: number;
  wDec: Tensor;
  /** Added to the gradient of every active latent; multiplied by weights[f] when weights are given. */
  l1: number;
  weights: Tensor | null; // [F]
  dPre: Tensor; // out [N, F]
  /** Only these columns of dPre are written. */
  latents?: LatentRange;
}

/**
 * A sparsity penalty per row, λ Σ_f s(w_f a_f) over active latents, with w_f = weights[f] or 1:
 * l1: s(u) = u. lp: s(u) = (u + δ)^p - δ^p. tanh: s(u) = tanh(c u).
 */
export type Penalty =
  | { kind: "l1"; coefficient: number }
  | { kind: "lp"; coefficient: number; p: number; delta: number }
  | { kind: "tanh"; coefficient: number; c: number };

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
  /**
   * When given, no step is taken, and nothing but they and dBPre is written: the gradients of these
   * rows, the decoder's projected if the constraint says so, for `applyLatents`. With `accumulate`
   * they and dBPre are added to what is there.
   */
  gradients?: LatentGradients;
  accumulate?: boolean;
  /**
   * Into how many equal groups of columns the decoder's rows fall whose norms add up (a crosscoder's
   * heads; default 1). With c_f the loss gradient of latent f's norm (dWeights, normPenalty), group g
   * of its gradient gets c_f W_dec[f,g]/‖W_dec[f,g]‖; a group of norm 0 gets nothing.
   */
  normGroups?: number;
  /**
   * Adds coefficients[f]·inputs to the gradient of W_enc[f], and coefficients[f]·rows to that of
   * b_enc[f], and so to dBPre.
   */
  rankOne?: { coefficients: Tensor; inputs: Tensor }; // [F], [d]
}

export interface UpdateLatents extends UpdateCommon {
  /** Gradients of all parts are added before the one Adam step. */
  parts: SparseGradient[];
}

export interface UpdateLatentsDense extends UpdateCommon {
  acts: Tensor; // [N, F]
  dPre: Tensor; // [N, F]
  /** Each range of latents with the residual that its decoder rows learn from; together all latents, rising. */
  levels: { latents: LatentRange; residual: Tensor }[];
  gradScale: number;
  /** λ of a penalty λ Σ_n Σ_f acts[n,f]·‖W_dec[f]‖: adds λ Σ_n acts[n,f] to the loss gradient of latent f's norm. */
  normPenalty: number;
  /** [N, F]: adds Σ_n dWeights[n,f] to it as well. */
  dWeights?: Tensor;
}

export interface ApplyLatents {
  params: LatentParams;
  moments: { wEnc: Moments; bEnc: Moments; wDec: Moments };
  gradients: LatentGradients;
  adam: Adam;
  decoder: Pick<DecoderConstraint, "unitNorm">;
  /** [1]: what the gradients are multiplied by first, or null. */
  scale: Tensor | null;
}

export interface UpdateVector {
  /** Of any shape, as grad and moments. */
  param: Tensor;
  grad: Tensor;
  moments: Moments;
  adam: Adam;
  /** [1]: what the gradient is multiplied by first. */
  scale?: Tensor | null;
  /** After the step no element is below this. */
  min?: number;
}

/** The JumpReLU's straight-through estimators (Rajamanoharan et al. 2024, eq. 11-12), K the rectangle |u| < 1/2. */
export interface ThresholdGradient {
  rows: number;
  /** values = a: z where z > θ and z > 0, else 0. */
  codes: Slots;
  pre: Tensor; // z, of the shape of values
  threshold: Tensor; // [F]
  /** ε > 0 */
  bandwidth: number;
  /** Of the shape of values. In: ∂L/∂a of every used slot, active or not. Out: ∂L/∂z = ∂L/∂a where a > 0, else 0. */
  dValues: Tensor;
  /**
   * The loss coefficient · Σ_n L0_n, or with a target coefficient · rows · (L0/target - 1)², L0 the
   * batch's mean; its derivative by L0 enters the gradient of the threshold.
   */
  l0: { coefficient: number; target: number | null };
  /** Out [F]: Σ_n K((z-θ)/ε) · (-1/ε) · (θ ∂L/∂a + ∂L/∂L0_n). */
  dThreshold: Tensor;
}

/** Gated SAE (Rajamanoharan et al. 2024): magnitudes relu(e^r (π - b_gate) + b_mag) where π > 0. */
export interface Gate {
  rows: number;
  /** values = relu(π). */
  codes: Slots;
  rMag: Tensor; // [F]
  bGate: Tensor; // [F]
  bMag: Tensor; // [F]
  magnitudes: Tensor; // out, of the shape of values; 0 where π is not > 0, and in unused slots
}

export interface GateGradient extends Gate {
  magnitudes: Tensor; // in
  /** Loss gradient of the magnitudes; read where they are > 0. */
  dMagnitudes: Tensor;
  /** In: loss gradient of relu(π) where π > 0. Out: that of u = π - b_gate through both paths, e^r dMagnitude·[magnitude > 0] + dGate, and 0 in used slots where π is not > 0. */
  dGate: Tensor;
  dBGate: Tensor; // out [F], Σ_n of dGate as it came, where π > 0, as in all three sums
  dBMag: Tensor; // out [F], Σ_n dMagnitude·[magnitude > 0]
  dRMag: Tensor; // out [F], Σ_n dMagnitude·[magnitude > 0]·e^r (π - b_gate)
}

/**
 * The pre-activation loss coefficient · Σ_n Σ_f relu(θ_f - z_nf) w_f over eligible latents, w counted as
 * a constant, for thresholds ≥ 0. As relu(θ - z) is θ - z where a latent is inactive and 0 where it
 * is active, the sum over rows is closed-form, without any z of inactive latents:
 *
 *     rows·θ_f - (⟨inputs, W_enc[f]⟩ + rows·b_f) - Σ_{n: f active} (θ_f - z_nf)
 *
 * Its gradient by z is -coefficient·w_f in every row but for the active ones: a rank-one part
 * (`rankOne` of the update) and a correction in the active slots.
 */
export interface PreActPenalty {
  rows: number;
  /** Active slots are those with a value > 0; every active latent of a row must have a slot. */
  codes: Slots;
  pre: Tensor; // z, of the shape of values
  threshold: Tensor; // [F]
  weights: Tensor; // [F]
  eligible: { sinceFired: Tensor; atLeast: number };
  coefficient: number;
  /** Σ_n (x_n - bPre). */
  inputs: Tensor; // [d]
  wEnc: Tensor;
  bEnc: Tensor;
  dValues: Tensor; // in/out: += coefficient w_f in active slots of eligible latents
  coefficients: Tensor; // out [F]: -coefficient w_f of eligible latents, 0 of others
  dThreshold: Tensor; // in/out [F]: += coefficient w_f · rows in which f is not active
  penalty: Tensor; // out [1]
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
  /** Bytes that all its tensors together may take, as far as the device itself is concerned. */
  readonly memoryLimit: number;

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

  // ---- encoding: z = (x - bPre) W_encᵀ + b_enc, never kept as a whole but by encodeDense ----

  /**
   * Per row the K largest z (of the eligible latents), values max(z, 0); a slot whose value is 0
   * keeps its index, and such slots are ordered by falling z. z is an f32: ties are ties of rounded
   * sums, so devices agree on indices only where the values differ by more than rounding.
   */
  encodeTopK(op: EncodeTopK): void;
  /** The `count` largest of the values max(z, 0) of all rows that are > 0 (fewer if fewer are), ties to the lower row, then latent; ragged. */
  encodeBatchTopK(op: EncodeBatchTopK): void;
  /** Every pair with z > threshold[f] - margin, ragged; its value is z where z > threshold[f] and z > 0, else 0. */
  encodeThreshold(op: EncodeThreshold): void;
  /** out = z, or max(z, 0). */
  encodeDense(op: EncodeDense): void;
  /** values = pre where pre > threshold[f] and pre > 0, else 0; for dense latents. */
  applyThreshold(op: { rows: number; pre: Tensor; threshold: Tensor; values: Tensor }): void;

  // ---- decoding and the gradients of latents ----

  /** residual = target - (Σ_j values[n,j] W_dec[indices[n,j]] + b_dec), over used slots. */
  decodeSparse(op: DecodeSparse): void;
  /** dValues[n,j] = -gradScale ⟨residual[n], W_dec[indices[n,j]]⟩ where values[n,j] > 0, else 0. */
  valueGradients(op: ValueGradients): void;
  /** residual = target - (acts W_dec + b_dec). */
  decodeDense(op: DecodeDense): void;
  /** dPre = (-gradScale residual W_decᵀ + l1·weights) where acts > 0, else 0. */
  backwardDense(op: BackwardDense): void;
  /**
   * Adds λ w s'(w a) to dValues in active slots. dWeights, when given, becomes λ a s'(w a) there and
   * 0 in the row's other slots; rowPenalty[n] becomes the row's penalty. Without weights nothing says
   * how many latents sparse codes are of: an unused slot is one with an index below 0.
   */
  penalize(op: {
    rows: number;
    codes: Slots;
    penalty: Penalty;
    weights: Tensor | null; // [F]
    dValues: Tensor; // in/out, of the shape of values
    dWeights: Tensor | null; // out, of the shape of values
    rowPenalty: Tensor; // out [N]
    /** True: used slots whose value is 0 get λ w s'(0) too, for a straight-through estimator. */
    inactiveToo?: boolean;
  }): void;
  thresholdGradient(op: ThresholdGradient): void;
  gate(op: Gate): void;
  gateGradient(op: GateGradient): void;
  preActPenalty(op: PreActPenalty): void;

  // ---- optimiser ----

  /** Gradients of W_enc, b_enc, W_dec gathered latent by latent, then constraint and Adam in the same sweep. Latents without gradient still take their (decay-only) Adam step. */
  updateLatents(op: UpdateLatents): void;
  /** The same from dense codes: G_dec = actsᵀ(-gradScale residual) + norm penalty, G_enc = dPreᵀ(x - bPre), g_b = Σ_n dPre. */
  updateLatentsDense(op: UpdateLatentsDense): void;
  /** The Adam step, and the decoder's norm, for gradients that an update has written. */
  applyLatents(op: ApplyLatents): void;
  /** One Adam step of a vector, or a matrix. */
  updateVector(op: UpdateVector): void;
  /** out[0] = Σ x², plus the former out[0] when `accumulate`; sums in f64. */
  sumOfSquares(op: { x: Tensor; out: Tensor; accumulate: boolean }): void;
  /** out[0] = min(1, maxNorm / (√squares[0] + 1e-6)), the factor of PyTorch's clip_grad_norm_. */
  clipFactor(op: { squares: Tensor; maxNorm: number; out: Tensor }): void;
  /** into += rate (value - into), for tensors of one shape (f32). */
  movingAverage(op: { value: Tensor; into: Tensor; rate: number }): void;

  // ---- sums and statistics ----

  /** out[c] = scale · Σ_{n<rows} x[n,c], plus the former out[c] when `accumulate`. */
  columnSum(op: { rows: number; x: Tensor; scale: number; out: Tensor; accumulate: boolean }): void;
  /** out = scale · x, plus the former out when `accumulate`; both [N, C] (or both [C], which is one row). */
  addScaled(op: { rows: number; x: Tensor; scale: number; out: Tensor; accumulate: boolean }): void;
  /** x[n,c] *= by[0]; x [N, C] or [C]. */
  multiply(op: { rows: number; x: Tensor; by: Tensor }): void;
  /** out[0] = factor / Σ_n ‖x_n - x̄‖² over the rows, 0 where that sum is 0. */
  inverseVariance(op: { rows: number; x: Tensor; factor: number; out: Tensor }): void;
  /** out[f] = ‖w[f]‖₂, or the sum of the norms of `groups` equal pieces of the row. */
  rowNorms(op: { w: Tensor; out: Tensor; groups?: number }): void;
  /** Per row ‖target‖², ‖x̂‖², ⟨target, x̂⟩, ‖residual‖², with x̂ = target - residual; out [N, 4]. */
  rowStats(op: { rows: number; target: Tensor; residual: Tensor; out: Tensor }): void;
  /** Updates the firing statistics from one batch of codes; firing in the last row gives sinceFired 0. */
  recordFiring(op: { rows: number; codes: Slots; stats: FiringStats }): void;
  /**
   * out [M, Q] = scale · op(a) op(b), op = transpose when asked, plus the former out when
   * `accumulate`. `rows`, when given, is how many rows of a are used (and of out, or of b when a is
   * transposed).
   */
  matmul(op: {
    a: Tensor;
    b: Tensor;
    transA: boolean;
    transB: boolean;
    out: Tensor;
    rows?: number;
    scale?: number;
    accumulate?: boolean;
  }): void;
}

/** What a person may ask for; "auto" is the fastest device that works here. */
export const deviceNames = ["auto", "cpu", "reference"] as const;

export interface DeviceOptions {
  /** Worker threads of the cpu device; default: one per core. */
  threads?: number;
  /**
   * How the cpu device finds sparse latents: by int8 products with proven bounds where that is faster
   * ("auto", the default), by f32 products alone ("never"), or, for tests, by int8 products at any
   * size ("always"). The latents selected are the same but for values closer than rounding.
   */
  screening?: "auto" | "always" | "never";
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
