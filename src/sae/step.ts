/**
 * One training step on a device: the memory it needs and its operations, written out in order.
 * Losses and their terms are in the scaled units of training.
 *
 * With a selection by threshold (relu, jumprelu, gated) the step works on ragged codes where few latents
 * are active, else on [rows, dSae] latents, a piece of the batch at a time where memory asks for it. Both
 * take the same path through the loss.
 */
import type { Adam, Device, Slots, Tensor } from "../device/device.ts";
import { gradScaleOf, reconstructionTerm, type ResolvedSae } from "./architecture.ts";
import { auxKLoss, auxKTensors, type AuxKTensors } from "./aux-k.ts";
import { sumOfSquares } from "./metrics.ts";
import { Parameters, type OptimiserOptions, type StepTensors } from "./parameters.ts";
import { resample } from "./resample.ts";
import { SaeOnDevice } from "./sae-on-device.ts";
import { Side } from "./side.ts";
import { denseForm, fixedForm, raggedForm, type CodeForm } from "./step-codes.ts";
import { joined, noTerms, type StepResult } from "./step-result.ts";
import { freeRoom, stepRoom, type StepRoom } from "./step-room.ts";
import type { Transforms } from "./transform.ts";
import type { SaeSpec, SaeWeights } from "./weights.ts";

/** What changes from step to step. */
export interface StepSettings {
  adam: Adam;
  /** Of the sparsity loss, warm-up and controller included. */
  sparsityCoefficient: number;
  /** Exponent of the lp penalty, and the next one whose penalty is wanted beside it, or null. */
  p: number;
  nextP: number | null;
  /** Latents kept per row. */
  k: number;
  /** Whether selections by threshold are to work on dense latents. */
  dense: boolean;
}

export interface StepOptions extends OptimiserOptions {
  batchSize: number;
  deadAfterTokens: number;
  /** Bytes that dense latents may take at once. */
  denseBytes?: number;
  transforms: Transforms;
}

/** Rows of a batch that are worked on at once. */
interface Piece {
  /** The first of them. */
  from: number;
  /** How many rows the batch has. */
  of: number;
  first: boolean;
  last: boolean;
  /** Active latents per row of the batch, when a piece needs to know. */
  l0: number | null;
}

export class TrainingStep {
  readonly parameters: Parameters;
  readonly #device: Device;
  readonly #resolved: ResolvedSae;
  readonly #options: StepOptions;
  readonly #firing: { sinceFired: Tensor; counts: Tensor; sums: Tensor };
  readonly #input: Side;
  /** The input again, unless it is a transcoder. */
  readonly #target: Side;
  readonly #batch: StepRoom;
  readonly #aux: AuxKTensors | undefined;
  #codes: CodeForm | undefined;
  #dense: CodeForm | undefined;
  /** Rows since each latent fired, as of the last result, and room for it on the device. */
  #sinceFired: Int32Array;
  #sinceFiredBefore: Tensor | undefined;
  #dead: number;

  /** @param tensors absent ones are all 0. @param resolved in units of ρ. */
  constructor(device: Device, resolved: ResolvedSae, options: StepOptions, tensors: StepTensors) {
    const { dIn, dOut, dSae, transcoder, objective } = resolved;
    const { batchSize, deadAfterTokens } = options;
    const { input, output } = options.transforms;
    this.#device = device;
    this.#resolved = resolved;
    this.#options = options;
    this.parameters = new Parameters(device, resolved, options, tensors);
    const sinceFired = device.tensor([dSae], "i32");
    this.#sinceFired = (tensors.sinceFired as Int32Array | undefined) ?? new Int32Array(dSae);
    device.write(sinceFired, this.#sinceFired);
    this.#firing = {
      sinceFired,
      counts: device.tensor([dSae], "i32"),
      sums: device.tensor([dSae]),
    };
    this.#dead = countDead(tensors.sinceFired ?? new Int32Array(dSae), deadAfterTokens);
    this.#input = new Side(device, input, dIn, batchSize, !transcoder);
    this.#target = transcoder ? new Side(device, output, dOut, batchSize, true) : this.#input;
    this.#batch = stepRoom(device, resolved, batchSize);
    const { auxiliary } = objective;
    if (auxiliary?.kind === "auxK")
      this.#aux = auxKTensors(device, auxiliary.auxK, resolved, batchSize);
  }

  /** Latents that have not fired for deadAfterTokens activations, as of the last result. */
  get dead(): number {
    return this.#dead;
  }

  /**
   * One optimiser step: encode → decode → backward → update. What can be queued at once is, before
   * the first wait.
   * @param input [rows, dIn], raw units; may be reused at once. @param target [rows, dOut], of a transcoder; likewise.
   */
  async run(
    input: Float32Array,
    rows: number,
    settings: StepSettings,
    target?: Float32Array,
  ): Promise<StepResult> {
    const { selection } = this.#resolved.objective;
    this.#input.stage(input, rows);
    if (target) this.#target.stage(target, rows);
    if (selection.architecture === "topk" || selection.architecture === "batchTopk") {
      this.#upload(0, rows);
      const form = this.#selected(settings.k);
      form.encode(this.#encoding(rows), rows, settings.k);
      return this.#finish(form, rows, settings);
    }
    if (!settings.dense) {
      this.#upload(0, rows);
      const form = (this.#codes ??= raggedForm(
        this.#device,
        this.#resolved,
        this.#options.batchSize,
      ));
      form.encode(this.#encoding(rows), rows, 0);
      // More pairs than there is room for: this step has to be dense after all.
      if (await form.fits()) return this.#finish(form, rows, settings);
    }
    return this.#runDense(rows, settings);
  }

  /** Rows from … from+rows-1 of the batch become rows 0 … rows-1 on the device. */
  #upload(from: number, rows: number): void {
    this.#input.upload(from, rows);
    if (this.#target !== this.#input) this.#target.upload(from, rows);
  }

  /** A dense step, in pieces of as many rows as [rows, dSae] latents may take. */
  async #runDense(rows: number, settings: StepSettings): Promise<StepResult> {
    const form = (this.#dense ??= denseForm(
      this.#device,
      this.#resolved,
      this.#options.batchSize,
      this.#options.denseBytes,
    ));
    const pieces = Math.ceil(rows / form.rows);
    let l0: number | null = null;
    if (pieces > 1) {
      this.parameters.materialise();
      // Every piece asks who was dead before the batch, whatever fired in the pieces before it.
      this.#sinceFiredBefore ??= this.#device.tensor([this.#resolved.dSae], "i32");
      this.#device.write(this.#sinceFiredBefore, this.#sinceFired);
      if (this.#resolved.objective.sparsity?.kind === "quadratic")
        l0 = await this.#meanL0(form, rows);
    }
    const results: StepResult[] = [];
    for (let piece = 0; piece < pieces; piece++) {
      const from = piece * form.rows;
      const count = Math.min(form.rows, rows - from);
      const place = { from, of: rows, first: piece === 0, last: piece === pieces - 1, l0 };
      this.#upload(from, count);
      form.encode(this.#encoding(count), count, 0);
      this.#queueBackward(form, count, settings, place);
      results.push(await this.#result(form, count, place, settings));
    }
    return joined(results);
  }

  async #finish(form: CodeForm, rows: number, settings: StepSettings): Promise<StepResult> {
    const whole = { from: 0, of: rows, first: true, last: true, l0: null };
    this.#queueBackward(form, rows, settings, whole);
    return this.#result(form, rows, whole, settings);
  }

  /** Active latents per row of a batch that is worked on in pieces, for a loss that depends on it. */
  async #meanL0(form: CodeForm, rows: number): Promise<number> {
    const device = this.#device;
    const { dSae } = this.#resolved;
    const counted = {
      ...{ sinceFired: device.tensor([dSae], "i32"), counts: device.tensor([dSae], "i32") },
      sums: device.tensor([dSae]),
    };
    for (let from = 0; from < rows; from += form.rows) {
      const count = Math.min(form.rows, rows - from);
      this.#upload(from, count);
      form.encode(this.#encoding(count), count, 0);
      device.recordFiring({ rows: count, codes: form.codes, stats: counted });
    }
    const counts = await device.readI32(counted.counts);
    device.free(counted.sinceFired, counted.counts, counted.sums);
    return counts.reduce((sum, count) => sum + count, 0) / rows;
  }

  /** Codes of the k largest; room for them is made anew when k changes. */
  #selected(k: number): CodeForm {
    if (this.#codes?.k !== k) {
      this.#codes?.close();
      this.#codes = fixedForm(this.#device, this.#resolved, this.#options.batchSize, k);
    }
    return this.#codes;
  }

  #encoding(rows: number) {
    const { applyBDecToInput } = this.#resolved;
    const { W_enc, b_enc, b_dec, threshold } = this.parameters.tensors();
    return {
      ...{ rows, x: this.#input.rows, wEnc: W_enc!, bEnc: b_enc! },
      bPre: applyBDecToInput ? b_dec! : null,
      threshold: threshold ?? null,
    };
  }

  /**
   * From codes to the step. Gradients of a batch's pieces add up, and the optimiser steps with the
   * last.
   */
  #queueBackward(form: CodeForm, rows: number, settings: StepSettings, piece: Piece): void {
    const device = this.#device;
    const { objective, levels, applyBDecToInput, unitNormDecoder, dOut } = this.#resolved;
    const groups = this.#resolved.heads.length;
    const { sparsity, auxiliary, selection } = objective;
    const { adam } = settings;
    const { levelResiduals, levelGradients, norms, rowPenalty, rowStats } = this.#batch;
    const [x, target] = [this.#input.rows, this.#target.rows];
    const { parameters } = this;
    const [wDec, bDec] = [parameters.get("W_dec").value, parameters.get("b_dec").value];
    const gradScale = gradScaleOf(objective, piece.of, dOut);
    const coefficient = settings.sparsityCoefficient / piece.of;
    const { codes, pre, dValues, dWeights, magnitudes, dMagnitudes } = form;
    const isPenalty =
      sparsity !== null && sparsity.kind !== "step" && sparsity.kind !== "quadratic";
    const byNorm = !unitNormDecoder && isPenalty && objective.reconstruction === "sum";
    const weights = byNorm ? norms : null;
    if (byNorm || auxiliary?.kind === "preAct") device.rowNorms({ w: wDec, out: norms, groups });

    // The values that are decoded: of a gated SAE the magnitudes, else what was encoded.
    const isGated = selection.architecture === "gated";
    const gates = isGated
      ? {
          ...{ rows, codes, magnitudes: magnitudes! },
          ...{ rMag: parameters.get("r_mag").value, bMag: parameters.get("b_mag").value },
          bGate: parameters.get("b_enc").value,
        }
      : null;
    if (gates) device.gate(gates);
    const decoded: Slots = gates ? { ...codes, values: magnitudes! } : codes;
    const dDecoded = gates ? dMagnitudes! : dValues;

    // What latents are to explain: of a skip transcoder only what its linear map does not.
    const { rest } = this.#batch;
    if (rest) {
      const W_skip = parameters.get("W_skip").value;
      device.matmul({
        ...{ a: x, b: W_skip, transA: false, transB: true, out: rest, rows, scale: -1 },
      });
      device.addScaled({ rows, x: target, scale: 1, out: rest, accumulate: true });
    }

    // Reconstruction, prefix by prefix; level l's residual is what the latents up to its end leave.
    const aim = rest ?? target;
    const isJump = selection.architecture === "jumprelu";
    // With one level the gradients of sparse values are made while their decoder rows are in the cache.
    const atOnce = levels.length === 1 && !form.isDense;
    const gradient = { dValues: dDecoded, gradScale, inactiveToo: isJump };
    for (const [l, latents] of levels.entries()) {
      const from = l === 0 ? aim : levelResiduals[l - 1];
      form.decode({
        ...{ rows, codes: decoded, wDec, bDec: l === 0 ? bDec : null },
        ...{ target: from, residual: levelResiduals[l], ...(atOnce ? { gradient } : { latents }) },
      });
    }
    // A latent of level h takes part in the reconstructions from h on: R_h = Σ_{l≥h} r_l / L.
    const L = levels.length;
    for (let l = L - 1; L > 1 && l >= 0; l--) {
      const out = levelGradients[l];
      if (l < L - 1)
        device.addScaled({ rows, x: levelGradients[l + 1], scale: 1, out, accumulate: false });
      device.addScaled({ rows, x: levelResiduals[l], scale: 1 / L, out, accumulate: l < L - 1 });
    }
    const residual = levelResiduals[L - 1];
    const fusedL1 = form.isDense && sparsity?.kind === "l1" && !isGated;
    for (const [l, latents] of atOnce ? [] : levels.entries()) {
      form.valueGradients({
        ...{ rows, codes: decoded, wDec, residual: levelGradients[l], gradScale, latents },
        ...{ dValues: dDecoded, inactiveToo: isJump },
        ...(fusedL1
          ? { l1: coefficient / (sparsity.mean ? this.#resolved.dSae : 1), weights }
          : { l1: 0, weights: null }),
      });
    }

    // Auxiliary reconstruction of a gated SAE, which is also where its gates get a gradient from.
    if (auxiliary?.kind === "gated") {
      const { auxResidual, auxStats } = this.#batch;
      const scale = (2 * auxiliary.coefficient) / piece.of;
      form.decode({ rows, codes, wDec, bDec, target: aim, residual: auxResidual! });
      form.valueGradients({
        ...{ rows, codes, wDec, residual: auxResidual!, gradScale: scale, dValues },
        ...{ inactiveToo: false, l1: 0, weights: null },
      });
      device.rowStats({ rows, target, residual: auxResidual!, out: auxStats! });
    }

    // Sparsity of what is encoded: of a gated SAE the gates.
    const penalise = (p: number, c: number, into: Tensor, out: Tensor, dW: Tensor | null) => {
      if (!sparsity || sparsity.kind === "step" || sparsity.kind === "quadratic") return;
      const { kind } = sparsity;
      const penalty =
        kind === "lp"
          ? ({ kind, coefficient: c, p, delta: sparsity.delta } as const)
          : kind === "tanh"
            ? ({ kind, coefficient: c, c: sparsity.c } as const)
            : ({ kind, coefficient: c / (sparsity.mean ? this.#resolved.dSae : 1) } as const);
      device.penalize({
        ...{ rows, codes, penalty, weights, dValues: into, dWeights: dW, rowPenalty: out },
        inactiveToo: isJump,
      });
    };
    if (!fusedL1) {
      penalise(settings.p, coefficient, dValues, rowPenalty, byNorm ? dWeights! : null);
      if (settings.nextP !== null)
        penalise(settings.nextP, 1, form.spare!, this.#batch.nextPenalty, null);
    }

    // Back through the activation.
    let rankOne: { coefficients: Tensor; inputs: Tensor } | undefined;
    if (gates) {
      const [dBGate, dBMag, dRMag] = (["b_enc", "b_mag", "r_mag"] as const).map((name) =>
        this.#gradient(name, piece.first),
      );
      device.gateGradient({
        ...{ ...gates, dMagnitudes: dMagnitudes!, dGate: dValues },
        ...{ dBGate, dBMag, dRMag },
      });
      this.#keepGradients(["b_enc", "b_mag", "r_mag"], piece.first);
    }
    if (isJump && selection.architecture === "jumprelu") {
      const threshold = parameters.get("threshold").value;
      const dThreshold = this.#gradient("threshold", piece.first);
      const countsActive = sparsity?.kind === "step" || sparsity?.kind === "quadratic";
      // L0 of the whole batch is known where the operation sees only a piece of it.
      const target = sparsity?.kind === "quadratic" ? sparsity.target : null;
      const slope =
        target !== null && piece.l0 !== null ? (2 * (piece.l0 / target - 1)) / target : 1;
      device.thresholdGradient({
        ...{ rows, codes, pre: pre!, threshold, bandwidth: selection.bandwidth, dValues },
        l0: {
          coefficient: countsActive ? coefficient * slope : 0,
          target: piece.l0 === null ? target : null,
        },
        dThreshold,
      });
      if (auxiliary?.kind === "preAct") {
        const { inputSum, preActCoefficients, preActPenalty } = this.#batch;
        device.columnSum({ rows, x, scale: 1, out: inputSum!, accumulate: false });
        if (applyBDecToInput)
          device.addScaled({ rows: 1, x: bDec, scale: -rows, out: inputSum!, accumulate: true });
        device.preActPenalty({
          ...{ rows, codes, pre: pre!, threshold, weights: norms, inputs: inputSum! },
          ...{ wEnc: parameters.get("W_enc").value, bEnc: parameters.get("b_enc").value },
          eligible: {
            sinceFired: piece.of === rows ? this.#firing.sinceFired : this.#sinceFiredBefore!,
            atLeast: auxiliary.on === "all" ? 0 : this.#options.deadAfterTokens,
          },
          coefficient: auxiliary.coefficient / piece.of,
          ...{ dValues, dThreshold, coefficients: preActCoefficients!, penalty: preActPenalty! },
        });
        rankOne = { coefficients: preActCoefficients!, inputs: inputSum! };
      }
      this.#keepGradients(["threshold"], piece.first);
    }

    // Dead latents learn from what the living ones leave.
    const extraParts =
      auxiliary?.kind === "auxK" && this.#aux && this.#dead > 0
        ? auxKLoss(device, this.#aux, auxiliary, {
            ...{ rows, residual, target, wDec, dIn: this.#resolved.dIn, dead: this.#dead },
            encoding: this.#encoding(rows),
            eligible: {
              sinceFired: this.#firing.sinceFired,
              atLeast: this.#options.deadAfterTokens,
            },
          })
        : [];

    // The latents' step, or their gradients when something must be known of all of them first.
    const bDecGradient = parameters.get("b_dec").gradient!;
    const { params, moments, gradients } = parameters.latents(!piece.first || !piece.last);
    form.update({
      ...{ rows, x, bPre: applyBDecToInput ? bDec : null, params, moments, adam },
      decoder: { projectGradient: unitNormDecoder, unitNorm: unitNormDecoder },
      dBPre: applyBDecToInput ? bDecGradient : null,
      ...(gradients && { gradients, accumulate: !piece.first }),
      ...(rankOne && { rankOne }),
      ...(groups > 1 && { normGroups: groups }),
      ...{ codes: decoded, dPre: dValues, gradScale, extraParts },
      levels: levels.map((latents, l) => ({ latents, residual: levelGradients[l] })),
      normPenalty: fusedL1 && byNorm ? coefficient : 0,
      dWeights: byNorm && !fusedL1 ? dWeights! : null,
    });

    if (rest)
      device.matmul({
        ...{ a: levelGradients[0], b: x, transA: true, transB: false, rows, scale: -gradScale },
        ...{ out: parameters.get("W_skip").gradient!, accumulate: !piece.first },
      });

    // The decoder bias: through the reconstructions, and through the input when it is subtracted there.
    device.columnSum({
      ...{ rows, x: levelGradients[0], scale: -gradScale, out: bDecGradient },
      accumulate: applyBDecToInput || !piece.first,
    });
    if (piece.last) parameters.step(adam, gradients === undefined);

    device.rowStats({ rows, target, residual, out: rowStats });
    this.#target.measure(residual, rows);
    for (const [l, out] of this.#batch.levelStats.entries())
      device.rowStats({ rows, target, residual: levelResiduals[l], out });
    device.write(this.#firing.counts, new Int32Array(this.#resolved.dSae));
    device.write(this.#firing.sums, new Float32Array(this.#resolved.dSae));
    device.recordFiring({ rows, codes: decoded, stats: this.#firing });
  }

  /** Where an operation writes the gradient of a vector for this piece of the batch. */
  #gradient(name: "b_enc" | "b_mag" | "r_mag" | "threshold", first: boolean): Tensor {
    const { gradient, value } = this.parameters.get(name);
    if (first) return gradient!;
    return (this.#batch.pieces[name] ??= this.#device.tensor(value.shape));
  }

  /** Adds the gradients of a later piece to those of the pieces before. */
  #keepGradients(names: ("b_enc" | "b_mag" | "r_mag" | "threshold")[], first: boolean): void {
    if (first) return;
    for (const name of names)
      this.#device.addScaled({
        ...{ rows: 1, x: this.#batch.pieces[name]!, scale: 1, accumulate: true },
        out: this.parameters.get(name).gradient!,
      });
  }

  /** Waits for what was queued last and reads what metrics need. */
  async #result(
    form: CodeForm,
    rows: number,
    { from, of, l0 }: Piece,
    settings: StepSettings,
  ): Promise<StepResult> {
    const device = this.#device;
    const { dOut, objective } = this.#resolved;
    const { sparsity, auxiliary } = objective;
    const batch = this.#batch;
    const auxStats = this.#aux && this.#dead > 0 ? this.#aux.rowStats : batch.auxStats;
    const isFused = form.isDense && sparsity?.kind === "l1" && !form.magnitudes;
    const byNorm = isFused && !this.#resolved.unitNormDecoder && !sparsity.mean;
    const read = (tensor: Tensor | null | undefined, count?: number) =>
      tensor ? device.readF32(tensor, count) : Promise.resolve(undefined);
    const [
      rowStats,
      counts,
      sums,
      sinceFired,
      norms,
      aux,
      auxScale,
      penalty,
      next,
      preAct,
      cutoff,
    ] = await Promise.all([
      device.readF32(batch.rowStats, rows * 4),
      device.readI32(this.#firing.counts),
      device.readF32(this.#firing.sums),
      device.readI32(this.#firing.sinceFired),
      read(byNorm ? batch.norms : null),
      read(auxiliary ? auxStats : null, rows * 4),
      read(this.#aux?.scale),
      read(sparsity && !isFused ? batch.rowPenalty : null, rows),
      read(settings.nextP === null ? null : batch.nextPenalty, rows),
      read(batch.preActPenalty),
      read(form.cutoff),
    ]);
    const levelStats = await Promise.all(
      batch.levelStats.map((tensor) => device.readF32(tensor, rows * 4)),
    );
    this.#sinceFired = sinceFired;
    this.#dead = countDead(sinceFired, this.#options.deadAfterTokens);

    const terms = noTerms();
    const errors = levelStats.length > 0 ? levelStats : [rowStats];
    for (const stats of errors)
      terms.reconstruction +=
        reconstructionTerm(objective, sumOfSquares(stats), of, dOut) / errors.length;
    const active = counts.reduce((sum, count) => sum + count, 0);
    const c = settings.sparsityCoefficient;
    if (sparsity?.kind === "step") terms.sparsity = (c * active) / of;
    else if (sparsity?.kind === "quadratic")
      terms.sparsity = ((c * rows) / of) * ((l0 ?? active / rows) / sparsity.target - 1) ** 2;
    else if (isFused) {
      const weighted = sums.reduce((sum, v, f) => sum + v * (norms?.[f] ?? 1), 0);
      terms.sparsity = ((c / of) * weighted) / (sparsity.mean ? this.#resolved.dSae : 1);
    } else if (penalty) terms.sparsity = total(penalty);
    if (auxiliary?.kind === "preAct") terms.aux = preAct![0];
    else if (auxiliary && aux)
      terms.aux = (auxiliary.coefficient * (auxScale?.[0] ?? 1) * sumOfSquares(aux)) / of;
    return {
      terms,
      statistics: {
        ...{ rowStats: await this.#target.rawStats(rowStats, from, rows), counts, sums },
        error: sumOfSquares(rowStats),
      },
      listed: form.isDense ? active : await form.listed(rows),
      cutoff: cutoff?.[0] ?? 0,
      penalties:
        next && penalty && c > 0 ? { now: (total(penalty) * of) / c, next: total(next) } : null,
    };
  }

  /** The weights as they are, or their moving averages when there are any. */
  weights(averaged: boolean): Promise<SaeWeights> {
    return this.parameters.weights(averaged);
  }

  /** Everything but the weights that the next step depends on. */
  async moments(): Promise<StepTensors> {
    const sinceFired = await this.#device.readI32(this.#firing.sinceFired);
    return { sinceFired, ...(await this.parameters.moments()) };
  }

  /** An encoder that works on the very weights that are being trained. */
  encoder(spec: SaeSpec, maxRows: number): SaeOnDevice {
    return new SaeOnDevice(this.#device, spec, this.parameters.tensors(), maxRows, false);
  }

  /** Restarts dead latents from the batch of the last step, whose row statistics are given. */
  async resample(rowStats: Float64Array, options: { seed: number; step: number }): Promise<void> {
    const { deadAfterTokens } = this.#options;
    const sinceFired = await this.#device.readI32(this.#firing.sinceFired);
    const input = (n: number) => this.#input.row(n);
    const target = (n: number) => this.#target.row(n);
    const batch = { input, target, rowStats };
    const at = { ...options, deadAfterTokens };
    await resample(this.#device, this.parameters, this.#resolved, batch, sinceFired, at);
    this.#device.write(this.#firing.sinceFired, sinceFired);
    this.#sinceFired = sinceFired;
    this.#dead = countDead(sinceFired, deadAfterTokens);
  }

  close(): void {
    const { sinceFired, counts, sums } = this.#firing;
    this.#input.close();
    if (this.#target !== this.#input) this.#target.close();
    freeRoom(this.#device, this.#batch);
    this.#device.free(sinceFired, counts, sums);
    if (this.#sinceFiredBefore) this.#device.free(this.#sinceFiredBefore);
    if (this.#aux) this.#device.free(...Object.values<Tensor>({ ...this.#aux }));
    this.#codes?.close();
    this.#dense?.close();
    this.parameters.close();
  }
}

function total(values: Float32Array): number {
  return values.reduce((sum, v) => sum + v, 0);
}

function countDead(sinceFired: ArrayLike<number>, deadAfterTokens: number): number {
  let dead = 0;
  for (let f = 0; f < sinceFired.length; f++) if (sinceFired[f] >= deadAfterTokens) dead++;
  return dead;
}
