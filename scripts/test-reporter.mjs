import { writeFileSync } from "node:fs";

/**
 * The closing line of a test run: how many tests passed, failed and were skipped, and why the
 * skipped ones were. A Vitest reporter, beside the default one. What failed is also written, as JSON,
 * to the file that LENS_TEST_FAILURES names: `npm run check` reads it.
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
    if (path) writeFileSync(path, JSON.stringify(failures(modules, unhandledErrors)));
  }
}

/** What failed, where and why. Without a test a file could not be loaded; without a file it was outside tests. */
function failures(modules, unhandledErrors) {
  const why = (errors) => errors[0]?.message ?? "no message";
  const failed = unhandledErrors.map((error) => ({ why: why([error]) }));
  for (const module of modules) {
    const file = module.relativeModuleId;
    if (module.errors().length > 0) failed.push({ file, why: why(module.errors()) });
    for (const test of module.children.allTests("failed"))
      failed.push({ file, test: test.fullName, why: why(test.result().errors) });
  }
  return failed;
}
