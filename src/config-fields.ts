/** Kinds of fields that the sections of a configuration share. */
import { z } from "zod";

export const count = (description: string) => z.int().positive().describe(description);
export const nonNegative = (description: string) => z.int().nonnegative().describe(description);
export const text = (description: string) => z.string().min(1).describe(description);
export const texts = (description: string) =>
  z.array(z.string().min(1)).default([]).describe(description);
