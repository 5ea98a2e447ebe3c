/** `lens generate`: text from a model. */
import type { Command } from "commander";

export function define(command: Command): void {
  command.description("Let a model continue a text.");
}
