/** `lens config`: the settings as Lens understands them, and their schema for editors. */
import type { Command } from "commander";
import { stringify } from "yaml";

import { configJsonSchema } from "../config.ts";
import { addSettings, readSettings, SECTIONS } from "./settings.ts";
import { Terminal } from "./terminal.ts";

export function define(command: Command): void {
  command
    .command("schema")
    .description("Print the JSON Schema of a config file, for editors.")
    .action(() => {
      process.stdout.write(JSON.stringify(configJsonSchema(), null, 2) + "\n");
    });
  const show = command
    .command("show")
    .argument("[config]", "YAML or JSON file; absent: the defaults")
    .description("Print all settings of a run: those given, and the defaults of the others.")
    .option("--json", "print JSON");
  addSettings(show, Object.keys(SECTIONS)).action(
    (file: string | undefined, options: Record<string, unknown>) => {
      const config = readSettings(file, options);
      new Terminal(options).result(config, stringify(config).trimEnd());
    },
  );
}
