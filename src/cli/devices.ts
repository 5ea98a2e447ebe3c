/** `lens devices`: what numbers can be crunched with here. */
import type { Command } from "commander";

import { openDevice } from "../device/device.ts";
import { messageOf } from "../error.ts";
import { table, Terminal } from "./terminal.ts";

export function define(command: Command): void {
  command
    .description("Show what this machine can compute with; auto is the first that works.")
    .option("--json", "print JSON")
    .action(async (options: { json?: boolean }) => {
      const found = [];
      for (const name of ["cpu", "reference"] as const) {
        try {
          const device = await openDevice(name);
          found.push({ name, works: true, description: device.description });
          await device.close();
        } catch (error) {
          found.push({ name, works: false, description: messageOf(error) });
        }
      }
      const rows = found.map((d) => [d.name, d.works ? "works" : "does not work", d.description]);
      new Terminal(options).result(found, table(["device", "", ""], rows));
    });
}
