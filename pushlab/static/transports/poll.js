// @ts-check
/** Short polling: request again and again; most responses say that there is nothing new. */

import { sleep } from "../reconnector.js";
import { Subscription } from "../subscription.js";

/** The browser half of pushlab/transports/poll.py. */
export default class PollSubscription extends Subscription {
	/** Milliseconds from one request to the next. */
	period = 500;

	/** @override @param {AbortSignal} signal */
	async connect(signal) {
		while (!signal.aborted) {
			const next = performance.now() + this.period;
			// The response to HEAD only signals that there is news; the one to GET carries it.
			const method = this.carry ? "GET" : "HEAD";
			const { status, message } = await this.request("/data", { method, etag: this.after });
			this.live();
			if (status === 200) await this.received(message);
			await sleep(next - performance.now(), signal);
		}
	}
}
