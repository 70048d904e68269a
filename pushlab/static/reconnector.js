/** A connection that reconnects after every failure, with exponential backoff and full jitter. */

const MIN_WAIT = 100; // milliseconds, as all of these
const FIRST_CAP = 500;
const MAX_CAP = 8000;
const SETTLED = 1000; // a connection that was live for as long resets the cap

/** @typedef {import("./push.js").State} State */

/** Less if the signal aborts or the network comes back. @param {number} wait @param {AbortSignal} signal */
export async function sleep(wait, signal) {
	const woken = new AbortController();
	await new Promise((resolve) => {
		setTimeout(resolve, wait);
		signal.addEventListener("abort", resolve, { signal: woken.signal });
		addEventListener("online", resolve, { signal: woken.signal });
	});
	woken.abort();
}

/** A subclass's `connect(signal)` connects, calls `live()` when it is, and rejects when it fails. */
export class Reconnector {
	/** @type {AbortController | null} from start to stop */
	#run = null;
	/** @type {State} */
	state = "stopped";
	/** @type {any} the attempt: signal, abort(reason), liveSince */
	connection = null;
	/** @type {(state: State, retryAt: number | null) => void} */
	onState = () => {};

	/** @param {AbortSignal} _signal @returns {Promise<any>} */
	async connect(_signal) {}

	/** Fields for a connection. @param {AbortSignal} _signal */
	newConnection(_signal) {
		return {};
	}

	/** @param {any} error @param {boolean} _settled */
	failed(error, _settled) {
		console.debug(this, error);
	}

	start() {
		if (!this.#run) this.#stayConnected();
	}

	/** Close every request, socket and timer. @param {State} state */
	stop(state = "stopped") {
		if (!this.#run) return;
		this.#run.abort();
		this.#run = this.connection = null;
		this.enter(state);
	}

	/** Connect again, if started. */
	restart() {
		if (!this.#run) return;
		this.#run.abort();
		this.#stayConnected();
	}

	live() {
		this.connection.liveSince ??= performance.now();
		this.enter("live");
	}

	/** @param {State} state @param {number | null} retryAt */
	enter(state, retryAt = null) {
		if (state === this.state && !retryAt) return;
		this.state = state;
		this.onState(state, retryAt);
	}

	async #stayConnected() {
		this.#run = new AbortController();
		const run = this.#run.signal;
		let cap = FIRST_CAP;
		while (!run.aborted) {
			const attempt = new AbortController();
			const signal = AbortSignal.any([run, attempt.signal]);
			const abort = attempt.abort.bind(attempt);
			this.connection = { signal, abort, ...this.newConnection(signal) };
			this.enter("connecting");
			const error = await this.connect(signal).catch((error) => error);
			attempt.abort(); // whatever is still under way for it
			if (run.aborted) return;
			// Being live is not enough: a full server accepts, only to close at once.
			const settled = performance.now() - this.connection.liveSince > SETTLED;
			if (settled) cap = FIRST_CAP;
			this.failed(error, settled);
			if (run.aborted) return;
			// Full jitter, so that browsers do not all return at once.
			const wait = MIN_WAIT + Math.random() * (cap - MIN_WAIT);
			cap = Math.min(cap * 2, MAX_CAP);
			this.enter(navigator.onLine ? "retrying" : "offline", Date.now() + wait);
			await sleep(wait, run);
		}
	}
}
