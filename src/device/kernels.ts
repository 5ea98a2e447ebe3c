/** The WebAssembly kernels by module, as assembly/*.ts export them. All arguments are numbers. */
type Kernel = (...args: number[]) => void;

/** Modules over the memory that all workers share. */
export const SHARED_MODULES = ["sparse", "update", "rows"] as const;
/** Modules over a worker's own memory. */
export const OWN_MODULES = ["tile", "select"] as const;

export type SharedKernels = Record<
  | "decodeRows"
  | "valueGradients"
  | "countPairs"
  | "listPairs"
  | "gatherRows"
  | "gatherCenteredRows"
  | "gatherSums"
  | "adam"
  | "projectRows"
  | "normalizeRows"
  | "subtractWeightedRows"
  | "scaleWithNormPenalty"
  | "columnSums"
  | "rowNorms"
  | "rowStats"
  | "subtractFromTarget"
  | "maskGradient"
  | "recordSparse"
  | "recordDense"
  | "finishFiring",
  Kernel
>;

export type OwnKernels = Record<
  "centerRows" | "addBiasRelu" | "addTo" | "offerToHeaps" | "finishHeaps",
  Kernel
>;

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
