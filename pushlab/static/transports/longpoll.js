/** Long polling: send a request, which the server holds until there is news; then send the next. */

import { Subscription } from "../subscription.js";

const TIMEOUT = 35_000; // milliseconds; the server responds within 25 s, with news or without

/** The browser half of pushlab/transports/longpoll.py. */
export default class LongPollSubscription extends Subscription {
	/** @override @param {AbortSignal} signal */
	async connect(signal) {
		// The first request is not held: its response shows that the server is there.
		await poll(this, { query: { ...this.query, timeout: 0 } });
		while (!signal.aborted) await poll(this, { query: this.query, timeout: TIMEOUT });
	}
}

/** @param {Subscription} subscription @param {{ query: object, timeout?: number }} options */
async function poll(subscription, options) {
	const { after } = subscription.query;
	const { status, messages } = await subscription.request("/update", options);
	subscription.live();
	if (status === 204) return; // no news
	await subscription.received(messages);
	// The same request would get the same response at once, again and again.
	if (String(after) === String(subscription.query.after)) throw new Error("nothing new");
}
