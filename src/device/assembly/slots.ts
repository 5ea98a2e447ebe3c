/**
 * The slots of a row, for every layout of codes. None of it is exported from a module.
 *
 * A layout is four arguments, (indices, ends, codeRow, k):
 * - fixed: k slots per row, rows `codeRow` bytes apart; ends is 0.
 * - ragged: row n has slots ends[n-1] … ends[n]-1, of k in all; codeRow means nothing. Where the
 *   codes did not fit, ends may point beyond k: what is there is not looked at.
 * - dense: indices and ends are 0 and slot f of a row is latent f; else as fixed.
 *
 * A slot is a byte offset, which leads to its index, its value and whatever else lies beside it. A
 * slot of latents [from, to) is one whose latent is among them; unused slots are of no latents.
 */

/** Where the slots of row n that may be of latents [from, …) begin. */
export function firstSlot(
  indices: usize,
  ends: usize,
  codeRow: usize,
  k: i32,
  n: usize,
  from: i32,
): usize {
  if (ends) return n == 0 ? 0 : endOfRow(ends, k, n - 1);
  return n * codeRow + (indices ? 0 : (<usize>from) << 2);
}

/** Where the slots of row n that may be of latents [from, to) end. */
export function endOfSlots(
  indices: usize,
  ends: usize,
  codeRow: usize,
  k: i32,
  n: usize,
  to: i32,
): usize {
  if (ends) return endOfRow(ends, k, n);
  return n * codeRow + ((<usize>(indices ? k : to)) << 2);
}

function endOfRow(ends: usize, k: i32, n: usize): usize {
  return (<usize>min<u32>(load<u32>(ends + (n << 2)), k)) << 2;
}

/** The latent of a slot of row n. */
export function latentOf(indices: usize, codeRow: usize, n: usize, slot: usize): i32 {
  return indices ? load<i32>(indices + slot) : <i32>((slot - n * codeRow) >> 2);
}

/** Is latent f one of [from, to)? */
export function among(f: i32, from: i32, to: i32): bool {
  return <u32>(f - from) < <u32>(to - from);
}
