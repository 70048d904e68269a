/** A subscription: what every transport has in common, from the message to the reading. */

import { isNewer, sequence } from "./cursor.js";
import { Reconnector, sleep } from "./reconnector.js";

const TIMEOUT = 10_000; // milliseconds, as all of these
const QUIET = 30_000; // a connection that is silent for as long is checked
const STALE_AFTER = 1000; // what a fetch may take
const GRACE = 2000; // by which a transport may lag behind a request

/** @typedef {{ cursor: string, changed_at: number, value: any }} Reading */

/** Follows topics; how news arrives is said by a subclass's `connect(signal)`. */
export class Subscription extends Reconnector {
	root = ""; // the path of the app, such as "/push"
	topics = [""]; // the lab's has no name
	/** @type {Map<string, string>} by topic, the cursor of the last reading */
	after = new Map();
	carry = true;
	onReading = (/** @type {Reading} */ _reading) => {};
	onReset = (/** @type {object} */ _reset) => {};

	/** The query that every push transport begins with. */
	get query() {
		const after = this.topics.map((topic) => this.after.get(topic) ?? "");
		return { carry: Number(this.carry), topic: this.topics.filter(Boolean), after };
	}

	/** @param {string} path @param {object} query */
	url(path, query = {}) {
		const pairs = Object.entries(query).flatMap(([name, values]) => [values].flat().map((value) => [name, value]));
		return `${this.root}${path}?${new URLSearchParams(pairs)}`;
	}

	/** @override @param {AbortSignal} signal */
	newConnection(signal) {
		// The network came or went: a connection may be dead without having noticed.
		for (const event of ["online", "offline"]) addEventListener(event, () => this.check(), { signal });
		return { newest: new Map(this.after) };
	}

	/** Rejects if fetching what they signal fails. @param {any[]} messages */
	async received(messages) {
		const { connection } = this;
		this.#take(messages, this.carry);
		// However many signals arrive during a fetch, one more fetch has what they mean.
		if (this.#isBehind()) connection.fetching ??= this.#fetch().finally(() => (connection.fetching = null));
		return connection.fetching;
	}

	/** Rejects for an error status. @param {string} path @param {RequestInit & { query?: object, timeout?: number }} options */
	async request(path, { query, timeout = TIMEOUT, ...init } = {}) {
		const signal = AbortSignal.any([this.connection.signal, AbortSignal.timeout(timeout)]);
		// The browser's cache would hide the 304, and make requests wait for each other.
		const response = await fetch(this.url(path, query), { ...init, signal, cache: "no-store", redirect: "manual" });
		const text = await response.text();
		signal.throwIfAborted();
		const { headers } = response;
		const status = response.status || 401; // a redirect is hidden, and leads to a login
		if (status >= 400) throw Object.assign(new Error(path), { status });
		return { status, headers, messages: parse(text) };
	}

	/** Request what `after` lacks. @param {number} carry */
	requestNews(carry) {
		return this.request("/update", { query: { ...this.query, carry, timeout: 0 } });
	}

	async catchUp() {
		this.#take((await this.requestNews(1)).messages, true);
	}

	/** Watch a connection; return the listener for `open`. @param {(error: any) => void} fail */
	onOpen(fail) {
		const { connection } = this;
		const { signal } = connection;
		let timer = setTimeout(fail, TIMEOUT);
		// A browser does not show pings and comments: is the server quiet, or gone?
		connection.keepWatching = () => {
			clearTimeout(timer);
			if (!signal.aborted) timer = setTimeout(() => this.check().then(connection.keepWatching), QUIET);
		};
		signal.addEventListener("abort", () => {
			clearTimeout(timer);
			fail(signal.reason);
		});
		return () => {
			this.live();
			connection.keepWatching();
		};
	}

	/** @param {MessageEvent<string>} event */
	onMessage({ data }) {
		const { connection } = this;
		connection.keepWatching();
		// If a fetch fails, the next connection begins with what is missing.
		this.received(parse(data)).catch(connection.abort);
	}

	/** Connect again if the server cannot be reached, or has what did not arrive. */
	async check() {
		const { connection } = this;
		try {
			const { messages } = await this.requestNews(0);
			const isLate = () => messages.some(({ topic = "", cursor }) => isNewer(cursor, connection.newest.get(topic)));
			if (isLate()) await sleep(GRACE, connection.signal);
			if (!isLate()) return;
			connection.liveSince = NaN; // it only seemed so
			throw new Error("late");
		} catch (error) {
			connection.abort(error);
		}
	}

	#isBehind() {
		const newest = this.connection?.newest ?? [];
		return [...newest].some(([topic, cursor]) => isNewer(cursor, this.after.get(topic)));
	}

	async #fetch() {
		while (this.#isBehind()) {
			const slow = setTimeout(() => this.enter("stale"), STALE_AFTER);
			const { after } = this.query;
			await this.catchUp().finally(() => clearTimeout(slow));
			if (`${after}` === `${this.query.after}`) throw new Error("nothing new");
			if (this.state === "stale") this.enter("live");
		}
	}

	/** @param {any[]} messages @param {boolean} carried not signals: without a value, only a position */
	#take(messages, carried) {
		for (const message of messages) {
			const { topic = "", cursor, reset } = message ?? {};
			const newest = this.connection?.newest; // a callback may have stopped us
			if (!newest || !this.topics.includes(topic) || !(sequence(cursor) >= 0)) continue;
			const isNew = (/** @type {string} */ after) => (reset ? cursor !== after : isNewer(cursor, after));
			if (isNew(newest.get(topic))) newest.set(topic, cursor);
			if (!(carried || reset) || !isNew(this.after.get(topic) ?? "")) continue;
			this.after.set(topic, cursor);
			if (reset) this.onReset({ topic, cursor });
			else if ("value" in message) this.onReading(message);
		}
	}
}

/** @param {string} text */
function parse(text) {
	try {
		return [JSON.parse(text)].flat();
	} catch {
		return [];
	}
}
