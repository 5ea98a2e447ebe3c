/** xxh64 of files and bytes, which tells whether they are what they were; not a defence against forgery. */
import xxhash from "xxhash-wasm";

import { openForReading } from "./open-file.ts";

const hashing = xxhash();

/** xxh64 of a file's bytes, 16 hexadecimal digits. Throws UserError if it cannot be read. */
export async function hashFile(path: string): Promise<string> {
  const hash = (await hashing).create64();
  const handle = await openForReading(path);
  try {
    const { size } = await handle.stat();
    const buffer = new Uint8Array(Math.min(1 << 20, size + 1));
    for (;;) {
      const { bytesRead } = await handle.read(buffer, 0, buffer.length);
      if (bytesRead === 0) return hexOf(hash.digest());
      hash.update(buffer.subarray(0, bytesRead));
    }
  } finally {
    await handle.close();
  }
}

/** An xxh64 that is fed bit by bit; `digest` gives 16 hexadecimal digits. */
export async function hashStream(): Promise<{
  update: (bytes: Uint8Array) => void;
  digest: () => string;
}> {
  const hash = (await hashing).create64();
  return { update: (bytes) => void hash.update(bytes), digest: () => hexOf(hash.digest()) };
}

/** xxh64 of bytes, 16 hexadecimal digits. */
export async function hashBytes(bytes: Uint8Array): Promise<string> {
  return hexOf((await hashing).create64().update(bytes).digest());
}

function hexOf(hash: bigint): string {
  return hash.toString(16).padStart(16, "0");
}
