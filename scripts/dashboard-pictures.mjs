/* global document, innerWidth -- what runs in the page */
// Pictures of every page of the dashboard: node scripts/dashboard-pictures.mjs <runs folder> <picture folder>
// Light and dark at desktop width, light at a phone's, of the newest run with a map, and of the newest two compared. Needs a Chromium
// (CHROMIUM, or /usr/bin/chromium). Fails when a page has an error or is wider than the screen.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { chromium } from "playwright-core";
import { root } from "./setup.mjs";

const [runs = "runs", folder = "docs/dashboard"] = process.argv.slice(2);
const server = spawn(
  process.execPath,
  [join(root, "bin", "lens.js"), "serve", runs, "--port", "0", "--json"],
  { stdio: ["ignore", "pipe", "inherit"] },
);
const [said] = await once(server.stdout, "data");
const { url } = JSON.parse(String(said));
const list = await (await fetch(`${url}api/runs`)).json();
const hasMap = async ({ id }) => (await fetch(`${url}api/runs/${id}/map`)).ok;
const maps = await Promise.all(list.runs.map(hasMap));
const run = list.runs.find((_, i) => maps[i])?.id;
const top = await (
  await fetch(`${url}api/runs/${run}/features?query=label:animal&sort=-f1`)
).json();
const [{ latent }] = top.rows;
const compared = list.runs.filter(({ hasSae }) => hasSae).map(({ id }) => id).slice(0, 2); // prettier-ignore

const of = (path) => `#/run/${encodeURIComponent(run)}/${path}`;
const STORY = "Once upon a time there was a little dog named Max. One day it began to rain.";
/** Name, address, what to wait for, what to do then. */
const pages = [
  ["runs", "#/", (page) => page.getByText("Scores are measured").waitFor()],
  [
    "compare",
    `#/compare?runs=${compared.join(",")}`,
    (page) => page.getByRole("img", { name: /^FVU over/ }).waitFor(),
  ],
  ["new", "#/new", (page) => page.getByText(/^about /).waitFor()],
  ["training", of("training"), (page) => page.getByRole("img", { name: /^FVU over/ }).waitFor()],
  ["features", of("features"), (page) => page.getByRole("gridcell").first().waitFor()],
  [
    "gallery",
    of("features?view=gallery"),
    (page) => page.locator("article .piece").nth(40).waitFor(),
  ],
  ["map", of("features?view=map"), (page) => page.getByText("trustworthiness").waitFor()],
  ["feature", of(`feature/${latent}`), (page) => page.getByText("raised").waitFor()],
  [
    "text",
    of(`text?a=${encodeURIComponent(STORY)}`),
    async (page) => {
      await page.locator(".piece").nth(9).click();
      await page.getByText(/^Explained:/).waitFor();
    },
  ],
  [
    "steering",
    of(`steer?add=${latent}`),
    async (page) => {
      await page.getByRole("slider").waitFor();
      await page.getByText("Tell both").click();
      await page.getByText("Stop", { exact: true }).waitFor();
      await page.getByText("Stop", { exact: true }).waitFor({ state: "detached" });
    },
  ],
  ["layers", of("layers"), (page) => page.getByText("What goes together").waitFor()],
  ["jobs", "#/jobs", (page) => page.getByText("Long work").waitFor()],
];

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--enable-unsafe-swiftshader"],
});
let failed = false;
const fail = (message) => {
  failed = true;
  console.error(message);
};
try {
  await mkdir(folder, { recursive: true });
  for (const [kind, width, height, colorScheme] of [
    ["light", 1280, 860, "light"],
    ["dark", 1280, 860, "dark"],
    ["phone", 390, 844, "light"],
  ]) {
    const context = await browser.newContext({ viewport: { width, height }, colorScheme });
    for (const [name, path, ready] of pages) {
      const page = await context.newPage();
      page.on("pageerror", (error) => fail(`${name}: ${error.message}`));
      await page.goto(url + path);
      await ready(page);
      await page.mouse.move(0, 0);
      await page.waitForTimeout(1200);
      const over = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
      if (over > 0) fail(`${name}-${kind} is ${over} pixels too wide`);
      await page.screenshot({ path: join(folder, `${name}-${kind}.png`) });
      await page.close();
    }
    await context.close();
  }
} finally {
  await browser.close();
  server.kill();
}
process.exitCode = failed ? 1 : 0;
