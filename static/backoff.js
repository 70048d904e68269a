/** How long to wait before connecting again, and what cuts the waiting short. */

const SHORTEST = 100; // milliseconds
const FIRST_CAP = 500;
const LARGEST_CAP = 8000;

/** Full jitter: any time up to a cap that doubles, so that browsers do not all return at once. */
export class Backoff {
  #cap = FIRST_CAP;

  /** Milliseconds to wait before the next attempt. */
  next() {
    const wait = SHORTEST + Math.random() * (this.#cap - SHORTEST);
    this.#cap = Math.min(this.#cap * 2, LARGEST_CAP);
    return wait;
  }

  /** Begin again with the shortest waits. */
  reset() {
    this.#cap = FIRST_CAP;
  }
}

/** Wait, but no longer than until an attempt promises more, or somebody looks; rejects on abort. */
export function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const over = new AbortController();
    const end = () => {
      clearTimeout(timer);
      over.abort();
      if (signal.aborted) reject(signal.reason);
      else resolve();
    };
    const timer = setTimeout(end, milliseconds);
    const options = { signal: over.signal };
    signal.addEventListener("abort", end, options);
    addEventListener("online", end, options);
    addEventListener("pageshow", end, options);
    document.addEventListener("visibilitychange", () => document.hidden || end(), options);
  });
}
