/** Patterns of paths, as cards of data sets name files by them. */

/**
 * Whether a path matches a pattern of `*`, `?` and `[abc]` within a part, and `**` across parts. All places
 * in the pattern that fit so far are followed at once: no pattern, however it is made, takes long.
 */
export function globMatcher(pattern: string): (path: string) => boolean {
  const tokens = tokensOf(pattern);
  const literal = /^[^*?[]*/.exec(pattern)![0];
  return (path) => {
    if (!path.startsWith(literal)) return false;
    let places = reached(tokens, [0]);
    for (const character of path) {
      const next: number[] = [];
      for (const place of places) {
        const token = tokens[place] as GlobToken | undefined;
        if (!token?.fits(character)) continue;
        next.push(token.repeats ? place : place + 1);
      }
      places = reached(tokens, next);
      if (places.length === 0) return false;
    }
    return places.includes(tokens.length);
  };
}

interface GlobToken {
  fits: (character: string) => boolean;
  repeats?: boolean;
  /** Takes no character: what follows so much later is reached at once. */
  skips?: readonly number[];
}

function tokensOf(pattern: string): GlobToken[] {
  const isNoSlash = (c: string) => c !== "/";
  const tokens: GlobToken[] = [];
  for (const [text] of pattern.matchAll(/\*\*+\/?|\*|\?|\[!?\]?[^\]]*\]|[^]/gu)) {
    if (/^\*\*+\/$/.test(text)) {
      // Whole folders, or none.
      tokens.push({ fits: () => false, skips: [1, 3] });
      tokens.push({ fits: () => true, repeats: true }, { fits: (c) => c === "/" });
    } else if (text.startsWith("**")) tokens.push({ fits: () => true, repeats: true });
    else if (text === "*") tokens.push({ fits: isNoSlash, repeats: true });
    else if (text === "?") tokens.push({ fits: isNoSlash });
    else if (text.length > 1) tokens.push({ fits: setOf(text) });
    else tokens.push({ fits: (c) => c === text });
  }
  return tokens;
}

/** `[a-c]`, `[!x]`. */
function setOf(text: string): (character: string) => boolean {
  const isNegated = text[1] === "!";
  const body = text.slice(isNegated ? 2 : 1, -1);
  const ranges = [...body.matchAll(/(.)-(.)|(.)/gsu)].map(([, from, to, one]) => [
    from ?? one,
    to ?? one,
  ]);
  return (c) => c !== "/" && ranges.some(([from, to]) => from <= c && c <= to) !== isNegated;
}

/** The places, and those that are reached from them without a character. */
function reached(tokens: readonly GlobToken[], places: readonly number[]): number[] {
  const all = new Set(places);
  for (const place of all) {
    const token = tokens[place] as GlobToken | undefined;
    if (token?.repeats) all.add(place + 1);
    for (const skip of token?.skips ?? []) all.add(place + skip);
  }
  return [...all];
}
