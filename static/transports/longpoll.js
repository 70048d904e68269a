/** Long polling: ask, and the server answers when there is something to say; then ask again. */

import { Subscription } from "../subscription.js";

const TIMEOUT = 35_000; // milliseconds; the server answers within 25 s, news or not

/** The browser half of pushlab/transports/longpoll.py. */
export default class LongPollSubscription extends Subscription {
	async listen(signal) {
		for (let first = true; !signal.aborted; first = false) {
			const { after } = this;
			const query = { carry: this.carry ? 1 : 0, after };
			if (first) query.timeout = 0; // do not wait for news: show that you are there
			const { status, message } = await this.ask("/update", { query, timeout: first ? undefined : TIMEOUT });
			this.live();
			if (status === 204) continue; // there is no news: ask again
			await this.news(message);
			// The same question would be answered at once, again and again.
			if (this.after === after) throw new Error(`${message.cursor} is no news`);
		}
	}
}
