/** Follow topics of a Flask app with Push, over the first transport that works. */

import { Subscription } from "./subscription.js";

const TRANSPORTS = ["websocket", "sse", "longpoll"];
const REFUSALS = [400, 401, 403, 404]; // also in close codes, as 4400
const CUT = 1006; // there was no close frame

let preferred = ""; // on this page, after another has failed

/** Connects as one of its transports does. */
class Follower extends Subscription {
	transports = TRANSPORTS; // the current one comes first
	ended = new AbortController();
	#suspected = false;
	onRefused = (/** @type {object} */ _refusal) => {};

	/** @override @param {AbortSignal} signal */
	async connect(signal) {
		const { connection } = this;
		if (this.#suspected) {
			// A browser hides why a handshake or a stream failed. The response to a request says it.
			this.#suspected = connection.responds = false;
			await this.catchUp();
			connection.responds = true;
		}
		const { default: Transport } = await import(`./transports/${this.transports[0]}.js`);
		signal.throwIfAborted();
		return Transport.prototype.connect.call(this, signal);
	}

	/** @override @type {Subscription["failed"]} */
	failed(error, settled) {
		super.failed(error, settled);
		const { closeCode = CUT, status = closeCode - 4000 } = error ?? {};
		if (REFUSALS.includes(status)) {
			this.stop("refused");
			this.close();
			this.onRefused({ status });
		} else if (!settled && status === CUT - 4000) {
			// If the server responds, something in between does not let this transport pass.
			const [first, ...others] = this.transports;
			if (this.connection.responds) [preferred] = this.transports = [...others, first];
			else this.#suspected = this.connection.responds ?? true;
		}
	}

	close() {
		this.ended.abort();
		this.stop();
	}
}

/** @type {typeof import("./push.js").follow} */
export function follow(topics, options = {}) {
	const { after, carry = true, transports = TRANSPORTS, whileHidden } = options;
	const unknown = transports.find((name) => !TRANSPORTS.includes(name));
	if (unknown) throw new TypeError(`no transport ${unknown}`);
	const names = [topics].flat();
	const cursors = typeof after === "string" ? { [names[0]]: after } : after;
	/** @type {Follower & Record<string, any>} */
	const follower = Object.assign(new Follower(), {
		root: new URL(".", import.meta.url).href.slice(0, -1),
		carry,
		topics: names,
		after: new Map(Object.entries(cursors ?? {})),
		transports: transports.toSorted((a, b) => Number(b === preferred) - Number(a === preferred)),
	});
	for (const name of ["onReading", "onReset", "onState", "onRefused"]) {
		follower[name] = (/** @type {any[]} */ ...values) => {
			try {
				/** @type {any} */ (options)[name]?.(...values);
			} catch (error) {
				reportError(error);
			}
		};
	}

	const { signal } = follower.ended;
	// A browser has six connections per host for all its tabs, and keeps no page with one for "back".
	const update = () => signal.aborted || (document.hidden && !whileHidden ? follower.stop() : follower.start());
	document.addEventListener("visibilitychange", update, { signal });
	addEventListener("pageshow", update, { signal });
	addEventListener("pagehide", () => follower.stop(), { signal });
	queueMicrotask(update); // not before the caller has what is returned

	return follower;
}
