/** How a store was made of others, and what of their order is left in it. */
import { z } from "zod";

const count = z.int().nonnegative();
const interval = z.tuple([count, count]);

/** Of a store that was not collected; `hash`, `of`: those that `storeHash` gives. */
export type Made =
  | { by: "merge"; parts: MergedPart[] }
  | {
      by: "subset";
      of: string;
      /** Rows, and numbers of documents, from and up to; absent: all. */
      rows?: [number, number] | undefined;
      documents?: [number, number] | undefined;
      /** Type on disk before, where it was changed. */
      dtype?: string | undefined;
      earlier?: Made | undefined;
    }
  | { by: "shuffle"; of: string; seed: number; buckets: number; earlier?: Made | undefined };

/** Rows that follow those of the parts before. */
export interface MergedPart {
  hash: string;
  rows: number;
  /** Added to the part's document numbers. */
  firstDocument: number;
  /** What the part was collected from. */
  data: { hash: string | null };
  earlier?: Made | undefined;
}

export const madeSchema: z.ZodType<Made> = z.lazy(() =>
  z.discriminatedUnion("by", [
    z.object({
      by: z.literal("merge"),
      parts: z.array(
        z.object({
          hash: z.string(),
          rows: z.int().positive(),
          firstDocument: count,
          data: z.looseObject({ hash: z.string().nullable() }),
          earlier: madeSchema.optional(),
        }),
      ),
    }),
    z.object({
      by: z.literal("subset"),
      of: z.string(),
      rows: interval.optional(),
      documents: interval.optional(),
      dtype: z.string().optional(),
      earlier: madeSchema.optional(),
    }),
    z.object({
      by: z.literal("shuffle"),
      of: z.string(),
      seed: count,
      buckets: z.int().positive(),
      earlier: madeSchema.optional(),
    }),
  ]),
);

/** Whether rows that follow each other are of text that does. */
export function isInTextOrder(made: Made | undefined): boolean {
  if (!made) return true;
  if (made.by === "shuffle") return false;
  return made.by === "merge"
    ? made.parts.every(({ earlier }) => isInTextOrder(earlier))
    : isInTextOrder(made.earlier);
}
