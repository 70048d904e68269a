// @ts-check
/** The connection to the instruments: the newest reading, the meters, the time; and the controls. */

import { browserNow, learn } from "./clock.js";
import { root } from "./dom.js";
import { Reconnector } from "./reconnector.js";

const FIRST_QUESTIONS = 8; // about the time, close together, to know it well soon
const QUICKLY = 150; // milliseconds, as all of these
const PERIOD = 2000;
const STALE_AFTER = 2500; // a report comes every second; noticed before any reading counts as lost
const TIMEOUT = 15_000; // longer than a server is frozen on purpose

/** @typedef {{ do: string, pace?: string, lane?: string, lanes?: string[] | Record<string, unknown>, sent?: number, key?: string, id?: string, run?: number, experiment?: string, prediction?: string | number | null, value?: string | number | null }} Command */

/** The browser half of lab/instruments.py. `onMessage` is called with each message but the time. */
export class Lab extends Reconnector {
	/** @type {WebSocket | null} */
	#socket = null;
	/** @type {() => string[]} the names of the lanes to report on */
	lanes = () => [];
	/** @type {(message: any) => void} */
	onMessage = () => {};

	/** Send a command; return whether there was a connection. @param {Command} command */
	send(command) {
		if (this.#socket?.readyState !== WebSocket.OPEN) return false;
		this.#socket.send(JSON.stringify(command));
		return true;
	}

	watch() {
		this.send({ do: "watch", lanes: this.lanes() });
	}

	/** @override @param {AbortSignal} signal */
	connect(signal) {
		return new Promise((_, fail) => {
			const socket = (this.#socket = new WebSocket(`${root}/lab`));
			let receivedAt = performance.now();
			let questions = 0;
			/** @type {ReturnType<typeof setTimeout>} */
			let timer;

			const askForTheTime = () => {
				if (this.send({ do: "clock", sent: browserNow() })) questions += 1;
				const silence = performance.now() - receivedAt;
				if (silence > TIMEOUT) fail(new Error("timeout"));
				else if (silence > STALE_AFTER && this.state === "live") this.enter("stale");
				timer = setTimeout(askForTheTime, questions < FIRST_QUESTIONS ? QUICKLY : PERIOD);
			};
			askForTheTime();
			socket.onopen = () => {
				this.live();
				this.watch();
			};
			socket.onmessage = ({ data }) => {
				const received = browserNow();
				receivedAt = performance.now();
				if (this.state === "stale") this.live();
				const message = JSON.parse(data);
				if (message.clock) learn({ ...message.clock, received });
				else this.onMessage(message);
			};
			socket.onclose = ({ code }) => fail(new Error(`closed with ${code}`));
			signal.addEventListener("abort", () => {
				clearTimeout(timer);
				socket.close(1000);
				fail(signal.reason);
			});
		});
	}
}
