/**
 * Who is told of downloads. A model is loaded from many places, most of which know nothing of a terminal:
 * so the command line names its reporter once, and everything that fetches tells it.
 */

/** One download under way, in bytes. */
export interface DownloadProgress {
  update(done: number): void;
  end(): void;
  /** It failed; a message follows. */
  stop(): void;
}

export interface DownloadReporter {
  /** `done` of `total` bytes are there from an earlier attempt. */
  begin(label: string, total: number, done: number): DownloadProgress;
  /** Something worth knowing, such as that a cached copy is used for want of a network. */
  note(text: string): void;
}

const silent: DownloadReporter = {
  begin: () => ({ update() {}, end() {}, stop() {} }),
  note() {},
};

let current = silent;

/** Downloads of this thread are told to `reporter` from now on; to nobody when it is absent. */
export function reportDownloads(reporter: DownloadReporter = silent): void {
  current = reporter;
}

export function downloadReporter(): DownloadReporter {
  return current;
}
