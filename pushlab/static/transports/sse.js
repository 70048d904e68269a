/** Server-sent events: one request whose response never ends; every event in it is a message. */

import { Subscription } from "../subscription.js";

/** The browser half of pushlab/transports/sse.py. */
export default class EventStreamSubscription extends Subscription {
	/** @override @param {AbortSignal} signal */
	connect(signal) {
		return new Promise((_, fail) => {
			const source = new EventSource(this.url("/update", this.query));
			source.onopen = this.onOpen(fail);
			source.onmessage = (event) => this.onMessage(event);
			// It would reconnect by itself, always after the same time; Reconnector does that better.
			source.onerror = () => fail(new Error("the stream has ended"));
			signal.addEventListener("abort", () => source.close());
		});
	}
}
