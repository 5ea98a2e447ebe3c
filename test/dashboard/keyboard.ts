/** A person without a mouse. */
import { expect } from "vitest";
import type { Locator, Page } from "playwright-core";

/** Presses Tab until the element has the focus: from where it is, all the way round if need be. */
export async function tabTo(page: Page, wanted: Locator, most = 400): Promise<void> {
  await wanted.waitFor({ state: "visible" });
  for (let i = 0; i < most; i++) {
    if (await isFocused(wanted)) return;
    await page.keyboard.press("Tab");
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

function isFocused(wanted: Locator): Promise<boolean> {
  return wanted.evaluate((element) => element === document.activeElement);
}
