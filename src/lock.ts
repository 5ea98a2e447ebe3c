/**
 * One process at a time in a folder: a file `lock` in it names its owner. A lock whose owner no
 * longer lives is taken over, so a crash locks nobody out.
 */
import { randomUUID } from "node:crypto";
import { linkSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { hostname } from "node:os";
import { join, resolve } from "node:path";

import { messageOf, UserError } from "./error.ts";

interface Owner {
  pid: number;
  host: string;
  /** What tells this process from a later one with the same id, where the system says so. */
  born: string | null;
  since: string;
}

/** Locks this process holds; a lock file with our process id that is not among them is a leftover. */
const held = new Set<string>();

/** Takes the folder. @throws UserError when a live process (or one on another machine) has it. */
export function lockFolder(folder: string): void {
  const path = lockPath(folder);
  const mine: Owner = {
    pid: process.pid,
    host: hostname(),
    born: birthOf(process.pid),
    since: new Date().toISOString(),
  };
  const prepared = temporary(folder);
  try {
    writeFileSync(prepared, JSON.stringify(mine) + "\n");
    for (let attempt = 0; attempt < 5; attempt++) {
      if (place(prepared, path)) {
        held.add(path);
        return;
      }
      const owner = readOwner(path);
      if (owner !== undefined && isAlive(path, owner)) refuse(folder, owner);
      removeLeftover(folder, path);
    }
  } catch (error) {
    if (error instanceof UserError) throw error;
    throw new UserError(`cannot lock ${folder}: ${messageOf(error)}`);
  } finally {
    rmSync(prepared, { force: true });
  }
  throw new UserError(`cannot lock ${folder}: other processes keep taking it`);
}

/** Gives the folder up, if this process has it. */
export function unlockFolder(folder: string): void {
  const path = lockPath(folder);
  if (held.delete(path)) rmSync(path, { force: true });
}

/** True while a live process, this one included, has the folder. */
export function isLocked(folder: string): boolean {
  const path = lockPath(folder);
  const owner = readOwner(path);
  return owner !== undefined && isAlive(path, owner);
}

/** Puts the prepared file in place, with its content and only if nothing is there; false if something is. */
function place(prepared: string, path: string): boolean {
  try {
    linkSync(prepared, path);
    return true;
  } catch (error) {
    if (codeOf(error) === "EEXIST") return false;
  }
  // File systems without hard links: the content follows the name by an instant.
  try {
    writeFileSync(path, readFileSync(prepared), { flag: "wx" });
    return true;
  } catch (error) {
    if (codeOf(error) === "EEXIST") return false;
    throw error;
  }
}

/** Moves a dead owner's lock away. Somebody may have replaced it since it was read: a live one is put back. */
function removeLeftover(folder: string, path: string): void {
  const aside = temporary(folder);
  try {
    renameSync(path, aside);
  } catch (error) {
    if (codeOf(error) === "ENOENT") return;
    throw error;
  }
  const owner = readOwner(aside);
  if (owner !== undefined && isAlive(path, owner)) place(aside, path);
  rmSync(aside, { force: true });
}

function refuse(folder: string, owner: Owner): never {
  const elsewhere = owner.host !== hostname();
  const advice = elsewhere
    ? `whether it still runs cannot be seen from here; if it does not, delete ${lockPath(folder)}`
    : "wait for it to end, or stop it";
  throw new UserError(
    `${folder} is in use by process ${owner.pid}${elsewhere ? ` on ${owner.host}` : ""} since ${owner.since}; ${advice}`,
  );
}

function isAlive(path: string, owner: Owner): boolean {
  if (owner.host !== hostname()) return true;
  if (owner.pid === process.pid) return held.has(path);
  try {
    process.kill(owner.pid, 0);
  } catch (error) {
    // EPERM: it lives, but belongs to someone else.
    if (codeOf(error) !== "EPERM") return false;
  }
  return owner.born === null || owner.born === birthOf(owner.pid);
}

/** Boot and start time of a process on Linux, null elsewhere. Process ids are reused, above all in containers. */
function birthOf(pid: number): string | null {
  try {
    const boot = readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    // The command, in parentheses, may hold spaces; starttime is field 22, the 20th after it.
    return `${boot} ${stat.slice(stat.lastIndexOf(")") + 2).split(" ")[19]}`;
  } catch {
    return null;
  }
}

function readOwner(path: string): Owner | undefined {
  try {
    return JSON.parse(readFileSync(path, "utf8")) as Owner;
  } catch {
    return undefined;
  }
}

function lockPath(folder: string): string {
  return join(resolve(folder), "lock");
}

function temporary(folder: string): string {
  return join(folder, `lock.${randomUUID()}.tmp`);
}

function codeOf(error: unknown): string | undefined {
  return (error as NodeJS.ErrnoException).code;
}
