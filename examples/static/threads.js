// @ts-check
/** The browser half of examples/threads.py. */

import { connect, find, log, notice, root } from "./socket.js";

const PERIOD = 100; // milliseconds, as all times here
/** @typedef {{ began: number, longest: number }} Job with the longest echo since it began */
/** @type {Set<Job>} */
const running = new Set();
/** @type {number | null} */
let sent = null;

const shown = (/** @type {number} */ time) => (time < 1000 ? `${time.toFixed(0)} ms` : `${(time / 1000).toFixed(1)} s`);

/** Note how long an echo took, or has taken so far. @param {number} time */
function note(time) {
	for (const job of running) job.longest = Math.max(job.longest, Math.min(time, performance.now() - job.began));
}

const socket = connect("/echo", {
	opened: ask,
	received() {
		const time = performance.now() - (sent ?? 0);
		sent = null;
		note(time);
		find("[data-last]").textContent = shown(time);
		setTimeout(ask, PERIOD);
	},
});

function ask() {
	if (socket.send("")) sent = performance.now();
}

for (const button of /** @type {NodeListOf<HTMLButtonElement>} */ (document.querySelectorAll("[data-job]"))) {
	button.addEventListener("click", async () => {
		const job = { longest: 0, began: performance.now() };
		running.add(job);
		button.disabled = true;
		try {
			const result = await (await fetch(`${root}/jobs/${button.dataset.job}`, { method: "POST" })).json();
			if (sent !== null) note(performance.now() - sent);
			const time = 1000 * result.seconds;
			const verdict = job.longest > time / 2 ? "the echoes waited" : "no echo waited";
			log(`${button.dataset.job}: ${shown(time)} of work, the longest echo ${shown(job.longest)}: ${verdict}`);
		} catch {
			notice("The server cannot be reached.");
		}
		running.delete(job);
		button.disabled = false;
		button.focus();
	});
}
