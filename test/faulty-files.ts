/**
 * A file system that fails when a test wants it to:
 *
 *     vi.mock(import("node:fs/promises"), async (importOriginal) => faulty(await importOriginal()));
 */
import type * as Files from "node:fs/promises";

/** Throws `code` from the `after`-th change of a file on; disks have at most `free` bytes left. */
export const fault = { after: Infinity, code: "DEAD", changes: 0, free: Infinity };

export const healFaults = () =>
  Object.assign(fault, { after: Infinity, code: "DEAD", changes: 0, free: Infinity });

export function faulty(fs: typeof Files): typeof Files {
  const change = () => {
    if (fault.changes++ < fault.after) return;
    throw Object.assign(new Error(`${fault.code}: as the test wants`), { code: fault.code });
  };
  const changing = <A extends unknown[], R>(real: (...args: A) => Promise<R>) => {
    return async (...args: A): Promise<R> => {
      change();
      return real(...args);
    };
  };
  const open: typeof fs.open = async (path, flags, mode) => {
    if (flags === "w") change();
    const handle = await fs.open(path, flags, mode);
    // Syncing takes long, and no test here cuts the power.
    handle.sync = () => Promise.resolve();
    if (flags === "w") {
      handle.writeFile = changing(handle.writeFile.bind(handle));
      handle.sync = changing(() => Promise.resolve());
    }
    return handle;
  };
  const statfs = (async (path: string) => {
    const real = await fs.statfs(path);
    return Number.isFinite(fault.free) ? { ...real, bavail: fault.free / real.bsize } : real;
  }) as typeof fs.statfs;
  return { ...fs, open, rename: changing(fs.rename), rm: changing(fs.rm), statfs };
}
