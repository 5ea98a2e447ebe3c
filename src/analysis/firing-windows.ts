/** Firings seen through windows: what is said of latents at the same position, said of the same stretch of text. */
import { firingsOf, type Firings, type HeldText } from "./firings.ts";

/**
 * Every `width` tokens of a document as one position, the last of them fewer where it ends; a latent fires there
 * if it fires at one of them, with its highest activation. With width 1 everything stays as it is.
 */
export function inWindows(
  { text, firings }: { text: HeldText; firings: readonly Firings[] },
  width: number,
): { text: HeldText; firings: Firings[] } {
  const windowOf = new Int32Array(text.positions);
  const document: number[] = [];
  const token: number[] = [];
  for (let p = 0, begin = 0; p < text.positions; p++) {
    if (p === 0 || text.document[p] !== text.document[p - 1]) begin = p;
    if ((p - begin) % width === 0) {
      document.push(text.document[p]);
      token.push(text.token[p]);
    }
    windowOf[p] = document.length - 1;
  }
  const positions = document.length;
  const seen = firings.map(({ dSae, offsets, at, values }) => {
    const ends = new Int32Array(dSae + 1);
    const windows = new Int32Array(at.length);
    const highest = new Float32Array(at.length);
    let count = 0;
    for (let f = 0; f < dSae; f++) {
      for (let i = offsets[f]; i < offsets[f + 1]; i++) {
        const w = windowOf[at[i]];
        if (count === ends[f] || windows[count - 1] !== w) windows[count++] = w;
        highest[count - 1] = Math.max(highest[count - 1], values[i]);
      }
      ends[f + 1] = count;
    }
    return firingsOf(dSae, positions, {
      ...{ offsets: ends, at: windows.slice(0, count), values: highest.slice(0, count) },
    });
  });
  return {
    text: {
      ...{ positions, documents: text.documents },
      ...{ document: Int32Array.from(document), token: Int32Array.from(token) },
    },
    firings: seen,
  };
}
