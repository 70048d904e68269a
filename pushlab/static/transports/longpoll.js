// @ts-check
/** Long polling: send a request, which the server holds until there is news; then send the next. */

import { Subscription } from "../subscription.js";

const TIMEOUT = 35_000; // milliseconds; the server responds within 25 s, with news or without

/** The browser half of pushlab/transports/longpoll.py. */
export default class LongPollSubscription extends Subscription {
	/** @override @param {AbortSignal} signal */
	async connect(signal) {
		// The first request is not held: its response shows that the server is there.
		await this.#poll({ query: { ...this.query, timeout: 0 } });
		while (!signal.aborted) await this.#poll({ query: this.query, timeout: TIMEOUT });
	}

	/** @param {import("../subscription.js").RequestOptions} options */
	async #poll(options) {
		const { after } = this;
		const { status, message } = await this.request("/update", options);
		this.live();
		if (status === 204) return; // no news
		await this.received(message);
		// The same request would get the same response at once, again and again.
		if (this.after === after) throw new Error(`${message.cursor} is not new`);
	}
}
