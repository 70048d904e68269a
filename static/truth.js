/** The truth: the server's newest reading, and when each one changed. */

import { Card } from "./card.js";
import { details, localTime } from "./reading.js";

const DRAWN = 60; // values
const REMEMBERED = 300; // readings

export class Truth extends Card {
	changes = new Map(); // cursor: server time in milliseconds
	#values = [];

	constructor(element, reading) {
		super(element);
		this.show(reading);
	}

	show(reading) {
		super.show(reading);
		this.write("details", details(reading.value));
		const changedAt = new Date(reading.changed_at * 1000);
		this.write("changed-at", localTime(changedAt)).dateTime = changedAt.toISOString();
	}

	take(reading) {
		this.show(reading);
		const [[oldest]] = this.changes.set(reading.cursor, reading.changed_at * 1000);
		if (this.changes.size > REMEMBERED) this.changes.delete(oldest);
		const number = Object.values(reading.value).find((value) => typeof value === "number");
		this.#values = number === undefined ? [] : [...this.#values.slice(1 - DRAWN), number];
		const range = "cpu_percent" in reading.value ? [0, 100] : [Math.min(number ?? 0, ...this.#values)];
		this.drawSparkline(this.#values, ...range);
	}
}
