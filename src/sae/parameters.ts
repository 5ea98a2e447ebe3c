/** What is trained: every parameter on the device with Adam's moments and, if asked for, its moving average. */
import type {
  Adam,
  Device,
  LatentGradients,
  LatentParams,
  Moments,
  Tensor,
} from "../device/device.ts";
import type { ResolvedSae } from "./architecture.ts";
import { weightShapes, type SaeWeights } from "./weights.ts";

export type ParameterName = keyof SaeWeights;

/** A tensor of a checkpoint: a parameter, what goes with it, or the rows since each latent fired. */
export type StepTensor = ParameterName | `${ParameterName}.${"m" | "v" | "ema"}` | "sinceFired";
export type StepTensors = Partial<Record<StepTensor, Float32Array | Int32Array>>;

export interface Parameter extends Moments {
  value: Tensor;
  /** The loss gradient, unless the latents' update makes it on the fly. */
  gradient: Tensor | null;
  ema: Tensor | null;
}

export interface OptimiserOptions {
  clipGradNorm: number | undefined;
  emaDecay: number;
}

export class Parameters {
  readonly #device: Device;
  readonly #all = new Map<ParameterName, Parameter>();
  readonly #options: OptimiserOptions;
  readonly #unitNorm: boolean;
  /** b_enc of a gated SAE has a gradient of its own; what the latents' update makes of it goes here. */
  readonly #spareBias: Parameter | undefined;
  readonly #squares: Tensor;
  readonly #clip: Tensor;

  /** @param tensors absent ones are 0, an absent average is the parameter itself. */
  constructor(
    device: Device,
    resolved: ResolvedSae,
    options: OptimiserOptions,
    tensors: StepTensors,
  ) {
    this.#device = device;
    this.#options = options;
    this.#unitNorm = resolved.unitNormDecoder;
    this.#squares = device.tensor([1]);
    this.#clip = device.tensor([1]);
    const isGated = resolved.objective.selection.architecture === "gated";
    const byLatents = new Set(["W_enc", "W_dec", ...(isGated ? [] : ["b_enc"])]);
    const load = (shape: number[], data: Float32Array | Int32Array | undefined): Tensor => {
      const tensor = device.tensor(shape);
      if (data) device.write(tensor, data);
      return tensor;
    };
    for (const [key, shape] of Object.entries(
      weightShapes({ ...resolved, selection: resolved.objective.selection }),
    )) {
      const name = key as ParameterName;
      const needsGradient = !byLatents.has(name) || options.clipGradNorm !== undefined;
      this.#all.set(name, {
        value: load(shape, tensors[name]),
        m: load(shape, tensors[`${name}.m`]),
        v: load(shape, tensors[`${name}.v`]),
        gradient: needsGradient ? device.tensor(shape) : null,
        ema: options.emaDecay > 0 ? load(shape, tensors[`${name}.ema`] ?? tensors[name]) : null,
      });
    }
    if (isGated) {
      const [value, m, v] = [0, 1, 2].map(() => device.tensor([resolved.dSae]));
      const gradient = needsMaterialised(options) ? device.tensor([resolved.dSae]) : null;
      this.#spareBias = { value, m, v, gradient, ema: null };
    }
  }

  /** @throws Error for a parameter that this architecture does not have. */
  get(name: ParameterName): Parameter {
    const parameter = this.#all.get(name);
    if (!parameter) throw new Error(`this architecture has no ${name}`);
    return parameter;
  }

  /**
   * What the latents' update changes and, when something must be known of all gradients before a
   * step, where it is to put them: with `inPieces` because the batch is not all there yet.
   */
  latents(inPieces: boolean): {
    params: LatentParams;
    moments: { wEnc: Moments; bEnc: Moments; wDec: Moments };
    gradients: LatentGradients | undefined;
  } {
    const [wEnc, wDec] = [this.get("W_enc"), this.get("W_dec")];
    const bEnc = this.#spareBias ?? this.get("b_enc");
    const isLater = inPieces || this.#options.clipGradNorm !== undefined;
    return {
      params: { wEnc: wEnc.value, bEnc: bEnc.value, wDec: wDec.value },
      moments: {
        wEnc: { m: wEnc.m, v: wEnc.v },
        bEnc: { m: bEnc.m, v: bEnc.v },
        wDec: { m: wDec.m, v: wDec.v },
      },
      gradients: isLater
        ? { wEnc: wEnc.gradient!, bEnc: bEnc.gradient!, wDec: wDec.gradient! }
        : undefined,
    };
  }

  /**
   * Room for the latents' gradients of a batch that is worked on in pieces; kept from then on.
   */
  materialise(): void {
    for (const parameter of [
      this.get("W_enc"),
      this.get("W_dec"),
      this.#spareBias ?? this.get("b_enc"),
    ])
      parameter.gradient ??= this.#device.tensor(parameter.value.shape);
  }

  /**
   * Queues what follows the latents' gradients: clipping, the step of whatever has its gradient in a
   * tensor, the moving averages. `latentsDone` when the latents took their step on the fly.
   */
  step(adam: Adam, latentsDone: boolean): void {
    const device = this.#device;
    const { clipGradNorm, emaDecay } = this.#options;
    const { params, moments, gradients } = this.latents(!latentsDone);
    const vectors = [...this.#all].filter(
      ([name]) => name !== "W_enc" && name !== "W_dec" && (name !== "b_enc" || this.#spareBias),
    );
    let scale: Tensor | null = null;
    if (clipGradNorm !== undefined) {
      const named = [...this.#all.values()].map(({ gradient }) => gradient!);
      for (const [i, x] of named.entries())
        device.sumOfSquares({ x, out: this.#squares, accumulate: i > 0 });
      scale = this.#clip;
      device.clipFactor({ squares: this.#squares, maxNorm: clipGradNorm, out: scale });
    }
    if (!latentsDone)
      device.applyLatents({
        ...{ params, moments, gradients: gradients!, adam, scale },
        decoder: { unitNorm: this.#unitNorm },
      });
    for (const [name, { value, m, v, gradient }] of vectors)
      device.updateVector({
        ...{ param: value, grad: gradient!, moments: { m, v }, adam, scale },
        ...(name === "threshold" && { min: 0 }),
      });
    for (const { value, ema } of this.#all.values())
      if (ema) device.movingAverage({ value, into: ema, rate: 1 - emaDecay });
  }

  /** Rewrites one latent's part of a parameter, which begins anew: moments 0. */
  restart(name: ParameterName, latent: number, numbers: Float32Array): void {
    const { value, m, v, ema } = this.get(name);
    const offset = latent * numbers.length;
    const zeros = new Float32Array(numbers.length);
    this.#device.write(value, numbers, offset);
    if (ema) this.#device.write(ema, numbers, offset);
    for (const moment of [m, v]) this.#device.write(moment, zeros, offset);
  }

  /** The weights as they are, or their moving averages, decoder rows brought to norm 1 where training keeps them there. */
  async weights(averaged: boolean): Promise<SaeWeights> {
    const weights: Partial<SaeWeights> = {};
    for (const [name, { value, ema }] of this.#all) {
      weights[name] = await this.#device.readF32((averaged && ema) || value);
      if (averaged && ema && name === "W_dec" && this.#unitNorm)
        normalizeRows(weights[name], value.shape[1]);
    }
    return weights as SaeWeights;
  }

  /** Moments and averages, for a checkpoint. */
  async moments(): Promise<StepTensors> {
    const tensors: StepTensors = {};
    for (const [name, { m, v, ema }] of this.#all) {
      tensors[`${name}.m`] = await this.#device.readF32(m);
      tensors[`${name}.v`] = await this.#device.readF32(v);
      if (ema) tensors[`${name}.ema`] = await this.#device.readF32(ema);
    }
    return tensors;
  }

  /** The tensors that encoding and decoding take. */
  tensors(): Partial<Record<ParameterName, Tensor>> {
    return Object.fromEntries([...this.#all].map(([name, { value }]) => [name, value]));
  }

  close(): void {
    const spare = this.#spareBias ? [this.#spareBias] : [];
    for (const { value, m, v, gradient, ema } of [...this.#all.values(), ...spare])
      this.#device.free(value, m, v, ...[gradient, ema].filter((tensor) => tensor !== null));
    this.#device.free(this.#squares, this.#clip);
  }
}

function normalizeRows(w: Float32Array, columns: number): void {
  for (let start = 0; start < w.length; start += columns) {
    const row = w.subarray(start, start + columns);
    const norm = Math.sqrt(row.reduce((sum, v) => sum + v * v, 0));
    if (norm > 0) row.forEach((v, c) => (row[c] = v / norm));
  }
}

function needsMaterialised({ clipGradNorm }: OptimiserOptions): boolean {
  return clipGradNorm !== undefined;
}
