/** What is fetched from the hub, shown as any other progress is. */
import { reportDownloads } from "../model/download-report.ts";
import { Progress } from "./progress.ts";
import type { Terminal } from "./terminal.ts";

const MB = 1e6;

/** From now on downloads of this process are told to `terminal`. */
export function showDownloads(terminal: Terminal): void {
  reportDownloads({
    begin(name, total, start) {
      const progress = new Progress({
        ...{ label: `fetching ${name}`, unit: "MB", quiet: terminal.quiet },
        ...{ total: total / MB, start: start / MB },
      });
      return {
        update: (done) => progress.update(done / MB),
        end: () => progress.end(),
        stop: () => progress.stop(),
      };
    },
    note: (text) => terminal.note(text),
  });
}
