/**
 * A picture of a terminal session: node scripts/terminal-picture.mjs LOG OUT.png [characters] [OLD=NEW...]
 * LOG is what `script` recorded; a number cuts it there, to show progress under way. OLD=NEW replaces
 * text, such as the folder of whoever recorded it. Needs Debian's chromium, or CHROMIUM.
 */
import { readFileSync } from "node:fs";
import { chromium } from "playwright-core";

const [log, out, ...rest] = process.argv.slice(2);
let text = readFileSync(log, "utf8").replace(/^Script started.*\n|\nScript done[^]*$/g, "");
for (const argument of rest)
  if (/^\d+$/.test(argument)) text = text.slice(0, text.lastIndexOf("\r", Number(argument)));
  else text = text.replaceAll(argument.split("=")[0], argument.split("=")[1]);

// A terminal shows what was written last on each line.
const lines = text.split("\n").map((line) => line.replace(/\r$/, "").split("\r").at(-1));
// eslint-disable-next-line no-control-regex
const shown = lines.join("\n").replace(/\u001b\[[0-9;?]*[A-Za-z]/g, "");
const escaped = shown.replace(/&/g, "&amp;").replace(/</g, "&lt;");
const page = `<body style="margin:0;background:#14171c"><pre style="margin:0;padding:20px 24px;
  color:#d7dbe0;font:14px/1.45 'DejaVu Sans Mono',monospace;display:inline-block;max-width:1180px;
  white-space:pre-wrap;overflow-wrap:anywhere">${escaped}</pre></body>`;

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"],
});
try {
  const tab = await browser.newPage({ viewport: { width: 1240, height: 300 } });
  await tab.setContent(page);
  await tab.locator("pre").screenshot({ path: out });
} finally {
  await browser.close();
}
