/** What a server and a static site are made of, opened over one runs folder. */
import { join, resolve } from "node:path";

import { Annotations } from "./annotations.ts";
import type { Services } from "./api.ts";
import { Jobs } from "./jobs.ts";
import { Models } from "./models.ts";
import { RunStore } from "./run-store.ts";

export interface ServiceOptions {
  /** The folder that holds the run folders. */
  runs: string;
  /** A SQLite file or the URL of a PostgreSQL database; absent: annotations.db in the runs folder. */
  database?: string;
  /** Jobs that run at the same time. */
  jobsAtOnce?: number;
}

/** @throws UserError when the database cannot be used. */
export async function openServices(
  { runs, database, jobsAtOnce }: ServiceOptions,
  isConfined: boolean,
): Promise<Services> {
  const folder = resolve(runs);
  const kept = database ?? join(folder, ".annotations", "annotations.db");
  return {
    runs: new RunStore(folder),
    jobs: new Jobs(folder, { mayDownload: !isConfined, ...(jobsAtOnce && { atOnce: jobsAtOnce }) }),
    models: new Models(),
    annotations: await Annotations.open(kept),
    isConfined,
  };
}
