/** What several pages share: the runs, the jobs as they go, and what the person has chosen. */
import type { Job, RunRow } from "../src/server/schemas.ts";
import { api, ask, listen } from "./api.ts";

class Shared {
  runs = $state.raw<RunRow[]>([]);
  broken = $state.raw<{ id: string; problem: string }[]>([]);
  folder = $state("");
  isLoaded = $state(false);
  problem = $state("");
  jobs = $state.raw<Job[]>([]);

  async load(): Promise<void> {
    try {
      const { runs, broken, folder } = await ask(api.runs.$get());
      Object.assign(this, { runs, broken, folder, isLoaded: true, problem: "" });
    } catch (error) {
      this.problem = (error as Error).message;
    }
  }

  /** Follows the jobs; runs are read again when one of them starts, finds its run, or ends. */
  follow(): () => void {
    let before = "";
    return listen("jobs/live", {
      // Somebody else's doing, a command in a terminal perhaps.
      runs: () => void this.load(),
      jobs: (data) => {
        this.jobs = data as Job[];
        const now = this.jobs.map(({ id, status, run }) => `${id} ${status} ${run}`).join();
        if (now !== before) void this.load();
        before = now;
      },
    });
  }

  active(): Job[] {
    return this.jobs.filter(({ status }) => status === "running" || status === "queued");
  }

  jobOf(run: string, kind?: string): Job | undefined {
    return this.active().findLast((job) => job.run === run && (!kind || job.kind === kind));
  }
}

export const shared = new Shared();

function stored(name: string): string {
  try {
    return localStorage.getItem(name) ?? "";
  } catch {
    return ""; // a browser that keeps nothing
  }
}

export function keep(name: string, value: string): void {
  try {
    localStorage.setItem(name, value);
  } catch {
    // It is asked again the next time.
  }
}

class Settings {
  theme = $state<"" | "light" | "dark">(stored("lens.theme") as "" | "light" | "dark");
  author = $state(stored("lens.author"));
  #dark = $state(matchMedia("(prefers-color-scheme: dark)").matches);

  constructor() {
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", ({ matches }) => {
      this.#dark = matches;
    });
  }

  get isDark(): boolean {
    return this.theme === "" ? this.#dark : this.theme === "dark";
  }

  toggleTheme(): void {
    this.theme = this.isDark ? "light" : "dark";
    keep("lens.theme", this.theme);
  }

  setAuthor(name: string): void {
    this.author = name;
    keep("lens.author", name);
  }
}

export const settings = new Settings();
