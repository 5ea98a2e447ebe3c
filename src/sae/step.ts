/**
 * One training step on a device: the memory it needs and its operations, written out in order.
 * Losses and their terms are in the scaled units of training.
 */
import type { Adam, Device, Moments, Tensor } from "../device/device.ts";
import {
  encode,
  makeCodes,
  reconstructionTerm,
  reluCoefficients,
  type ResolvedSae,
} from "./architecture.ts";
import { sumOfSquares } from "./metrics.ts";
import { SaeOnDevice, scaled, type BatchStatistics, type SaeSpec } from "./sae.ts";

/** The loss is their sum; each includes its coefficient. */
export interface LossTerms {
  reconstruction: number;
  sparsity: number;
  aux: number;
}

const parameterNames = ["W_enc", "b_enc", "W_dec", "b_dec"] as const;
type ParameterName = (typeof parameterNames)[number];

/** What a step changes and a checkpoint keeps. */
export type StepTensor = ParameterName | `${ParameterName}.${"m" | "v"}` | "sinceFired";
export type StepTensors = Partial<Record<StepTensor, Float32Array | Int32Array>>;

interface Parameter extends Moments {
  value: Tensor;
}

/** What one step computed. */
export interface StepResult {
  terms: LossTerms;
  statistics: BatchStatistics;
}

export class TrainingStep {
  readonly #device: Device;
  readonly #resolved: ResolvedSae;
  readonly #scale: number;
  readonly #deadAfterTokens: number;
  readonly #parameters: Record<ParameterName, Parameter>;
  readonly #batch: ReturnType<typeof batchTensors>;
  readonly #firing: { sinceFired: Tensor; counts: Tensor; sums: Tensor };
  readonly #bDecGradient: Tensor;
  readonly #staging: Float32Array;
  #dead: number;

  /** @param tensors absent ones are all 0. */
  constructor(
    device: Device,
    resolved: ResolvedSae,
    options: { batchSize: number; deadAfterTokens: number; scale: number },
    tensors: StepTensors,
  ) {
    const { dIn, dSae, objective } = resolved;
    const { batchSize, deadAfterTokens, scale } = options;
    this.#device = device;
    this.#resolved = resolved;
    this.#scale = scale;
    this.#deadAfterTokens = deadAfterTokens;
    this.#dead = countDead(tensors.sinceFired ?? new Int32Array(dSae), deadAfterTokens);

    const load = (name: StepTensor, shape: number[], dtype: "f32" | "i32" = "f32"): Tensor => {
      const tensor = device.tensor(shape, dtype);
      const data = tensors[name];
      if (data) device.write(tensor, data);
      return tensor;
    };
    const parameter = (name: ParameterName, ...shape: number[]): Parameter => ({
      value: load(name, shape),
      m: load(`${name}.m`, shape),
      v: load(`${name}.v`, shape),
    });
    this.#parameters = {
      W_enc: parameter("W_enc", dSae, dIn),
      b_enc: parameter("b_enc", dSae),
      W_dec: parameter("W_dec", dSae, dIn),
      b_dec: parameter("b_dec", dIn),
    };
    this.#firing = {
      sinceFired: load("sinceFired", [dSae], "i32"),
      counts: device.tensor([dSae], "i32"),
      sums: device.tensor([dSae]),
    };
    this.#bDecGradient = device.tensor([dIn]);
    this.#batch = batchTensors(device, resolved, batchSize);
    this.#staging = new Float32Array(scale === 1 ? 0 : batchSize * dIn);
    if (objective.architecture === "topk" && objective.auxKCoefficient > 0)
      this.#batch.aux = auxTensors(device, objective.auxK, dIn, batchSize);
  }

  /** Latents that have not fired for deadAfterTokens activations, as of the last result. */
  get dead(): number {
    return this.#dead;
  }

  /**
   * Queues one optimiser step: encode → decode → backward → update.
   * @param input [rows, dIn], raw units; may be reused at once.
   */
  queue(input: Float32Array, rows: number, adam: Adam): void {
    const device = this.#device;
    const { dIn, dSae, objective, applyBDecToInput, unitNormDecoder } = this.#resolved;
    const { W_enc, b_enc, W_dec, b_dec } = this.#parameters;
    const { x, residual, rowStats, codes, dCodes, norms, aux } = this.#batch;
    device.write(x, scaled(input, this.#scale, this.#staging));

    const params = { wEnc: W_enc.value, bEnc: b_enc.value, wDec: W_dec.value };
    const bPre = applyBDecToInput ? b_dec.value : null;
    const wDec = W_dec.value;
    const update = {
      rows,
      x,
      bPre,
      params,
      moments: { wEnc: W_enc, bEnc: b_enc, wDec: W_dec },
      adam,
      decoder: { projectGradient: unitNormDecoder, unitNorm: unitNormDecoder },
      dBPre: applyBDecToInput ? this.#bDecGradient : null,
    };

    encode(device, { rows, x, bPre, params, codes });
    let gradScale: number;
    if (objective.architecture === "topk") {
      gradScale = 2 / rows;
      const { indices, values } = codes as { indices: Tensor; values: Tensor };
      device.decodeSparse({
        rows,
        indices,
        values,
        wDec,
        bDec: b_dec.value,
        target: x,
        residual,
        gradient: { dValues: dCodes, gradScale },
      });
      const parts = [{ indices, values, dValues: dCodes, residual, gradScale }];
      if (aux && this.#dead > 0) {
        const auxScale = (2 * objective.auxKCoefficient) / rows;
        const eligible = {
          sinceFired: this.#firing.sinceFired,
          atLeast: this.#deadAfterTokens,
        };
        device.encodeTopK({
          rows,
          x,
          bPre,
          wEnc: params.wEnc,
          bEnc: params.bEnc,
          ...aux,
          eligible,
        });
        device.decodeSparse({
          rows,
          indices: aux.indices,
          values: aux.values,
          wDec,
          bDec: null,
          target: residual,
          residual: aux.residual,
          gradient: { dValues: aux.dValues, gradScale: auxScale },
        });
        device.rowStats({ rows, target: residual, residual: aux.residual, out: aux.rowStats });
        parts.push({ ...aux, gradScale: auxScale });
      }
      device.updateLatents({ ...update, parts });
    } else {
      const acts = codes.values;
      const c = reluCoefficients(objective, rows, dIn, dSae, adam.step);
      gradScale = c.gradScale;
      if (c.byNorm) device.rowNorms({ w: wDec, out: norms });
      const weights = c.byNorm ? norms : null;
      const normPenalty = c.byNorm ? c.l1 : 0;
      device.decodeDense({ rows, acts, wDec, bDec: b_dec.value, target: x, residual });
      device.backwardDense({
        rows,
        acts,
        residual,
        gradScale,
        wDec,
        l1: c.l1,
        weights,
        dPre: dCodes,
      });
      device.updateLatentsDense({
        ...update,
        acts,
        dPre: dCodes,
        levels: [{ latents: { from: 0, to: dSae }, residual }],
        gradScale,
        normPenalty,
      });
    }

    // The decoder bias: through the reconstruction, and through the input when it is subtracted there.
    device.columnSum({
      rows,
      x: residual,
      scale: -gradScale,
      out: this.#bDecGradient,
      accumulate: applyBDecToInput,
    });
    device.updateVector({ param: b_dec.value, grad: this.#bDecGradient, moments: b_dec, adam });

    device.rowStats({ rows, target: x, residual, out: rowStats });
    device.write(this.#firing.counts, new Int32Array(dSae));
    device.write(this.#firing.sums, new Float32Array(dSae));
    device.recordFiring({ rows, codes, stats: this.#firing });
  }

  /** Waits for the step queued last, of `rows` rows at optimiser step `step`. */
  async result(rows: number, step: number): Promise<StepResult> {
    const device = this.#device;
    const { dIn, dSae, objective } = this.#resolved;
    const { rowStats: stats, norms, aux } = this.#batch;
    const byNorm = objective.architecture === "relu" && objective.loss === "sum";
    const withAux = aux !== undefined && this.#dead > 0;
    const [rowStats, counts, sums, sinceFired, normOf, auxStats] = await Promise.all([
      device.readF32(stats, rows * 4),
      device.readI32(this.#firing.counts),
      device.readF32(this.#firing.sums),
      device.readI32(this.#firing.sinceFired),
      byNorm ? device.readF32(norms) : undefined,
      withAux ? device.readF32(aux.rowStats, rows * 4) : undefined,
    ]);

    const terms = { reconstruction: 0, sparsity: 0, aux: 0 };
    terms.reconstruction = reconstructionTerm(objective, sumOfSquares(rowStats), rows, dIn);
    if (objective.architecture === "relu") {
      const { l1 } = reluCoefficients(objective, rows, dIn, dSae, step);
      terms.sparsity = l1 * sums.reduce((sum, v, f) => sum + v * (normOf?.[f] ?? 1), 0);
    } else if (auxStats) {
      terms.aux = (objective.auxKCoefficient * sumOfSquares(auxStats)) / rows;
    }
    this.#dead = countDead(sinceFired, this.#deadAfterTokens);
    return { terms, statistics: { rowStats, counts, sums } };
  }

  /** The weights as they are. */
  async weights(): Promise<Record<ParameterName, Float32Array>> {
    const { W_enc, b_enc, W_dec, b_dec } = this.#parameters;
    return {
      W_enc: await this.#device.readF32(W_enc.value),
      b_enc: await this.#device.readF32(b_enc.value),
      W_dec: await this.#device.readF32(W_dec.value),
      b_dec: await this.#device.readF32(b_dec.value),
    };
  }

  /** Everything but the weights that the next step depends on. */
  async moments(): Promise<StepTensors> {
    const tensors: StepTensors = {
      sinceFired: await this.#device.readI32(this.#firing.sinceFired),
    };
    for (const name of parameterNames) {
      const { m, v } = this.#parameters[name];
      tensors[`${name}.m`] = await this.#device.readF32(m);
      tensors[`${name}.v`] = await this.#device.readF32(v);
    }
    return tensors;
  }

  /** An encoder that works on the very weights that are being trained. */
  encoder(spec: SaeSpec, maxRows: number): SaeOnDevice {
    const { W_enc, b_enc, W_dec, b_dec } = this.#parameters;
    const params = {
      wEnc: W_enc.value,
      bEnc: b_enc.value,
      wDec: W_dec.value,
      bDec: b_dec.value,
    };
    return new SaeOnDevice(this.#device, spec, params, maxRows, false);
  }

  close(): void {
    const { codes, aux, ...rest } = this.#batch;
    this.#device.free(
      ...Object.values(this.#parameters).flatMap(({ value, m, v }) => [value, m, v]),
      ...Object.values(this.#firing),
      ...(codes.indices ? [codes.indices] : []),
      codes.values,
      ...Object.values(aux ?? {}),
      ...Object.values(rest),
      this.#bDecGradient,
    );
  }
}

/** Room for one batch: [N, d] inputs and residuals, the latents and their gradients. */
function batchTensors(device: Device, resolved: ResolvedSae, rows: number) {
  const { dIn, dSae, objective } = resolved;
  return {
    x: device.tensor([rows, dIn]),
    residual: device.tensor([rows, dIn]),
    rowStats: device.tensor([rows, 4]),
    codes: makeCodes(device, objective, rows, dSae),
    dCodes: device.tensor([rows, objective.architecture === "topk" ? objective.k : dSae]),
    norms: device.tensor([dSae]),
    aux: undefined as ReturnType<typeof auxTensors> | undefined,
  };
}

function auxTensors(device: Device, auxK: number, dIn: number, rows: number) {
  return {
    indices: device.tensor([rows, auxK], "i32"),
    values: device.tensor([rows, auxK]),
    dValues: device.tensor([rows, auxK]),
    residual: device.tensor([rows, dIn]),
    rowStats: device.tensor([rows, 4]),
  };
}

function countDead(sinceFired: ArrayLike<number>, deadAfterTokens: number): number {
  let dead = 0;
  for (let f = 0; f < sinceFired.length; f++) if (sinceFired[f] >= deadAfterTokens) dead++;
  return dead;
}
