/** WebSocket: one open connection, on which the server sends whenever there is news. */

import { Subscription } from "../subscription.js";

/** The browser half of pushlab/transports/websocket.py. */
export default class WebSocketSubscription extends Subscription {
	/** @override @param {AbortSignal} signal */
	connect(signal) {
		return new Promise((_, fail) => {
			const socket = new WebSocket(this.url("/update", this.query));
			socket.onopen = this.onOpen(fail);
			socket.onmessage = (event) => this.onMessage(event);
			socket.onclose = ({ code }) => fail({ closeCode: code });
			signal.addEventListener("abort", () => socket.close(1000));
		});
	}
}
