/** Hearing of news and staying connected: what is the same for every transport. */

import { Backoff, pause } from "./backoff.js";
import { isNews } from "./reading.js";

const FETCH_TIMEOUT = 10_000; // milliseconds, as all of these
const STALE_AFTER = 1000; // a fetch under way for longer than this is worth telling
const SILENCE = 2000; // how far a transport may lag behind /data before it counts as dead
const SETTLED = 1000; // live for this long, a connection is worth returning to at once

/** A lane's line to the server; a subclass per transport says in `listen` how it hears of news. */
export class Subscription {
  #run = null; // the AbortController of all that runs between start and stop
  #connection = null; // what belongs to one attempt and must not outlive it
  #state = "stopped";

  /** `name` tells the server whose request it is; `after` is the cursor of what is shown. */
  constructor({ name, after = null, carry = false, onState = () => {}, onReading = () => {} }) {
    this.name = name;
    this.after = after;
    this.carry = carry;
    this.onState = onState;
    this.onReading = onReading;
  }

  /** Connect, and stay connected until `stop`. */
  start() {
    if (this.#run) return;
    this.#run = new AbortController();
    this.#stayConnected(this.#run.signal);
  }

  /** Let go of everything: no request, no socket and no timer is left. */
  stop() {
    if (!this.#run) return;
    this.#run.abort();
    this.#run = this.#connection = null;
    this.#enter("stopped");
  }

  /** Have the news carry the reading, or only signal it, from now on: that takes a new connection. */
  setCarry(carry) {
    this.carry = carry;
    if (!this.#run) return;
    this.#run.abort();
    this.#run = null;
    this.start();
  }

  /**
   * What a transport implements: hear of news until the signal aborts; call `live` once the server
   * is known to be there, `news` with every message; reject when the connection fails.
   */
  async listen(signal) {}

  /** The server is there. */
  live() {
    this.#connection.liveSince = Math.min(this.#connection.liveSince, performance.now());
    this.#enter("live");
  }

  /** Take a message: a reading, or a signal that makes us fetch one. */
  async news(message) {
    const connection = this.#connection;
    if (isNews(message.cursor, connection.heard)) connection.heard = message.cursor;
    if ("value" in message) {
      this.#take(message);
      return;
    }
    // However many signals come during a fetch, one more fetch has what the last of them means.
    connection.wanted = message.cursor;
    connection.fetching ??= this.#fetchWhatIsWanted(connection).finally(() => {
      connection.fetching = null;
    });
    await connection.fetching;
  }

  /** Fetch, but not forever, and not longer than the connection lasts. */
  fetch(path, { timeout, ...options }) {
    const signals = [this.#connection.signal, AbortSignal.timeout(timeout)];
    return fetch(path, { ...options, signal: AbortSignal.any(signals) });
  }

  /** Connect anew if the server cannot be reached, or if this transport does not bring its news. */
  async check() {
    const connection = this.#connection;
    try {
      const { cursor } = await this.#fetchReading();
      if (isNews(cursor, connection.heard)) {
        const late = setTimeout(() => {
          if (isNews(cursor, connection.heard)) connection.abort(new Error(`not told ${cursor}`));
        }, SILENCE);
        connection.signal.addEventListener("abort", () => clearTimeout(late));
      }
    } catch (error) {
      connection.abort(error);
    }
  }

  async #stayConnected(signal) {
    const backoff = new Backoff();
    while (!signal.aborted) {
      const connection = this.#connect(signal);
      try {
        await this.listen(connection.signal);
      } catch (error) {
        if (!signal.aborted) console.debug(`${this.name}:`, error);
      }
      connection.abort(); // whatever is still under way for it
      if (signal.aborted) return;
      // Not reset by being live alone: a full server accepts, only to close at once.
      if (performance.now() - connection.liveSince > SETTLED) backoff.reset();
      const wait = backoff.next();
      this.#enter(navigator.onLine ? "retrying" : "offline", { until: Date.now() + wait });
      await pause(wait, signal).catch(() => {}); // stopped meanwhile: the loop ends
    }
  }

  #connect(signal) {
    const line = new AbortController();
    this.#connection = {
      signal: AbortSignal.any([signal, line.signal]),
      abort: (reason) => line.abort(reason),
      liveSince: Infinity,
      heard: this.after, // the latest cursor that it brought
      wanted: null, // the cursor that the latest signal named, if it is still to be fetched
      fetching: null,
    };
    this.#enter("connecting");
    // The network came or went: a connection of before may be dead without having noticed.
    const options = { signal: this.#connection.signal };
    addEventListener("online", () => this.check(), options);
    addEventListener("offline", () => this.check(), options);
    return this.#connection;
  }

  async #fetchWhatIsWanted(connection) {
    while (connection.wanted && isNews(connection.wanted, this.after)) {
      connection.wanted = null;
      const slow = setTimeout(() => this.#enter("stale"), STALE_AFTER);
      try {
        this.#take(await this.#fetchReading());
      } finally {
        clearTimeout(slow);
      }
      if (this.#state === "stale") this.#enter("live");
    }
  }

  async #fetchReading() {
    // The name keeps the lanes apart: a browser's cache sends requests for one URL one by one.
    const path = `/data?lane=${this.name}`;
    const answer = await this.fetch(path, { cache: "no-cache", timeout: FETCH_TIMEOUT });
    if (!answer.ok) throw new Error(`/data: ${answer.status}`);
    return answer.json();
  }

  #take(reading) {
    if (!isNews(reading.cursor, this.after)) return;
    this.after = reading.cursor;
    this.onReading(reading);
  }

  #enter(state, detail = {}) {
    this.#state = state;
    this.onState(state, detail);
  }
}
