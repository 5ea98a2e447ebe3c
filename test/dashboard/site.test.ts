/** lens export --site: the same pages from plain files, one feature by one range of bytes. */
import {
  createReadStream,
  existsSync,
  mkdirSync,
  readdirSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { join, normalize } from "node:path";
import type { Browser, Page } from "playwright-core";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { hasBrowser, launch } from "../browser.ts";
import { startLens } from "../command.ts";
import { PATIENCE_MS } from "../patience.ts";
import { scratch } from "../server/server.ts";
import { copyRun } from "../server/shared-run.ts";

const TYPES: Record<string, string> = { html: "text/html", js: "text/javascript", css: "text/css" };

/** A web host that knows nothing but files and ranges. */
function host(folder: string, seen: string[], knowsRanges: () => boolean): Server {
  return createServer((request, response) => {
    const path = normalize(
      decodeURIComponent(request.url!.split("?")[0].replace(/^\/below\//, "/")),
    );
    const file = join(folder, path.endsWith("/") ? `${path}index.html` : path);
    if (!existsSync(file)) return void response.writeHead(404).end();
    const [, from, to] = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? "") ?? [];
    const range =
      knowsRanges() && from !== undefined ? { start: Number(from), end: Number(to) } : {};
    seen.push(`${path} ${request.headers.range ?? ""}`);
    response.writeHead("start" in range ? 206 : 200, {
      "Content-Type": TYPES[file.split(".").at(-1)!] ?? "application/octet-stream",
      "Content-Length":
        range.start === undefined ? statSync(file).size : range.end - range.start + 1,
    });
    createReadStream(file, range).pipe(response);
  });
}

describe("a static site", { timeout: 2 * PATIENCE_MS }, () => {
  const folder = scratch();
  const out = join(folder, "site");
  const id = "small-run";
  const seen: string[] = [];
  let knowsRanges = true;
  let server: Server;
  let url: string;

  beforeAll(async () => {
    mkdirSync(join(folder, "runs"));
    await copyRun(join(folder, "runs"), id);
    const made = await startLens(folder, "export", id, "--site", "--out", out, "--json").outcome;
    expect(made.stderr).toBe("");
    expect(JSON.parse(made.stdout)).toMatchObject({ out, runs: [id] });
    server = host(out, seen, () => knowsRanges);
    await new Promise<void>((done) => server.listen(0, "127.0.0.1", done));
    // In a folder of its host, as most sites are.
    url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/below/`;
  });
  afterAll(() => server?.close());

  test("is written whole, over an older one, and over nothing else", async () => {
    const again = await startLens(folder, "export", id, "--site", "--out", out, "--json").outcome;
    expect(again.code).toBe(0);
    expect(readdirSync(folder).sort()).toEqual(["runs", "site"]);
    const elsewhere = await startLens(folder, "export", id, "--site", "--out", "runs").outcome;
    expect(elsewhere.code).toBe(1);
    expect(elsewhere.stderr).toMatch(/exists and is no site of Lens/);
    expect(existsSync(join(folder, "runs", id, "config.json"))).toBe(true);
  });

  test("is not written without what is damaged", async () => {
    const run = await copyRun(join(folder, "damaged"), "run");
    writeFileSync(join(run, "features", "explanations.json"), "{");
    const args = ["export", "run", "--site", "--runs", "damaged", "--out", "copy"];
    const { code, stderr } = await startLens(folder, ...args).outcome;
    expect([code, stderr]).toEqual([1, expect.stringContaining("explanations.json is damaged")]);
    expect(existsSync(join(folder, "copy"))).toBe(false);
    rmSync(join(folder, "damaged"), { recursive: true });
  });

  describe.skipIf(!hasBrowser())("in a browser", () => {
    let browser: Browser;
    let page: Page;
    const problems: string[] = [];

    beforeAll(async () => {
      browser = await launch();
      page = await browser.newPage();
      page.setDefaultTimeout(PATIENCE_MS);
      page.on("pageerror", (error) => problems.push(error.message));
      page.on("console", (message) => {
        if (message.type() === "error") problems.push(message.text());
      });
    });
    afterAll(() => browser?.close());

    test("lists the run, draws its training, and offers nothing that needs a server", async () => {
      await page.goto(url);
      await page.getByText("a copy to look at").waitFor();
      expect(await page.getByRole("link", { name: "New run" }).count()).toBe(0);
      await page.goto(`${url}#/run/${id}/training`);
      await page.getByRole("img", { name: /^FVU over steps/ }).waitFor();
      expect(await page.getByRole("link", { name: "Steering" }).count()).toBe(0);
      expect(await page.getByRole("button", { name: /Delete|Resume|Stop/ }).count()).toBe(0);
    });

    test("finds features by a query, and opens one by one range request", async () => {
      await page.goto(`${url}#/run/${id}/features?q=${encodeURIComponent("-is:dead sort:-max")}`);
      await page.getByText(/of 64 latents/).waitFor();
      const first = page.getByRole("gridcell").getByRole("link").first();
      const latent = await first.textContent();
      seen.length = 0;
      await first.click();
      await page.getByRole("heading", { name: `Latent ${latent}` }).waitFor();
      await page.getByText("raised").waitFor();
      await page.getByRole("button", { name: "decoder" }).click();
      await page.getByText(/random pair in a thousand/).waitFor();
      const details = seen.filter((path) => path.includes("details.bin"));
      expect(details).toHaveLength(1);
      expect(details[0]).toMatch(/details\.bin bytes=\d+-\d+$/);
      await page.getByText("Nobody has labelled it.").waitFor();
      expect(await page.getByRole("button", { name: "Save" }).count()).toBe(0);
    });

    test("shows the map", async () => {
      await page.goto(`${url}#/run/${id}/features?view=map`);
      await page.getByText("trustworthiness").waitFor();
    });

    test("is whole on a host that does not know ranges, too", async () => {
      knowsRanges = false;
      await page.goto(`${url}#/run/${id}/feature/5`);
      await page.reload();
      await page.getByRole("heading", { name: "Latent 5" }).waitFor();
      await page.getByText(/In numbers/).waitFor();
    });

    test("and nothing went wrong that only the console told", () => {
      expect(problems).toEqual([]);
    });
  });
});
