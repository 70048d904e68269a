// @ts-check
/** A card: a reading, how old it is, and the state of the connection that brings it. */

import { browserNow, changedHere } from "./clock.js";
import { sequence } from "./cursor.js";
import { find, reducedMotion, write } from "./dom.js";
import { age, headline } from "./reading.js";

/** @typedef {import("./subscription.js").Reading} Reading */

const SHORT = 14; // characters
const LONG = 48; // a longer headline is shown small, in a box that scrolls

export class Card {
	/** @type {Reading} */
	#reading = { cursor: "", changed_at: 0, value: {} };
	/** @type {number | null} */
	#retryAt = null;
	cursor = "";

	/** @param {HTMLElement} element */
	constructor(element) {
		this.element = element;
	}

	/** @param {Reading} reading */
	show(reading) {
		this.cursor = this.element.dataset.cursor = reading.cursor;
		this.#reading = reading;
		const text = headline(reading.value);
		const value = this.write("value", text);
		value.dataset.size = text.length > LONG ? "small" : text.length > SHORT ? "medium" : "large";
		value.removeAttribute("tabindex");
		if (text.length > LONG) {
			value.tabIndex = 0; // what may scroll must be reached by keyboard
			// Once tall, a card stays tall, so that the page does not jump.
			this.element.dataset.tall = "";
		}
		this.write("sequence", String(sequence(reading.cursor)));
		this.tick();
	}

	/**
	 * @param {import("./reconnector.js").State} state
	 * @param {number | null} retryAt
	 */
	showState(state, retryAt) {
		this.element.dataset.state = state;
		this.write("state-word", state);
		find(".state use", this.element).setAttribute("href", `#icon-${state}`);
		this.#retryAt = state === "retrying" ? retryAt : null;
		this.tick();
	}

	/** Milliseconds since the reading that is shown has changed. */
	get age() {
		return browserNow() - changedHere(this.#reading);
	}

	tick() {
		this.write("since", age(this.age, { tenths: !reducedMotion.matches }));
		const seconds = this.#retryAt && Math.ceil((this.#retryAt - Date.now()) / 1000);
		this.write("countdown", seconds === null ? "" : ` in ${Math.max(1, seconds)} s`);
	}

	/**
	 * @param {number[]} values
	 * @param {number} low
	 * @param {number} high
	 */
	drawSparkline(values, low = 0, high = Math.max(low, ...values)) {
		const svg = find(".sparkline", this.element);
		svg.setAttribute("viewBox", `0 ${-high} ${Math.max(1, values.length - 1)} ${high - low || 1}`);
		find("polyline", svg).setAttribute("points", values.map((value, i) => `${i},${-value}`).join(" "));
	}

	/**
	 * @param {string} name
	 * @param {string} text
	 */
	write(name, text) {
		return write(this.field(name), text);
	}

	/** @param {string} name */
	field(name) {
		return find(`[data-field="${name}"]`, this.element);
	}
}
