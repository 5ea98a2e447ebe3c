/** Something that a job measures on demand: the newest job of a title, and its result once it has ended. */
import { api, ask } from "./api.ts";
import { shared } from "./state.svelte.ts";

type Order = Parameters<typeof api.jobs.$post>[0]["json"];

/** To be made while a component is. */
export class Measurement<T> {
  readonly #of: () => { run: string; title: string };
  readonly job = $derived.by(() => {
    const { run, title } = this.#of();
    return shared.jobs.findLast((one) => one.run === run && one.title === title);
  });
  readonly progress = $derived(this.job?.state?.progress);
  readonly isRunning = $derived(this.job?.status === "running" || this.job?.status === "queued");
  result = $state.raw<T>();
  #refused = $state("");
  readonly problem = $derived(
    this.#refused || (this.job?.status === "failed" ? (this.job.exit?.error ?? "") : ""),
  );

  constructor(of: () => { run: string; title: string }) {
    this.#of = of;
    $effect(() => {
      this.result = undefined;
      const { job } = this;
      if (job?.status !== "finished") return;
      void ask(api.jobs[":job"].$get({ param: { job: job.id } })).then((found) => {
        if (this.job?.id === job.id) this.result = found.result as T;
      });
    });
  }

  async start(order: Order): Promise<void> {
    this.#refused = "";
    await ask(api.jobs.$post({ json: order })).catch(
      (error: Error) => (this.#refused = error.message),
    );
  }
}
