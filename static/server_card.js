// @ts-check
/** The server's own card: its newest reading, and when each one changed. */

import { Card } from "./card.js";
import { agrees } from "./clock.js";
import { details, localTime } from "./reading.js";

/** @typedef {import("./subscription.js").Reading} Reading */

const DRAWN = 60; // values
const REMEMBERED = 300; // readings

export class ServerCard extends Card {
	/** @type {Map<string, number>} server time in milliseconds, by cursor */
	changes = new Map();
	/** @type {number[]} */
	#values = [];

	/**
	 * @param {HTMLElement} element
	 * @param {Reading} reading
	 */
	constructor(element, reading) {
		super(element);
		this.show(reading);
	}

	/** @override @param {Reading} reading */
	show(reading) {
		super.show(reading);
		this.write("details", details(reading.value));
		const changedAt = new Date(reading.changed_at * 1000);
		this.write("changed-at", localTime(changedAt)).setAttribute("datetime", changedAt.toISOString());
	}

	/**
	 * Show a new reading, and remember it; return whether its time and its age agree.
	 * @param {Reading} reading
	 * @param {number} age in seconds
	 */
	add(reading, age) {
		const same = agrees(reading, age);
		this.show(reading);
		const [[oldest]] = this.changes.set(reading.cursor, reading.changed_at * 1000);
		if (this.changes.size > REMEMBERED) this.changes.delete(oldest);
		/** @type {number | undefined} */
		const number = Object.values(reading.value).find((value) => typeof value === "number");
		this.#values = number === undefined ? [] : [...this.#values.slice(1 - DRAWN), number];
		const range = "cpu_percent" in reading.value ? [0, 100] : [Math.min(number ?? 0, ...this.#values)];
		this.drawSparkline(this.#values, ...range);
		return same;
	}
}
