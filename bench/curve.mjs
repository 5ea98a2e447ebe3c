/** Reaching a number of active latents by turning one knob, and reading a curve at it. */

const CLOSE = 0.12;

/**
 * Points {knob, l0, fvu, ...} of `run(knob)` until every target has one within 12 %, or `tries` of
 * them. In logarithms L0 is taken to be a straight line of the knob between its two nearest points;
 * a `whole` knob takes whole numbers from 1 only.
 */
export async function search({ start, slope, exact, whole, tries }, targets, run, points = []) {
  const found = [...points];
  for (const target of targets) {
    if (exact) {
      const point = await run(target);
      if (!point.failed) found.push(point);
      continue;
    }
    for (let n = 0; n < tries; n++) {
      if (found.some((p) => Math.abs(Math.log(p.l0 / target)) < CLOSE)) break;
      const guessed = guess(found, target, start, slope);
      const knob = whole ? Math.max(1, Math.round(guessed)) : guessed;
      if (found.some((p) => p.knob === knob)) break;
      const point = await run(knob);
      if (point.failed || !(point.l0 > 0)) break;
      found.push(point);
    }
  }
  return found;
}

function guess(points, target, start, slope) {
  const distance = (p) => Math.abs(Math.log(p.l0 / target));
  const [near, next] = points.toSorted((a, b) => distance(a) - distance(b));
  if (!near) return start;
  let local = slope;
  if (next && next.knob !== near.knob) {
    const measured = Math.log(next.l0 / near.l0) / Math.log(next.knob / near.knob);
    // A flat or reversed piece (noise, a saturated knob) says nothing about the way to go.
    if (measured * slope > 0.1) local = measured;
  }
  const step = Math.log(target / near.l0) / local;
  return near.knob * Math.exp(Math.max(-2.5, Math.min(2.5, step)));
}

/**
 * FVU and CE loss recovered at `l0` active latents, by straight lines in logarithms (of FVU, and of
 * what is not recovered) between the two points around it, or through the two nearest when it lies
 * at most 15 % beyond them all; undefined otherwise.
 */
export function at(points, l0) {
  const sorted = points.toSorted((a, b) => a.l0 - b.l0);
  const exact = sorted.find((p) => Math.abs(p.l0 / l0 - 1) < 1e-3);
  if (exact) return exact;
  const above = sorted.findIndex((p) => p.l0 > l0);
  let [a, b] = [sorted[above - 1], sorted[above]];
  if (!a || !b) {
    const end = above === 0 ? sorted[0] : sorted.at(-1);
    if (!end || Math.abs(Math.log(end.l0 / l0)) > 0.15) return undefined;
    [a, b] = above === 0 ? [sorted[0], sorted[1] ?? end] : [sorted.at(-2) ?? end, end];
  }
  const share = a.l0 === b.l0 ? 0 : Math.log(l0 / a.l0) / Math.log(b.l0 / a.l0);
  const between = (f) => Math.exp((1 - share) * Math.log(f(a)) + share * Math.log(f(b)));
  return {
    l0,
    fvu: between((p) => p.fvu),
    ceLossRecovered: 1 - between((p) => Math.max(1e-9, 1 - p.ceLossRecovered)),
  };
}
