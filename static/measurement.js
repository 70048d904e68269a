/** What one lane has measured: how often it was told, how late, at what cost. */

import { browserNow, toBrowser } from "./clock.js";
import { epoch, isNews, sequence } from "./reading.js";

const KEPT = 1000; // latencies
const COUNTED = ["requests", "empty", "up", "down"];

export class Measurement {
	seen = 0;
	coalesced = 0;
	lost = 0;
	cost = {}; // as the server counts, over all its lives, if it can
	#before = {}; // at the end of its last life
	#life;
	#shown;
	#overlooked;
	#latencies = []; // [server time of the change, browser time of its showing]
	#ran = 0; // seconds
	#since = null;

	constructor(cursor) {
		this.#shown = cursor;
	}

	run(running) {
		this.#ran = this.seconds;
		this.#since = running ? performance.now() : null;
	}

	get seconds() {
		return this.#ran + (this.#since && (performance.now() - this.#since) / 1000);
	}

	/** A reading is shown; `timely` unless the lane was stopped when it changed. */
	show({ cursor, changed_at }, timely) {
		const from = epoch(cursor) === epoch(this.#shown) ? sequence(this.#shown) : 0;
		this.seen += 1;
		this.coalesced += Math.max(0, sequence(cursor) - from - 1);
		this.#shown = cursor;
		if (timely) this.#latencies = [...this.#latencies.slice(1 - KEPT), [changed_at * 1000, browserNow()]];
	}

	/** A reading is lost, if it was not before. */
	overlook(cursor) {
		if (cursor === this.#overlooked || !isNews(cursor, this.#shown)) return;
		this.#overlooked = cursor;
		this.lost += 1;
	}

	report(meter, life) {
		if (life !== this.#life) this.#before = this.cost;
		this.#life = life;
		this.cost = {};
		for (const name of COUNTED) this.cost[name] = meter[name] + (this.#before[name] ?? 0);
	}

	/** In milliseconds, by what is known of the clocks now. */
	get latencies() {
		return this.#latencies.map(([changed, shown]) => Math.max(0, shown - toBrowser(changed)));
	}

	/** The latency that this part of them does not exceed (nearest rank). */
	percentile(part) {
		const sorted = this.latencies.sort((a, b) => a - b);
		return sorted[Math.ceil(part * sorted.length) - 1];
	}

	get bytesPerUpdate() {
		return (this.cost.up + this.cost.down) / this.seen || null;
	}

	get requestsPerUpdate() {
		return this.cost.requests / this.seen || null;
	}
}
