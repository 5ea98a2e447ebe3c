/**
 * One tour through every page of the dashboard in a real browser, by keyboard alone: a run is set up,
 * watched, its features found, labelled, tried and turned; the server is killed on the way.
 */
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Browser, Page } from "playwright-core";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";

import type { RunDetail } from "../../src/server/schemas.ts";
import { hasBrowser, launch } from "../browser.ts";
import { serveLens, type Served } from "../command.ts";
import { PATIENCE_MS } from "../patience.ts";
import { copyRun } from "../server/shared-run.ts";
import { press, tabTo, typeInto } from "./keyboard.ts";

const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
/** A run that another command has made. */
const OTHER = "other_20260102_030405_0123abcd";
const SETTINGS =
  '{"activations":{"validationTokens":6000},"train":{"logEvery":10},"features":{"gallery":8}}';

describe.skipIf(!hasBrowser())("a tour by keyboard alone", { timeout: 3 * PATIENCE_MS }, () => {
  const runs = mkdtempSync(join(tmpdir(), "lens-tour-"));
  const problems: string[] = [];
  let server: Served;
  let browser: Browser;
  let page: Page;
  let run: string;

  beforeAll(async () => {
    server = await serveLens(runs);
    browser = await launch();
    const context = await browser.newContext({ viewport: { width: 1280, height: 860 } });
    page = await context.newPage();
    page.setDefaultTimeout(PATIENCE_MS);
    page.on("pageerror", (error) => problems.push(error.message));
    page.on("console", (message) => {
      const text = message.text();
      // A server that is gone, and a label that two people change, are part of the tour.
      if (
        message.type() === "error" &&
        !/ERR_CONNECTION|ERR_INCOMPLETE|ERR_EMPTY|409 \(Conflict\)/.test(text)
      )
        problems.push(text);
    });
  });
  afterAll(async () => {
    await browser?.close();
    await server?.kill();
    rmSync(runs, { recursive: true, force: true, maxRetries: 5, retryDelay: 200 });
  });

  // Each step begins where the one before ended.
  let hasFailed = false;
  beforeEach((context) => context.skip(hasFailed, "an earlier step of the tour failed"));
  afterEach(({ task }) => {
    hasFailed ||= task.result?.state === "fail";
  });

  const go = async (path: string) => {
    await page.goto(`${server.url}#/${path}`);
  };
  const button = (name: string | RegExp) => page.getByRole("button", { name });
  const link = (name: string | RegExp) => page.getByRole("link", { name });

  /** No serious or critical finding of axe-core, in both themes. */
  const isAccessible = async () => {
    await page.evaluate(axe);
    for (const colorScheme of ["light", "dark"] as const) {
      await page.emulateMedia({ colorScheme });
      const found = await page.evaluate(async () => {
        type Axe = { run: (options: unknown) => Promise<{ violations: { id: string; impact: string; nodes: { html: string; failureSummary: string }[] }[] }> }; // prettier-ignore
        const { violations } = await (window as unknown as { axe: Axe }).axe.run({
          runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"],
        });
        return violations
          .filter(({ impact }) => impact === "serious" || impact === "critical")
          .map(({ id, nodes }) => `${id}: ${nodes[0].html.slice(0, 200)} ${nodes[0].failureSummary.slice(0, 300)}`); // prettier-ignore
      });
      expect(found).toEqual([]);
    }
    expect(await page.evaluate(() => document.documentElement.scrollWidth - innerWidth)).toBeLessThanOrEqual(0); // prettier-ignore
  };

  test("the first page of an empty folder offers to start a run", async () => {
    await go("");
    await page.getByText("Nothing has been run yet").waitFor();
    await isAccessible();
    await press(page, link("Start the first run"));
    await page.getByRole("heading", { name: "New run" }).waitFor();
  });

  test("a run is set up with an estimate, and starts", async () => {
    await page.getByText(/^about /).waitFor();
    await isAccessible();
    await press(page, button(/blocks\.1\.hook_resid_post/));
    await typeInto(page, page.getByRole("spinbutton", { name: "Training tokens" }), "60000");
    await press(page, page.getByText("Rows of tokens"));
    await typeInto(page, page.getByRole("spinbutton", { name: "Tokens per row" }), "128");
    await press(page, page.getByRole("checkbox", { name: /^End-of-sequence token/ }), "Space");
    await typeInto(page, page.getByRole("spinbutton", { name: "k", exact: true }), "16");
    await typeInto(page, page.getByRole("spinbutton", { name: "Latents per dimension" }), "2");
    await typeInto(page, page.getByRole("spinbutton", { name: "Steps" }), "150");
    await typeInto(page, page.getByRole("spinbutton", { name: "Rows per step" }), "1024");
    await typeInto(page, page.getByRole("spinbutton", { name: "Tokens to index" }), "20000");
    await typeInto(page, page.getByRole("textbox", { name: "Name" }), "tour");
    await press(page, page.getByText("More settings, as JSON"));
    await typeInto(page, page.getByRole("textbox", { name: "More settings, as JSON" }), SETTINGS);
    await press(page, button("Start the run"));
    await page.getByRole("heading", { name: "tour" }).waitFor();
    run = decodeURIComponent(/#\/run\/([^/]+)\//.exec(page.url())![1]);
    const { config } = (await (await fetch(`${server.url}api/runs/${run}`)).json()) as RunDetail;
    expect(config.activations).toMatchObject({ contextLength: 128, eos: true, bos: "document" });
  });

  test("its training is watched, paused, and goes on to its end", async () => {
    await page.getByText(/^training: /).waitFor();
    await press(page, button("Pause"));
    await page.getByText("paused", { exact: false }).first().waitFor();
    const step = () => page.locator("progress").evaluate((bar: HTMLProgressElement) => bar.value);
    const before = await step();
    await page.waitForTimeout(1200);
    expect(await step()).toBe(before);
    await press(page, button("Go on"));
    await page.getByRole("heading", { name: /clearest features so far|end of training/ }).waitFor();
    await page.getByRole("img", { name: /Histogram of latents by density/ }).waitFor();
    await page.locator("h1 + .chip", { hasText: "finished" }).waitFor();
    await link("Look at the features").waitFor();
    await isAccessible();
  });

  test("features are found by a query, in the table and in the gallery", async () => {
    await press(page, link("Look at the features"));
    const query = page.getByRole("searchbox", { name: "Query over features" });
    await query.waitFor();
    await page.keyboard.press("/");
    expect(await query.evaluate((element) => element === document.activeElement)).toBe(true);
    await typeInto(page, query, 'fires:"Once upon a time" -is:dead sort:-x');
    const status = page.locator("#query-result");
    await expect.poll(() => status.textContent()).toMatch(/^[1-9]\d* of 512 latents/);
    await typeInto(page, query, "like:3 -is:dead");
    await page.getByRole("columnheader", { name: /likeness/ }).waitFor();
    await expect.poll(() => status.textContent()).toMatch(/^[1-9]\d* of 512 latents/);
    await typeInto(page, query, "densty<1");
    await expect.poll(() => status.textContent()).toContain("did you mean density?");
    await typeInto(page, query, "-is:dead sort:-f1");
    await expect.poll(() => status.textContent()).toMatch(/ of 512 latents/);
    await isAccessible();
    await press(page, button("gallery"));
    await page.locator("article .piece").first().waitFor();
    await isAccessible();
    await press(page, button("table"));
    await tabTo(page, page.getByRole("grid"));
    await page.keyboard.press("ArrowDown");
    await page.keyboard.press("Enter");
    await page.getByRole("heading", { name: /^Latent \d+$/ }).waitFor();
  });

  test("a feature is labelled, and a killed server neither loses the label nor what is being typed", async () => {
    await page.getByText("raised").waitFor();
    const label = page.getByRole("textbox", { name: /^Label of latent/ });
    await typeInto(page, label, "how stories begin");
    await press(page, page.getByRole("radio", { name: "4 stars" }), "Space");
    await typeInto(page, page.getByLabel("Tags, with commas between them"), "opening, tour");
    await press(page, button("Save"));
    await page.getByText(/^Saved\./).waitFor();
    await isAccessible();

    await server.kill();
    await typeInto(page, label, "how stories begin, most of them");
    await press(page, button("Save"));
    await page.getByText(/saved as soon as it is back/).waitFor();
    await page.getByText(/The server does not answer/).waitFor();
    server = await serveLens(runs, server.port);
    await page.getByText(/Version 2, by anonymous/).waitFor();
    expect(await page.getByText(/The server does not answer/).count()).toBe(0);

    await page.reload();
    await page.getByText(/Version 2/).waitFor();
    expect(await label.inputValue()).toBe("how stories begin, most of them");
    await press(page, button("Undo"));
    await expect.poll(() => label.inputValue()).toBe("how stories begin");
    await press(page, page.getByText("History"));
    await expect.poll(() => page.getByRole("listitem").filter({ hasText: "undo" }).count()).toBe(1);
  });

  test("two tabs that edit one label: the second is shown both, and neither is lost", async () => {
    const other = await page.context().newPage();
    await other.goto(page.url());
    const field = (tab: Page) => tab.getByRole("textbox", { name: /^Label of latent/ });
    await expect.poll(() => field(other).inputValue()).toBe("how stories begin");
    await typeInto(other, field(other), "theirs");
    await press(other, other.getByRole("button", { name: "Save" }));
    await other.getByText(/^Saved\./).waitFor();
    await other.close();
    await typeInto(page, field(page), "mine");
    await press(page, button("Save"));
    await page.getByText("Theirs: theirs").waitFor();
    await press(page, button("Keep mine"));
    await page.getByText(/^Saved\./).waitFor();
    await expect
      .poll(() => page.getByRole("listitem").filter({ hasText: "theirs" }).count())
      .toBe(1);
    expect(await field(page).inputValue()).toBe("mine");
  });

  test("a text of one's own is tried on the feature", async () => {
    await typeInto(page, page.getByLabel("Your text"), "Once upon a time there was a dog.");
    await press(page, button("Test"));
    await page.getByText(/of the largest in the indexed text|It does not fire/).waitFor();
  });

  test("a text is analysed, and a prediction in it explained", async () => {
    await press(page, link("Text"));
    const text = page.getByRole("textbox", { name: "Text A" });
    await typeInto(page, text, "Once upon a time there was a little dog named Max. He was");
    await page.keyboard.press("ControlOrMeta+Enter");
    const tokens = page.getByRole("application", { name: /^Text/ });
    await expect.poll(() => tokens.getAttribute("aria-label")).toContain("dog named Max. He was");
    await tabTo(page, tokens);
    for (let i = 0; i < 8; i++) await page.keyboard.press("ArrowRight");
    await page.keyboard.press("Enter");
    await page.getByRole("heading", { name: /^What comes after/ }).waitFor();
    await page.getByText(/^Explained:/).waitFor();
    await isAccessible();
    await press(page, button("Compare with a second text"));
    await typeInto(page, page.getByRole("textbox", { name: "Text B" }), "The rain fell.");
    await page.keyboard.press("ControlOrMeta+Enter");
    await page.getByRole("heading", { name: "What differs" }).waitFor();
  });

  test("a story is told as it is and steered, and its link tells it again", async () => {
    await press(page, link("Steering"));
    const picker = page.getByRole("combobox", { name: "Add a latent" });
    const options = () => page.getByRole("option").allTextContents();
    // What is answered late is of no interest any more.
    await page.route("**/features/7/similar", async (route) => {
      await page.waitForTimeout(1000);
      await route.continue();
    });
    const late = page.waitForResponse("**/features/7/similar");
    await typeInto(page, picker, "like:7 sort:latent");
    await typeInto(page, picker, "sort:-density");
    await expect.poll(async () => (await options()).length).toBe(12);
    const found = await options();
    await (await late).finished();
    expect(await options()).toEqual(found);
    await page.keyboard.press("ArrowDown");
    await expect
      .poll(() => page.getByRole("option").nth(1).getAttribute("aria-selected"))
      .toBe("true");
    await page.keyboard.press("Enter");
    const slider = page.getByRole("slider");
    await tabTo(page, slider);
    for (let i = 0; i < 30; i++) await page.keyboard.press("ArrowRight");
    await press(page, button("Tell both"));
    const story = (side: string) => page.getByRole("region", { name: `The text ${side}` });
    await expect.poll(() => story("steered").textContent()).toMatch(/perplexity/);
    await button("Stop").waitFor({ state: "detached" });
    const told = [await story("as it is").textContent(), await story("steered").textContent()];
    expect(told[0]).not.toBe(told[1]);
    await isAccessible();

    const again = await page.context().newPage();
    await again.goto(page.url());
    await again.getByRole("slider").waitFor();
    await press(again, again.getByRole("button", { name: "Tell both" }));
    const retold = again.getByRole("region", { name: "The text steered" });
    await expect.poll(() => retold.textContent()).toMatch(/perplexity/);
    await again.getByRole("button", { name: "Stop" }).waitFor({ state: "detached" });
    const words = (text: string | null) => text!.replace(/^.*perplexity [\d.]+/, "");
    expect(words(await retold.textContent())).toBe(words(told[1]));
    await again.close();
  });

  test("what goes together is searched in a job, and drawn", async () => {
    await press(page, link("Layers"));
    await page.getByRole("heading", { name: "What goes together" }).waitFor();
    await press(page, button("Search"));
    await page.getByText(/pairs found/).waitFor();
    await isAccessible();
    await press(page, link("Jobs"));
    await page.getByText("find what goes together").waitFor();
    await isAccessible();
  });

  test("the list of runs has it, and it is compared with another", async () => {
    await copyRun(runs, OTHER);
    await press(page, link("Lens"));
    for (const id of [run, OTHER])
      await press(page, page.getByRole("checkbox", { name: `Choose ${id}` }), "Space");
    await isAccessible();
    await press(page, button(/^Compare/));
    await page.getByRole("heading", { name: "Compare 2 runs" }).waitFor();
    await page.getByRole("img", { name: /^FVU over steps/ }).waitFor();
    await page.getByRole("columnheader", { name: "B − A" }).waitFor();
    await page.getByRole("cell", { name: "sae.k", exact: true }).waitFor();
    await isAccessible();
  });

  test("the latents of the other one are on a map, from which a search finds some", async () => {
    await go(`run/${OTHER}/features?view=map`);
    await page.getByText("trustworthiness").waitFor();
    await typeInto(page, page.getByRole("searchbox", { name: "Query over features" }), "latent<5");
    await expect.poll(() => page.locator("#query-result").textContent()).toMatch(/^5 of 64/);
    await isAccessible();
  });

  test("a run is deleted with all that belongs to it", async () => {
    await press(page, link("Lens"));
    page.once("dialog", (dialog) => void dialog.accept());
    await press(page, page.getByRole("checkbox", { name: `Choose ${run}` }), "Space");
    await press(page, button("Delete"));
    await page.getByRole("checkbox", { name: `Choose ${run}` }).waitFor({ state: "detached" });
    expect(readdirSync(runs)).not.toContain(run);
  });

  test("nothing went wrong on the way that only the console told", () => {
    expect(problems).toEqual([]);
  });
});
