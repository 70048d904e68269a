/** Short polling: request again and again; most responses say that there is nothing new. */

import { sleep } from "../reconnector.js";
import { Subscription } from "../subscription.js";

/** The browser half of pushlab/transports/poll.py. */
export default class PollSubscription extends Subscription {
	/** Milliseconds from one request to the next. */
	period = 500;

	/** @override @param {AbortSignal} ended */
	async connect(ended) {
		while (!ended.aborted) {
			const next = performance.now() + this.period;
			// The response to HEAD only signals that there is news; the one to GET carries it.
			const method = this.carry ? "GET" : "HEAD";
			const known = { "If-None-Match": `"${this.after.get("")}"` };
			const { status, headers, messages } = await this.request("/data", { method, headers: known });
			this.live();
			const signal = { cursor: headers.get("ETag")?.slice(1, -1) };
			if (status === 200) await this.received(this.carry ? messages : [signal]);
			await sleep(next - performance.now(), ended);
		}
	}
}
