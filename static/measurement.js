// @ts-check
/** What one lane has measured: how many readings it showed, how late, at what cost. */

import { browserNow, changedHere } from "./clock.js";
import { epoch, isNewer, sequence } from "./cursor.js";

const KEPT = 1000; // latencies
/** Updates of which a median says something. */
export const ENOUGH = 3;

/** @typedef {"requests" | "empty" | "up" | "down"} Counter */
/** @typedef {Partial<Record<Counter, number>>} Cost */

/** @type {Counter[]} */
const COUNTERS = ["requests", "empty", "up", "down"];

/**
 * Interpolate between order statistics, as Python's statistics.quantiles(method="inclusive") does.
 * @param {number[]} samples
 * @param {number} q from 0, the smallest, to 1, the largest
 * @returns {number | undefined} undefined without samples
 */
export function percentile(samples, q) {
	if (!samples.length) return undefined;
	const sorted = samples.toSorted((a, b) => a - b);
	const position = q * (sorted.length - 1);
	const index = Math.floor(position);
	const [below, above = below] = sorted.slice(index);
	return below + (position - index) * (above - below);
}

export class Measurement {
	seen = 0;
	coalesced = 0;
	lost = 0;
	/** @type {Set<string>} at which the data changed meanwhile */
	paces = new Set();
	/** @type {Cost} as the server counts, since the measurement began, if it can */
	cost = {};
	/** @type {Cost} what was counted before the server was started again */
	#before = {};
	#epoch = "";
	#shown;
	#lost = "";
	/** @type {[import("./clock.js").Change, number][]} and when it was shown */
	#latencies = [];
	#ran = 0; // seconds
	/** @type {number | null} */
	#since = null;

	/** @param {string} cursor of what is shown already */
	constructor(cursor) {
		this.#shown = cursor;
	}

	/** @param {boolean} running */
	run(running) {
		this.#ran = this.seconds;
		this.#since = running ? performance.now() : null;
	}

	get seconds() {
		return this.#ran + (this.#since === null ? 0 : (performance.now() - this.#since) / 1000);
	}

	/**
	 * Count a reading that is shown; `timely` unless the lane was stopped when it changed.
	 * @param {import("./subscription.js").Reading} reading
	 * @param {boolean} timely
	 */
	show({ cursor, changed_at }, timely) {
		const from = epoch(cursor) === epoch(this.#shown) ? sequence(this.#shown) : 0;
		this.seen += 1;
		this.coalesced += Math.max(0, sequence(cursor) - from - 1);
		this.#shown = cursor;
		if (timely) this.#latencies = [...this.#latencies.slice(1 - KEPT), [{ cursor, changed_at }, browserNow()]];
	}

	/** Count a reading as lost, once. @param {string} cursor */
	countLost(cursor) {
		if (cursor === this.#lost || !isNewer(cursor, this.#shown)) return;
		this.#lost = cursor;
		this.lost += 1;
	}

	/**
	 * @param {Record<Counter, number>} meter
	 * @param {string} epoch of the server
	 */
	report(meter, epoch) {
		if (epoch !== this.#epoch) this.#before = this.cost;
		this.#epoch = epoch;
		this.cost = {};
		for (const name of COUNTERS) this.cost[name] = meter[name] + (this.#before[name] ?? 0);
	}

	/** In milliseconds, by what is known of the clocks now. */
	get latencies() {
		return this.#latencies.map(([change, shown]) => Math.max(0, shown - changedHere(change)));
	}

	/** When each of them was shown. */
	get shownAt() {
		return this.#latencies.map(([, shown]) => shown);
	}

	/** A percentile of the latencies. @param {number} q */
	percentile(q) {
		return percentile(this.latencies, q);
	}

	get bytesPerUpdate() {
		const { up = NaN, down = NaN } = this.cost;
		return (up + down) / this.seen || null;
	}

	get requestsPerUpdate() {
		const { requests = NaN } = this.cost;
		return requests / this.seen || null;
	}
}
