/** Short polling: ask again and again, and be told at once that there is nothing new, mostly. */

import { pause } from "../line.js";
import { Subscription } from "../subscription.js";

/** The browser half of pushlab/transports/poll.py. */
export default class PollSubscription extends Subscription {
	/** Milliseconds from one question to the next. */
	period = 500;

	async listen(signal) {
		while (!signal.aborted) {
			const due = performance.now() + this.period;
			// The answer to HEAD only says whether there is news; that to GET brings it.
			const method = this.carry ? "GET" : "HEAD";
			const { status, message } = await this.ask("/data", { method, etag: this.after });
			this.live();
			if (status === 200) await this.news(message);
			await pause(due - performance.now(), signal);
		}
	}
}
