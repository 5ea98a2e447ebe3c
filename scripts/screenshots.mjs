// Pictures of a report: node scripts/screenshots.mjs <report.html> <folder> [width ...]
// Both themes, at phone and desktop width by default; needs a Chromium (CHROMIUM, or /usr/bin/chromium).
import { mkdir } from "node:fs/promises";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { chromium } from "playwright-core";

const [report, folder = "screenshots", ...widths] = process.argv.slice(2);
if (!report) {
  console.error("usage: node scripts/screenshots.mjs <report.html> <folder> [width ...]");
  process.exit(1);
}

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
  ],
});
let failed = false;
try {
  await mkdir(folder, { recursive: true });
  for (const width of widths.length > 0 ? widths.map(Number) : [1400, 390])
    for (const colorScheme of ["light", "dark"]) {
      const context = await browser.newContext({
        viewport: { width, height: width < 600 ? 844 : 900 },
        colorScheme,
        offline: true,
      });
      const page = await context.newPage();
      page.on("pageerror", (error) => fail(`script error: ${error.message}`));
      page.on("console", (message) => {
        if (message.type() === "error") fail(`console: ${message.text()}`);
      });
      page.on("request", (request) => {
        if (!request.url().startsWith("file:")) fail(`the page asked for ${request.url()}`);
      });
      await page.goto(pathToFileURL(resolve(report)).href);
      const overflow = await page.evaluate(
        "document.documentElement.scrollWidth - document.documentElement.clientWidth",
      );
      if (overflow > 0) fail(`${overflow} px wider than the window at ${width} px`);
      for (const part of ["top", "features"]) {
        if (part !== "top" && (await page.locator(`#${part}`).count()) === 0) continue;
        await page.evaluate(
          part === "top" ? "scrollTo(0, 0)" : `document.getElementById("${part}").scrollIntoView()`,
        );
        const path = join(folder, `report-${part}-${width}-${colorScheme}.png`);
        await page.screenshot({ path });
        console.log(path);
      }
      const path = join(folder, `report-whole-${width}-${colorScheme}.png`);
      const height = await page.evaluate("document.documentElement.scrollHeight");
      await page.screenshot({
        path,
        fullPage: true,
        clip: { x: 0, y: 0, width, height: Math.min(height, 4000) },
      });
      console.log(path);
      await context.close();
    }
} finally {
  await browser.close();
}
process.exitCode = failed ? 1 : 0;

function fail(message) {
  console.error(message);
  failed = true;
}
