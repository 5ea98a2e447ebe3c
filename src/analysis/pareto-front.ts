/** Which of several autoencoders are worth having: sparsity against fidelity. */

export interface ParetoPoint {
  /** What sets it apart from the others. */
  name: string;
  l0: number;
  fvu: number;
  ceLossRecovered?: number;
}

/**
 * The points that no other beats: none has at most their L0 and at most their FVU, one of them less.
 * In order of rising L0.
 */
export function paretoFront<P extends Pick<ParetoPoint, "l0" | "fvu">>(points: readonly P[]): P[] {
  return points
    .filter(
      (p) => !points.some((q) => q.l0 <= p.l0 && q.fvu <= p.fvu && (q.l0 < p.l0 || q.fvu < p.fvu)),
    )
    .toSorted((a, b) => a.l0 - b.l0);
}
