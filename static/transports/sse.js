/** Server-sent events: ask once, and the answer never ends; every event on it is news. */

import { bytes, Subscription } from "../subscription.js";

/** The browser half of pushlab/transports/sse.py. */
export default class EventStreamSubscription extends Subscription {
	listen(signal) {
		return new Promise((resolve, reject) => {
			const source = new EventSource(this.url("/update", { carry: this.carry ? 1 : 0, after: this.after }));
			const on = (event, listener) => source.addEventListener(event, listener, { signal });

			on("open", this.opening("event stream", reject));
			on("message", ({ data, lastEventId }) => {
				const size = bytes(`id: ${lastEventId}\ndata: ${data}\n\n`);
				const chunk = size + size.toString(16).length + 4; // HTTP says how long it is, in hexadecimal
				// A fetch that fails is a connection that fails: the next one begins with what is missing.
				this.heard("event", data, chunk).catch(reject);
			});
			// It would connect again by itself, always after the same time; we know better when.
			on("error", () => reject(new Error("the stream has ended")));
			signal.addEventListener("abort", () => source.close());
		});
	}
}
