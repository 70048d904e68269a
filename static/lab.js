/** The line to the instruments: the truth, the meters, the time; and the controls. */

import { browserNow, learn } from "./clock.js";
import { Line } from "./line.js";

const FIRST_QUESTIONS = 8; // about the time, to know it well soon
const QUICKLY = 150; // milliseconds, as all of these
const AGAIN = 2000;
const STALE_AFTER = 2500; // a report should come every second; noticed before any reading counts as lost
const GIVE_UP_AFTER = 15_000; // longer than a server is frozen on purpose

/** The browser half of lab/instruments.py. `onMessage` hears all but the time. */
export class Lab extends Line {
	#socket = null;

	tell(wish) {
		if (this.#socket?.readyState !== WebSocket.OPEN) return false;
		this.#socket.send(JSON.stringify(wish));
		return true;
	}

	watch() {
		this.tell({ do: "watch", lanes: this.lanes() });
	}

	listen(signal) {
		return new Promise((resolve, reject) => {
			const socket = (this.#socket = new WebSocket("/lab"));
			const on = (event, listener) => socket.addEventListener(event, listener, { signal });
			let heardAt = performance.now();
			let questions = 0;
			let timer;

			const askForTheTime = () => {
				questions += this.tell({ do: "clock", sent: browserNow() });
				const silence = performance.now() - heardAt;
				if (silence > GIVE_UP_AFTER) reject(new Error("silence"));
				else if (silence > STALE_AFTER && this.state === "live") this.enter("stale");
				timer = setTimeout(askForTheTime, questions < FIRST_QUESTIONS ? QUICKLY : AGAIN);
			};
			askForTheTime();
			on("open", () => {
				this.live();
				this.watch();
			});
			on("message", ({ data }) => {
				const received = browserNow();
				heardAt = performance.now();
				if (this.state === "stale") this.live();
				const message = JSON.parse(data);
				if (message.clock) learn({ ...message.clock, received });
				else this.onMessage(message);
			});
			on("close", ({ code }) => reject(new Error(`closed with ${code}`)));
			signal.addEventListener("abort", () => {
				clearTimeout(timer);
				socket.close(1000);
				reject(signal.reason);
			});
		});
	}
}
