import { writeFileSync } from "node:fs";

/**
 * The closing line of a test run: how many tests passed, failed and were skipped, and why the
 * skipped ones were. A Vitest reporter, beside the default one. What failed is also written, a line
 * each, to the file that LENS_TEST_FAILURES names: `npm run check` ends with it.
 */
export default class ClosingLine {
  onTestRunEnd(modules, unhandledErrors) {
    const counts = { passed: 0, failed: 0, skipped: 0, pending: 0 };
    const reasons = new Map();
    for (const module of modules) {
      for (const test of module.children.allTests()) {
        const result = test.result();
        counts[result.state]++;
        if (result.state !== "skipped") continue;
        const reason = result.note ?? "no reason given";
        reasons.set(reason, (reasons.get(reason) ?? 0) + 1);
      }
    }
    const broken = modules.filter((m) => m.state() === "failed" && m.errors().length > 0).length;
    const parts = [`${counts.passed} passed`, `${counts.failed} failed`];
    parts.push(`${counts.skipped} skipped`);
    if (counts.pending > 0) parts.push(`${counts.pending} not run`);
    if (broken > 0) parts.push(`${broken} files could not be loaded`);
    if (unhandledErrors.length > 0) parts.push(`${unhandledErrors.length} errors outside tests`);
    const total = Object.values(counts).reduce((a, b) => a + b, 0);
    for (const [reason, n] of reasons) process.stdout.write(`skipped (${n}): ${reason}\n`);
    const files = `${modules.length} ${modules.length === 1 ? "file" : "files"}`;
    process.stdout.write(`${total} tests in ${files}: ${parts.join(", ")}.\n`);
    const path = process.env.LENS_TEST_FAILURES;
    if (path) writeFileSync(path, failures(modules, unhandledErrors).join(""));
  }
}

/** A line for each test that failed, each file that could not be loaded, each error outside tests. */
function failures(modules, unhandledErrors) {
  const line = (what, errors) => `${what}: ${errors[0]?.message ?? "no message"}\n`;
  const lines = unhandledErrors.map((error) => line("outside tests", [error]));
  for (const module of modules) {
    if (module.errors().length > 0) lines.push(line(module.relativeModuleId, module.errors()));
    for (const test of module.children.allTests("failed"))
      lines.push(line(`${module.relativeModuleId} > ${test.fullName}`, test.result().errors));
  }
  return lines;
}
