/** The WebAssembly kernels by module, as assembly/*.ts export them. All arguments are numbers. */
type Kernel = (...args: number[]) => void;

/** Kernels that return how many there are of something. */
type Counting = (...args: number[]) => number;

/** Modules over the memory that all workers share. */
export const SHARED_MODULES = [
  "sparse",
  "update",
  "rows",
  "activations",
  "quantize",
  "candidates",
] as const;
/** Modules over a worker's own memory. */
export const OWN_MODULES = ["tile", "select", "collect", "screen"] as const;

export type SharedKernels = Record<
  | "decodeRows"
  | "valueGradients"
  | "countPairs"
  | "startPairs"
  | "listPairs"
  | "normalizeRows"
  | "adam"
  | "updateDecoder"
  | "updateEncoder"
  | "addBias"
  | "columnSums"
  | "columnDeviations"
  | "squares"
  | "addScaled"
  | "moveTowards"
  | "copyRows"
  | "clearPadding"
  | "rowNorms"
  | "rowStats"
  | "subtractFromTarget"
  | "maskGradient"
  | "recordSparse"
  | "recordDense"
  | "finishFiring"
  | "penalize"
  | "applyThreshold"
  | "countActive"
  | "thresholdGradient"
  | "exponentials"
  | "gate"
  | "gateGradient"
  | "preActSlots"
  | "preActLatents"
  | "quantizeLatents"
  | "quantizeRows"
  | "evaluateCandidates"
  | "likelyCandidates"
  | "remainingCandidates"
  | "takeLargest",
  Kernel
> &
  Record<"takeAbove", Counting>;

export type OwnKernels = Record<
  | "centerRows"
  | "addTo"
  | "scaleTile"
  | "transpose"
  | "offerToHeaps"
  | "finishHeaps"
  | "collectCandidates",
  Kernel
> &
  Record<"collectAbove" | "packCandidates", Counting>;

/** Instantiates `modules` over `memory` and joins their exports. */
export function instantiate<Kernels>(
  modules: readonly WebAssembly.Module[],
  memory: WebAssembly.Memory,
): Kernels {
  const imports = { env: { memory } };
  return Object.assign(
    {},
    ...modules.map((module) => new WebAssembly.Instance(module, imports).exports),
  ) as Kernels;
}
