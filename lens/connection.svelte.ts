/** Whether the server is there. While it is not, it is looked for until it is back. */
const TRY_MS = 1500;

class Connection {
  isLost = $state(false);
  /** Counts how often it came back: what was shown before may be old. */
  returns = $state(0);
  #timer: ReturnType<typeof setInterval> | undefined;

  lose(): void {
    if (this.isLost) return;
    this.isLost = true;
    this.#timer = setInterval(() => {
      fetch(new URL("api/health", document.baseURI), { cache: "no-store" })
        .then((response) => response.ok && this.found())
        .catch(() => undefined);
    }, TRY_MS);
  }

  found(): void {
    if (!this.isLost) return;
    clearInterval(this.#timer);
    this.isLost = false;
    this.returns++;
  }
}

export const connection = new Connection();
