/** Lens next to its peers. Each section measures one thing and returns {title, notes, columns, rows}. */
import { architectures } from "./architectures.mjs";
import {
  BATCH,
  count,
  D,
  failures,
  LATENTS,
  lengths,
  lens,
  met,
  ms,
  peer,
  times,
} from "./common.mjs";
import { median, once, race } from "./contest.mjs";

/** The fastest f32 matrix product that anything here reaches, in GF/s, and the encoder's product at that rate. */
export async function peak(context) {
  const products = [
    { name: "encoder, 4,096 × 768 × 24,576", m: BATCH, k: D, n: LATENTS, transB: true },
    { name: "square, 4,096 × 4,096 × 4,096", m: 4096, k: 4096, n: 4096 },
    { name: "square, transposed B", m: 4096, k: 4096, n: 4096, transB: true },
  ];
  const settings = { products, repeat: context.quick ? 3 : 7 };
  const ours = await once(lens(context, "gemm", settings));
  const theirs = context.peers ? await once(peer(context, "gemm", settings)) : {};
  const rate = (result, i) => {
    const found = result.results?.[i];
    return found ? found.flop / Math.min(...found.ms) / 1e6 : undefined;
  };
  const rows = products.map(({ name }, i) => {
    const cells = [ours, theirs].map((result) => {
      const gflops = rate(result, i);
      return gflops ? `${count(gflops)} GF/s` : "–";
    });
    return [name, ...cells];
  });
  const best = Math.max(
    ...products.flatMap((_, i) => [rate(ours, i), rate(theirs, i)]).filter(Boolean),
  );
  context.peakGflops = best;
  const roofline = (2 * BATCH * D * LATENTS) / best / 1e6;
  context.rooflineMs = roofline;
  return {
    title: `f32 matrix products, ${context.threads} threads, best of ${settings.repeat}`,
    notes: [
      `Measured peak ${count(best)} GF/s; the encoder's product alone takes ${ms(roofline)} ms at that rate.`,
    ],
    columns: ["product", "ONNX Runtime, as Lens calls it", "PyTorch"],
    rows,
  };
}

/** Whole training steps of one architecture, everybody in turn. */
export async function architecture(context, name) {
  const { title, lens: sae, peers, others, target, peerTarget } = architectures[name];
  const data = context.data({ dIn: D, rows: 4 * BATCH });
  const shape = { dIn: D, batch: BATCH, data };
  const config = { ...sae, dSae: LATENTS };
  const told = { ...shape, dSae: LATENTS, architecture: name, ...peers };
  const specs = [
    ...context.modes.map(({ label, device }) =>
      lens(context, "train", { ...shape, sae: config, device }, { name: `Lens${label}` }),
    ),
    ...(context.peers
      ? [
          peer(context, "dense", told, { name: "PyTorch, eager" }),
          peer(context, "dense", { ...told, compile: "default" }, { name: "PyTorch, compiled" }),
          peer(
            context,
            "dense",
            { ...told, compile: "max-autotune" },
            { name: "PyTorch, compiled, max-autotune" },
          ),
          ...others.flatMap((library) => libraryVariants(context, library, name, told)),
        ]
      : []),
  ];
  const results = await race(specs, { ...lengths(context), log: context.log });
  const table = stepTable(results, BATCH);
  const plain = fastest(results, (r) => r.name.startsWith("PyTorch"));
  const library = fastest(results, (r) => !/^(PyTorch|Lens)/.test(r.name));
  const [first, ...rest] = results.filter((r) => r.name.startsWith("Lens") && !r.failed);
  const notes = [];
  if (first && plain) {
    const ratio = median(plain.ms) / median(first.ms);
    notes.push(
      `${first.name} trains ${times(ratio)} the tokens per second of ${plain.name} (target ${target}×: ${met(ratio, target)}).`,
    );
    for (const other of rest)
      notes.push(
        `${other.name}: ${times(median(plain.ms) / median(other.ms))} those of ${plain.name}.`,
      );
  }
  if (first && library) {
    const ratio = median(library.ms) / median(first.ms);
    const goal = peerTarget ? ` (target ${peerTarget}×: ${met(ratio, peerTarget)})` : "";
    notes.push(`${times(ratio)} those of the fastest library, ${library.name}${goal}.`);
  }
  if (first && context.rooflineMs) {
    const share = median(first.ms) / context.rooflineMs;
    const goal = name === "topk" ? ` (target at most 0.85: ${met(-share, -0.85)})` : "";
    notes.push(
      `A whole step of ${first.name} takes ${share.toFixed(2)} of the time of the one f32 encoder product at this machine's peak${goal}.`,
    );
  }
  notes.push(...failures(results));
  return { title: `${title}: 768 → 24,576, batch 4,096`, notes, ...table };
}

/** A library in each of its configurations that could be its fastest on a CPU. */
function libraryVariants(context, library, name, told) {
  const at = (settings, label) =>
    peer(context, `${library}_step`, { ...told, ...settings }, { name: label });
  switch (library) {
    case "sae_lens":
      return [
        at({}, "SAELens"),
        at({ compile: "default" }, "SAELens, compile_sae"),
        ...(name === "topk" ? [at({ sparse: true }, "SAELens, sparse activations")] : []),
      ];
    case "dictionary_learning":
      return [at({}, "dictionary_learning")];
    default:
      return [at({}, "sparsify, Adam")];
  }
}

function fastest(results, accept) {
  return results
    .filter((r) => !r.failed && accept(r))
    .toSorted((a, b) => median(a.ms) - median(b.ms))[0];
}

/** One row per competitor, as a multiple of Lens' time. */
function stepTable(results, rows) {
  const base = results.find((r) => r.name.startsWith("Lens") && !r.failed);
  return {
    columns: [
      "",
      "median ms",
      "range",
      "tokens/s",
      "time, Lens = 1",
      "first step ms",
      "L0",
      "peak RSS MiB",
    ],
    rows: results.map((result) => {
      if (result.failed) return [result.name, "–", "", "", "", "", "", ""];
      const middle = median(result.ms);
      return [
        result.name,
        ms(middle),
        `${ms(Math.min(...result.ms))}–${ms(Math.max(...result.ms))}`,
        count((1000 * rows) / middle),
        base ? (middle / median(base.ms)).toFixed(2) : "–",
        ms(result.warmup[0]),
        result.last.l0 === undefined ? "" : result.last.l0.toFixed(1),
        count(result.last.rssMiB),
      ];
    }),
  };
}

/** The reference experiment's step: dense ReLU 768 → 2,048, batch 256. */
export async function reference(context) {
  const [dSae, batch] = [2048, 256];
  const data = context.data({ dIn: D, rows: 10_000, reference: true });
  const shape = { dIn: D, batch, data };
  const sae = {
    architecture: "relu",
    dSae,
    loss: "mean",
    l1: 0.05,
    init: "xavier",
    decoderBiasInit: "zero",
    applyBDecToInput: false,
    normalizeActivations: "none",
    coefficientUnits: "raw",
    unitNormDecoder: false,
  };
  const learningRate = 1e-3;
  const told = { ...shape, dSae, architecture: "relu", learningRate };
  const plain = (settings, name) =>
    peer(context, "dense", { ...told, ...settings }, { name, memoryGiB: 1 });
  const specs = [
    lens(context, "train", { ...shape, sae, train: { learningRate } }, { name: "Lens" }),
    ...(context.peers
      ? [
          plain({ adam: "default" }, "PyTorch, eager"),
          plain({}, "PyTorch, eager, fused Adam"),
          plain({ compile: "default" }, "PyTorch, compiled, fused Adam"),
          plain({ compile: "max-autotune" }, "PyTorch, max-autotune, fused Adam"),
        ]
      : []),
  ];
  const turns = context.quick
    ? { rounds: 2, steps: 20, warmup: 40 }
    : { rounds: 5, steps: 40, warmup: 40 };
  const results = await race(specs, { ...turns, log: context.log });
  const products = [
    { name: "z = x W_encᵀ", m: batch, k: D, n: dSae, transB: true },
    { name: "x̂ = a W_dec", m: batch, k: dSae, n: D },
    { name: "∂a = r W_decᵀ", m: batch, k: D, n: dSae, transB: true },
    { name: "∂W_dec = aᵀ r", m: dSae, k: batch, n: D, transA: true },
    { name: "∂W_enc = ∂zᵀ x", m: dSae, k: batch, n: D, transA: true },
  ];
  const alone = await once(lens(context, "gemm", { products, repeat: context.quick ? 20 : 60 }));
  const notes = [];
  const [ours, eager] = results;
  if (ours && !ours.failed && alone.results) {
    const sum = alone.results.reduce((total, result) => total + median(result.ms), 0);
    const share = sum / median(ours.ms);
    notes.push(
      `The step's five matrix products alone take ${ms(sum)} ms: ${Math.round(100 * share)} % of Lens' step (target 75 %: ${met(share, 0.75)}).`,
    );
  }
  if (eager && !eager.failed && !ours.failed) {
    const ratio = median(eager.ms) / median(ours.ms);
    notes.push(
      `Lens does ${times(ratio)} the steps of ${eager.name} (target 2.5×: ${met(ratio, 2.5)}).`,
    );
  }
  notes.push(...failures(results));
  return {
    title: "The reference experiment's step: dense ReLU, 768 → 2,048, batch 256",
    notes,
    ...stepTable(results, batch),
  };
}
