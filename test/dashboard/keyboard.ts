/** A person without a mouse. */
import { expect } from "vitest";
import type { Locator, Page } from "playwright-core";

import { PATIENCE_MS } from "../patience.ts";

/** Presses Tab, or with Shift where the element comes earlier on the page, until it has the focus. */
export async function tabTo(page: Page, wanted: Locator): Promise<void> {
  await wanted.waitFor({ state: "visible" });
  // Found once, as looking an element up by its role and name takes longer than all else here.
  let element = await wanted.elementHandle();
  let last: string | undefined;
  for (const end = Date.now() + PATIENCE_MS; Date.now() < end;) {
    const is = await element.evaluate(whereItIs);
    if (is === "focused") return;
    if (is === "gone") element = await wanted.elementHandle();
    else {
      // Passed over: it can't have the focus yet.
      if (last !== undefined && last !== is) await page.waitForTimeout(50);
      await page.keyboard.press(is === "before" ? "Shift+Tab" : "Tab");
    }
    last = is === "gone" ? undefined : is;
  }
  const at = await page.evaluate(() => document.activeElement?.outerHTML.slice(0, 200));
  expect.unreachable(`Tab never came to ${String(wanted)}; it is at ${at}`);
}

export async function press(page: Page, wanted: Locator, key = "Enter"): Promise<void> {
  await tabTo(page, wanted);
  await page.keyboard.press(key);
}

/** Types into a field instead of what is there. */
export async function typeInto(page: Page, field: Locator, text: string): Promise<void> {
  await tabTo(page, field);
  await page.keyboard.press("ControlOrMeta+A");
  await page.keyboard.type(text);
}

function whereItIs(element: Node): "focused" | "before" | "after" | "gone" {
  if (!element.isConnected) return "gone";
  const focused = document.activeElement ?? document.body;
  if (element === focused) return "focused";
  const position = focused.compareDocumentPosition(element);
  return position & Node.DOCUMENT_POSITION_PRECEDING ? "before" : "after";
}
