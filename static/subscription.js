/** Hearing of news: what every transport does alike, from the message to the reading. */

import { browserNow, oneWay, toServer } from "./clock.js";
import { Line, pause } from "./line.js";
import { isNews } from "./reading.js";

const TIMEOUT = 10_000; // milliseconds, as all of these
const QUIET = 30_000; // then a connection that stays open is checked
const STALE_AFTER = 1000; // a fetch that takes longer is worth telling
const SILENCE = 2000; // how far a transport may lag behind /data

export const bytes = (text) => new TextEncoder().encode(text).length;

const contentOf = (message) => ("value" in message ? "reading" : "signal");

/**
 * A lane's line to the server; a subclass per transport says in `listen` how it hears of news.
 * `onWire` hears of what goes over the wire, in records that diagram.js draws, and of changes to them.
 */
export class Subscription extends Line {
	messages = 0;

	remember(signal) {
		// The network came or went: a connection of before may be dead without having noticed.
		for (const event of ["online", "offline"]) addEventListener(event, () => this.check(), { signal });
		return { heard: this.after, wanted: null, fetching: null };
	}

	url(path, query) {
		return `${path}?${new URLSearchParams({ ...query, lane: this.lane })}`;
	}

	/** Take a message: a reading, or a signal that makes us fetch one. */
	async news(message) {
		const { connection } = this;
		this.messages += 1;
		if (isNews(message.cursor, connection.heard)) connection.heard = message.cursor;
		if ("value" in message) return this.#take(message);
		// However many signals come during a fetch, one more fetch has what the last of them means.
		connection.wanted = message.cursor;
		connection.fetching ??= this.#fetchWhatIsWanted(connection).finally(() => (connection.fetching = null));
		return connection.fetching;
	}

	/** Ask, but not longer than the connection lasts. */
	async ask(path, { query, timeout = TIMEOUT, method = "GET", etag } = {}) {
		const record = this.#request(`${method} ${path}`);
		const signal = AbortSignal.any([this.connection.signal, AbortSignal.timeout(timeout)]);
		try {
			// Not through the browser's cache: it would hide the 304, and let lanes wait for each other.
			const headers = etag ? { "If-None-Match": `"${etag}"` } : {};
			const answer = await fetch(this.url(path, query), { method, headers, signal, cache: "no-store" });
			const text = await answer.text();
			record.received = browserNow();
			const times = answer.headers.get("Server-Timing")?.match(/in;dur=(.+), held;dur=(.+)/);
			if (times) Object.assign(record, { asked: +times[1], answered: +times[1] + +times[2] });
			record.empty = [204, 304].includes(answer.status);
			if (!answer.ok && !record.empty) throw new Error(`${path}: ${answer.status}`);
			const message = text ? JSON.parse(text) : { cursor: answer.headers.get("ETag")?.slice(1, -1) };
			if (!record.empty) record.brings = contentOf(message);
			this.onWire(record);
			return { status: answer.status, message };
		} catch (error) {
			this.#failed(record);
			throw error;
		}
	}

	/** Open a connection that stays open: call what this returns once it is; `over` ends it. */
	opening(what, over) {
		const { connection } = this;
		const { signal } = connection;
		const record = this.#request(what);
		let timer = setTimeout(() => over(new Error("no answer")), TIMEOUT);
		// A browser does not tell of pings and comments: is the server quiet, or gone?
		connection.listenOn = () => {
			clearTimeout(timer);
			if (!signal.aborted) timer = setTimeout(() => this.check().then(connection.listenOn), QUIET);
		};
		signal.addEventListener("abort", () => {
			clearTimeout(timer);
			if (!record.received) this.#failed(record);
			over(signal.reason);
		});
		return () => {
			record.received = browserNow();
			connection.openedAt = toServer(record.received) - oneWay();
			this.onWire(record);
			this.live();
			connection.listenOn();
		};
	}

	/** Take a message of such a connection; `down` is its bytes on the wire. */
	heard(what, text, down) {
		const { openedAt, listenOn } = this.connection;
		const message = JSON.parse(text);
		const brings = contentOf(message);
		this.onWire({ kind: "message", what, received: browserNow(), brings, down, openedAt, ...message });
		listenOn();
		return this.news(message);
	}

	/** Connect anew if the server cannot be reached, or if this transport does not bring its news. */
	async check() {
		const { connection } = this;
		try {
			const { cursor } = (await this.ask("/data")).message;
			if (!isNews(cursor, connection.heard)) return;
			await pause(SILENCE, connection.signal);
			if (isNews(cursor, connection.heard)) throw new Error(`not told ${cursor}`);
		} catch (error) {
			connection.abort(error);
		}
	}

	#request(what) {
		const record = { kind: "exchange", what, sent: browserNow(), received: null };
		this.onWire(record);
		return record;
	}

	#failed(record) {
		this.onWire(Object.assign(record, { failed: true, received: browserNow() }));
	}

	async #fetchWhatIsWanted(connection) {
		while (connection.wanted && isNews(connection.wanted, this.after)) {
			connection.wanted = null;
			const slow = setTimeout(() => this.enter("stale"), STALE_AFTER);
			const { message } = await this.ask("/data").finally(() => clearTimeout(slow));
			this.#take(message);
			if (this.state === "stale") this.enter("live");
		}
	}

	#take(reading) {
		if (!isNews(reading.cursor, this.after)) return;
		this.after = reading.cursor;
		this.onReading(reading);
	}
}
