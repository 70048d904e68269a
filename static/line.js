/** A line to the server that stays connected, with a backoff. */

const SHORTEST = 100; // milliseconds, as all of these: waits before connecting again
const FIRST_CAP = 500;
const LARGEST_CAP = 8000;
const SETTLED = 1000; // live for this long, a connection is worth returning to at once

/** Wait, or until the signal aborts, or the network is back. */
export function pause(milliseconds, signal) {
	return new Promise((resolve) => {
		const over = new AbortController();
		const end = () => {
			clearTimeout(timer);
			over.abort();
			resolve();
		};
		const timer = setTimeout(end, milliseconds);
		signal.addEventListener("abort", end, { signal: over.signal });
		addEventListener("online", end, { signal: over.signal });
	});
}

/** A subclass's `listen(signal)` connects, says when it is live, and rejects when it fails. */
export class Line {
	#run = null; // the AbortController of all that runs between start and stop
	state = "stopped";
	connection = null; // what belongs to one attempt and must not outlive it

	/** The hook `onState` hears of states, and until when it waits. */
	constructor(hooks) {
		Object.assign(this, hooks);
	}

	start() {
		if (!this.#run) this.#stayConnected();
	}

	/** Let go of every request, socket and timer. */
	stop() {
		if (!this.#run) return;
		this.#run.abort();
		this.#run = this.connection = null;
		this.enter("stopped");
	}

	/** Connect anew, if connected at all. */
	restart() {
		if (!this.#run) return;
		this.#run.abort();
		this.#stayConnected();
	}

	/** What a subclass remembers of one connection. */
	remember(signal) {}

	live() {
		this.connection.liveSince = Math.min(this.connection.liveSince, performance.now());
		this.enter("live");
	}

	enter(state, until = null) {
		this.state = state;
		this.onState(state, until);
	}

	async #stayConnected() {
		this.#run = new AbortController();
		const { signal } = this.#run;
		let cap = FIRST_CAP;
		while (!signal.aborted) {
			const attempt = new AbortController();
			const both = AbortSignal.any([signal, attempt.signal]);
			const abort = (why) => attempt.abort(why);
			const connection = { signal: both, abort, liveSince: Infinity, ...this.remember(both) };
			this.connection = connection;
			this.enter("connecting");
			await this.listen(both).catch((error) => signal.aborted || console.debug(this, error));
			abort(); // whatever is still under way for it
			if (signal.aborted) return;
			// Not reset by being live alone: a full server accepts, only to close at once.
			if (performance.now() - connection.liveSince > SETTLED) cap = FIRST_CAP;
			// Full jitter: any time up to a cap that doubles, so that browsers do not all return at once.
			const wait = SHORTEST + Math.random() * (cap - SHORTEST);
			cap = Math.min(cap * 2, LARGEST_CAP);
			this.enter(navigator.onLine ? "retrying" : "offline", Date.now() + wait);
			await pause(wait, signal);
		}
	}
}
