// @ts-check
/** A subscription: what every transport has in common, from the message to the reading. */

import { isNewer } from "./cursor.js";
import { Reconnector, sleep } from "./reconnector.js";

const TIMEOUT = 10_000; // milliseconds, as all of these
const QUIET = 30_000; // a connection that brings nothing for this long is checked
const STALE_AFTER = 1000; // a fetch that takes longer is shown
const GRACE = 2000; // how far a transport may lag behind /data

/** @typedef {{ cursor: string, changed_at: number, value: any }} Reading */
/** @typedef {{ cursor: string, changed_at?: number, value?: any }} Message a reading, or a signal */
/** @typedef {{ status: number, headers: Headers, message: Message }} Reply */
/**
 * @typedef {object} RequestOptions
 * @property {Record<string, any>} [query]
 * @property {number} [timeout] milliseconds
 * @property {"GET" | "HEAD"} [method]
 * @property {string} [etag] a cursor: the server responds with 304 if it is still the newest
 */

/** Follows the feed over one transport; a subclass says in `connect(signal)` how news arrives. */
export class Subscription extends Reconnector {
	/** The path below which the app is, such as "/push". */
	root = "";
	/** The cursor of the reading that was received last. */
	after = "";
	/** Whether messages carry the reading, or only signal that there is one. */
	carry = true;
	/** @type {(reading: Reading) => void} */
	onReading = () => {};

	/** The query that every push transport begins with. */
	get query() {
		return { carry: this.carry ? 1 : 0, after: this.after };
	}

	/**
	 * @param {string} path
	 * @param {Record<string, any>} [query]
	 */
	url(path, query) {
		return this.root + path + (query ? `?${new URLSearchParams(query)}` : "");
	}

	/** @override @param {AbortSignal} signal */
	newConnection(signal) {
		// The network came or went: an older connection may be dead without having noticed.
		for (const event of ["online", "offline"]) addEventListener(event, () => this.check(), { signal });
		return { newest: this.after, wanted: null, fetching: null, keepWatching() {} };
	}

	/**
	 * Take a reading, or a signal that makes us fetch one. Rejects if that fetch fails.
	 * @param {Message} message
	 */
	async received(message) {
		const { connection } = this;
		if (isNewer(message.cursor, connection.newest)) connection.newest = message.cursor;
		if ("value" in message) return this.#show(/** @type {Reading} */ (message));
		// However many signals arrive during a fetch, one more fetch has what the last of them means.
		connection.wanted = message.cursor;
		connection.fetching ??= this.#fetch(connection).finally(() => (connection.fetching = null));
		return connection.fetching;
	}

	/**
	 * Send a request that ends with the connection, at the latest. Rejects for an error status.
	 * @param {string} path
	 * @param {RequestOptions} [options]
	 * @returns {Promise<Reply>}
	 */
	async request(path, { query, timeout = TIMEOUT, method = "GET", etag } = {}) {
		const signal = AbortSignal.any([this.connection.signal, AbortSignal.timeout(timeout)]);
		/** @type {Record<string, string>} */
		const request = etag ? { "If-None-Match": `"${etag}"` } : {};
		// Not through the browser's cache: it would hide the 304, and make requests wait for each other.
		const response = await fetch(this.url(path, query), { method, headers: request, signal, cache: "no-store" });
		const text = await response.text();
		const { status, headers } = response;
		if (!response.ok && status !== 304) throw new Error(`${path}: ${status}`);
		const message = text ? JSON.parse(text) : { cursor: headers.get("ETag")?.slice(1, -1) };
		return { status, headers, message };
	}

	/**
	 * Watch a connection that stays open; return the listener for its `open` event.
	 * @param {(reason: unknown) => void} fail
	 * @returns {() => void}
	 */
	onOpen(fail) {
		const { connection } = this;
		const { signal } = connection;
		let timer = setTimeout(() => fail(new Error("timeout")), TIMEOUT);
		// A browser does not show pings and comments to the page: is the server quiet, or gone?
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

	/**
	 * The listener for the `message` events of such a connection.
	 * @param {MessageEvent<string>} event
	 */
	onMessage({ data }) {
		const { connection } = this;
		connection.keepWatching();
		// A fetch that fails is a connection that fails: the next one begins with what is missing.
		this.received(JSON.parse(data)).catch(connection.abort);
	}

	/** Connect again if the server cannot be reached, or if this transport does not bring its news. */
	async check() {
		const { connection } = this;
		try {
			const { cursor } = (await this.request("/data")).message;
			if (!isNewer(cursor, connection.newest)) return;
			await sleep(GRACE, connection.signal);
			if (isNewer(cursor, connection.newest)) throw new Error(`${cursor} did not arrive`);
		} catch (error) {
			connection.abort(error);
		}
	}

	/** @param {any} connection */
	async #fetch(connection) {
		while (connection.wanted && isNewer(connection.wanted, this.after)) {
			connection.wanted = null;
			const slow = setTimeout(() => this.enter("stale"), STALE_AFTER);
			const { message } = await this.request("/data").finally(() => clearTimeout(slow));
			this.#show(/** @type {Reading} */ (message));
			if (this.state === "stale") this.enter("live");
		}
	}

	/** @param {Reading} reading */
	#show(reading) {
		if (!isNewer(reading.cursor, this.after)) return;
		this.after = reading.cursor;
		this.onReading(reading);
	}
}
