// @ts-check
/** What the lab adds to a transport: its lane's name in every URL, and a record of all that passes. */

import { browserNow, oneWay, toServer } from "./clock.js";

/**
 * A request and its response (`kind` "exchange"), a message of a connection that stays open, or a
 * change of the data: what diagram.js draws. Times are in milliseconds, by the browser's clock
 * where `sent` or `received`, else by the server's.
 * @typedef {object} WireRecord
 * @property {"exchange" | "message" | "change"} kind
 * @property {string} [what] as in "GET /data"
 * @property {number} [sent]
 * @property {number | null} [received] null for what has not been received yet
 * @property {number} [arrived] when the server had read the request
 * @property {number} [responded] when it began to write the response
 * @property {number} [openedAt] when the server had opened the connection
 * @property {number} [left] when the server sent the message
 * @property {number} [at] when the data changed
 * @property {boolean} [empty] whether the response says that there is nothing new
 * @property {"reading" | "signal"} [brings]
 * @property {boolean} [failed]
 * @property {number} [up] bytes on the wire, to the server
 * @property {number} [down] and from it
 * @property {string} [cursor] of a message
 * @property {number} [changed_at]
 */

const byteLength = (/** @type {string} */ text) => new TextEncoder().encode(text).length;

/** Bytes of a WebSocket frame that a server sends (RFC 6455 section 5.2). @param {string} data */
function frameSize(data) {
	const size = byteLength(data);
	return size + (size < 126 ? 2 : size < 65536 ? 4 : 10);
}

/**
 * Bytes of a server-sent event, in a chunk of its own (RFC 9112 section 7.1).
 * @param {string} data
 * @param {string} id
 */
function eventSize(data, id) {
	const size = byteLength(`id: ${id}\ndata: ${data}\n\n`);
	return size + size.toString(16).length + 4;
}

const contentOf = (/** @type {object} */ message) => ("value" in message ? "reading" : "signal");

/**
 * Return this transport's subscription, with instruments.
 * @param {typeof import("./subscription.js").Subscription} Transport
 * @param {string} title
 */
export function withInstruments(Transport, title) {
	return class extends Transport {
		/** The lane's name, by which the server counts. */
		lane = "";
		/** How often the transport brought news. */
		messages = 0;
		/** @type {(record: WireRecord) => void} called for each record, and again when more is known */
		onWire = () => {};
		/** Until what has come is shown: a browser asks again when it is ready. */
		showing = Promise.resolve();

		/** @override @type {typeof Transport.prototype.url} */
		url(path, query) {
			return super.url(path, { ...query, lane: this.lane });
		}

		/** @override @type {typeof Transport.prototype.received} */
		async received(messages) {
			this.messages += messages.length;
			await super.received(messages);
			await this.showing;
		}

		/** @override @type {typeof Transport.prototype.catchUp} */
		async catchUp() {
			await super.catchUp();
			await this.showing;
		}

		/** @override The lab's feed is a state, so that the newest reading is all that is new. */
		requestNews() {
			return this.request("/data");
		}

		/** @override @type {typeof Transport.prototype.request} */
		async request(path, options = {}) {
			const record = this.#begin(`${options.method ?? "GET"} ${path}`);
			try {
				const reply = await super.request(path, options);
				const { status, headers, messages } = reply;
				record.received = browserNow();
				const times = headers.get("Server-Timing")?.match(/in;dur=(.+), held;dur=(.+)/);
				if (times) Object.assign(record, { arrived: +times[1], responded: +times[1] + +times[2] });
				record.empty = status !== 200;
				if (!record.empty) record.brings = contentOf(messages[0] ?? {});
				this.onWire(record);
				return reply;
			} catch (error) {
				this.#fail(record);
				throw error;
			}
		}

		/** @override @type {typeof Transport.prototype.onOpen} */
		onOpen(fail) {
			const { connection } = this;
			const record = this.#begin(title);
			connection.signal.addEventListener("abort", () => record.received ?? this.#fail(record));
			const onOpen = super.onOpen(fail);
			return () => {
				record.received = browserNow();
				connection.openedAt = toServer(record.received) - oneWay();
				this.onWire(record);
				onOpen();
			};
		}

		/** @override @param {MessageEvent<string>} event */
		onMessage(event) {
			const { data, lastEventId, target } = event;
			const isFrame = target instanceof WebSocket;
			const message = JSON.parse(data);
			this.onWire({
				kind: "message",
				what: isFrame ? "frame" : "event",
				received: browserNow(),
				brings: contentOf(message),
				down: isFrame ? frameSize(data) : eventSize(data, lastEventId),
				openedAt: this.connection.openedAt,
				cursor: message.cursor,
				changed_at: message.changed_at,
			});
			super.onMessage(event);
		}

		/**
		 * @param {string} what
		 * @returns {WireRecord}
		 */
		#begin(what) {
			/** @type {WireRecord} */
			const record = { kind: "exchange", what, sent: browserNow(), received: null };
			this.onWire(record);
			return record;
		}

		/** @param {WireRecord} record */
		#fail(record) {
			this.onWire(Object.assign(record, { failed: true, received: browserNow() }));
		}
	};
}
