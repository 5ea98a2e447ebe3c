/** Set up before every file of tests: arrays of numbers that have the same bytes are equal, without a look at each. */
import { Buffer } from "node:buffer";
import { expect } from "vitest";

/** True: the same type and bytes. Otherwise nothing: Vitest compares them, and says where they differ. */
function haveSameBytes(a: unknown, b: unknown): true | undefined {
  if (!ArrayBuffer.isView(a) || !ArrayBuffer.isView(b)) return undefined;
  if (a.constructor !== b.constructor || a.byteLength !== b.byteLength) return undefined;
  const bytes = (view: ArrayBufferView) => Buffer.from(view.buffer, view.byteOffset, view.byteLength); // prettier-ignore
  return bytes(a).equals(bytes(b)) ? true : undefined;
}

expect.addEqualityTesters([haveSameBytes]);
