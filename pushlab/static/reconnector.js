// @ts-check
/** A connection that reconnects after every failure, with exponential backoff and full jitter. */

const MIN_WAIT = 100; // milliseconds, as all of these: waits before connecting again
const FIRST_CAP = 500;
const MAX_CAP = 8000;
const SETTLED = 1000; // a connection that was live for this long is retried with the first cap again

/** @typedef {"connecting" | "live" | "stale" | "retrying" | "offline" | "stopped"} State */

/**
 * One attempt to connect, and what must not outlive it.
 * @typedef {object} Connection
 * @property {AbortSignal} signal aborts when the attempt ends
 * @property {(reason?: unknown) => void} abort ends the attempt
 * @property {number} liveSince by performance.now(); Infinity before it was live
 */

/**
 * Wait; return early when the signal aborts or the network comes back.
 * @param {number} milliseconds
 * @param {AbortSignal} signal
 * @returns {Promise<void>}
 */
export function sleep(milliseconds, signal) {
	return new Promise((resolve) => {
		const listening = new AbortController();
		const wake = () => {
			clearTimeout(timer);
			listening.abort();
			resolve();
		};
		const timer = setTimeout(wake, milliseconds);
		signal.addEventListener("abort", wake, { signal: listening.signal });
		addEventListener("online", wake, { signal: listening.signal });
	});
}

/** A subclass's `connect(signal)` connects, calls `live()` when it is, and rejects when it fails. */
export class Reconnector {
	/** @type {AbortController | null} aborts all that runs between start and stop */
	#run = null;
	/** @type {State} */
	state = "stopped";
	/** @type {any} the Connection of the current attempt, with a subclass's own fields */
	connection = null;
	/** @type {(state: State, retryAt: number | null) => void} retryAt is by Date.now(), while waiting */
	onState = () => {};

	/**
	 * Connect, and resolve or reject when that connection has ended.
	 * @param {AbortSignal} _signal
	 * @returns {Promise<unknown>}
	 */
	async connect(_signal) {
		throw new Error("a subclass connects");
	}

	/**
	 * A subclass's own fields of a new connection.
	 * @param {AbortSignal} _signal
	 * @returns {object}
	 */
	newConnection(_signal) {
		return {};
	}

	start() {
		if (!this.#run) this.#stayConnected();
	}

	/** Close every request, socket and timer. */
	stop() {
		if (!this.#run) return;
		this.#run.abort();
		this.#run = this.connection = null;
		this.enter("stopped");
	}

	/** Connect again, if started. */
	restart() {
		if (!this.#run) return;
		this.#run.abort();
		this.#stayConnected();
	}

	live() {
		this.connection.liveSince = Math.min(this.connection.liveSince, performance.now());
		this.enter("live");
	}

	/**
	 * @param {State} state
	 * @param {number | null} retryAt
	 */
	enter(state, retryAt = null) {
		this.state = state;
		this.onState(state, retryAt);
	}

	async #stayConnected() {
		this.#run = new AbortController();
		const { signal } = this.#run;
		let cap = FIRST_CAP;
		while (!signal.aborted) {
			const attempt = new AbortController();
			const both = AbortSignal.any([signal, attempt.signal]);
			const abort = (/** @type {unknown} */ reason = undefined) => attempt.abort(reason);
			/** @type {Connection} */
			const connection = { signal: both, abort, liveSince: Infinity, ...this.newConnection(both) };
			this.connection = connection;
			this.enter("connecting");
			await this.connect(both).catch((error) => signal.aborted || console.debug(this, error));
			abort(); // whatever is still under way for it
			if (signal.aborted) return;
			// Being live is not enough to reset the cap: a full server accepts, only to close at once.
			if (performance.now() - connection.liveSince > SETTLED) cap = FIRST_CAP;
			// Full jitter: any time up to a cap that doubles, so that browsers do not all return at once.
			const wait = MIN_WAIT + Math.random() * (cap - MIN_WAIT);
			cap = Math.min(cap * 2, MAX_CAP);
			this.enter(navigator.onLine ? "retrying" : "offline", Date.now() + wait);
			await sleep(wait, signal);
		}
	}
}
