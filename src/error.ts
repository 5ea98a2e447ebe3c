/**
 * An error the person at the keyboard can fix: a wrong flag, a missing file, a truncated shard.
 * The command line prints its message without a stack and exits with code 1. A message says what
 * was wrong, the value seen, and what to do.
 */
export class UserError extends Error {
  override name = "UserError";
}

/** The value of `error` as one line for a person, whatever was thrown. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** The name in `names` nearest to `seen` (edit distance), or undefined when none is near enough to suggest. */
export function nearestName(seen: string, names: Iterable<string>): string | undefined {
  let best: string | undefined;
  let bestDistance = Math.ceil(seen.length / 3) + 1;
  for (const name of names) {
    const distance = editDistance(seen.toLowerCase(), name.toLowerCase());
    if (distance < bestDistance) {
      bestDistance = distance;
      best = name;
    }
  }
  return best;
}

function editDistance(a: string, b: string): number {
  let previous = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const current = [i];
    for (let j = 1; j <= b.length; j++) {
      const substitution = previous[j - 1] + (a[i - 1] === b[j - 1] ? 0 : 1);
      current.push(Math.min(substitution, previous[j] + 1, current[j - 1] + 1));
    }
    previous = current;
  }
  return previous[b.length];
}
