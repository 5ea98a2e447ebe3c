/**
 * How long a test waits for what should come by itself: a process, a page, an answer. Far longer than any
 * takes, so that it ends what hangs and says nothing about speed: machines that are shared stand still at times.
 */
export const PATIENCE_MS = 120_000;
