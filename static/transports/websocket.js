/** WebSocket: one connection held open, on which the server speaks when there is something to say. */

import { bytes, Subscription } from "../subscription.js";

/** The browser half of pushlab/transports/websocket.py. */
export default class WebSocketSubscription extends Subscription {
	listen(signal) {
		return new Promise((resolve, reject) => {
			const socket = new WebSocket(this.url("/update", { carry: this.carry ? 1 : 0, after: this.after }));
			const on = (event, listener) => socket.addEventListener(event, listener, { signal });

			on("open", this.opening("WebSocket", reject));
			on("message", ({ data }) => {
				const size = bytes(data);
				const frame = size + (size < 126 ? 2 : size < 65536 ? 4 : 10); // RFC 6455 section 5.2
				// A fetch that fails is a connection that fails: the next one begins with what is missing.
				this.heard("frame", data, frame).catch(reject);
			});
			on("close", ({ code }) => reject(new Error(`closed with ${code}`)));
			signal.addEventListener("abort", () => socket.close(1000));
		});
	}
}
