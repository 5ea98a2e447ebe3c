/**
 * Chromium for tests: CHROMIUM, or one that the system has. Where there is none, tests that need it are
 * skipped with the reason, or fail when BROWSER=required.
 */
import { existsSync } from "node:fs";
import { delimiter, join } from "node:path";
import { chromium, type Browser } from "playwright-core";

const NAMES = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome"];

export function chromiumPath(): string | undefined {
  const given = process.env.CHROMIUM;
  if (given) return given;
  const folders = (process.env.PATH ?? "").split(delimiter);
  return NAMES.flatMap((name) => folders.map((folder) => join(folder, name))).find((path) =>
    existsSync(path),
  );
}

export const whyNoBrowser =
  "no Chromium was found: install one (on Debian `apt-get install chromium`), or set CHROMIUM to its path";

/** Whether tests with a browser run; says so once where they do not. */
export function hasBrowser(): boolean {
  if (chromiumPath() !== undefined) return true;
  if (process.env.BROWSER === "required") return true; // and fail, when it is launched
  process.stderr.write(`tests in a browser are skipped: ${whyNoBrowser}\n`);
  return false;
}

export async function launch(): Promise<Browser> {
  const executablePath = chromiumPath();
  if (executablePath === undefined) throw new Error(whyNoBrowser);
  // Containers have no sandbox of their own, and no GPU: WebGL is drawn in software.
  return chromium.launch({ executablePath, args: ["--no-sandbox", "--enable-unsafe-swiftshader"] });
}
