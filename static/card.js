/** A card: a reading, how old it is, and how its line is doing. */

import { serverNow } from "./clock.js";
import { age, headline, sequence } from "./reading.js";

const SHORT = 14; // characters
const LONG = 48; // a longer headline is shown small, in a box that scrolls

export const reducedMotion = matchMedia("(prefers-reduced-motion: reduce)");

/** Only what has changed is written, or a screen reader would hear it again. */
export function write(element, text) {
	if (element.textContent !== text) element.textContent = text;
	return element;
}

export class Card {
	#changedAt = 0;
	#retryAt = null;

	constructor(element) {
		this.element = element;
	}

	show(reading) {
		this.cursor = this.element.dataset.cursor = reading.cursor;
		this.#changedAt = reading.changed_at * 1000;
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

	showState(state, until) {
		this.element.dataset.state = state;
		this.write("state-word", state);
		this.element.querySelector(".state use").setAttribute("href", `#icon-${state}`);
		this.#retryAt = state === "retrying" ? until : null;
		this.tick();
	}

	tick() {
		this.write("since", age(serverNow() - this.#changedAt, { tenths: !reducedMotion.matches }));
		const seconds = Math.ceil((this.#retryAt - Date.now()) / 1000);
		this.write("countdown", this.#retryAt ? ` in ${Math.max(1, seconds)} s` : "");
	}

	drawSparkline(values, low = 0, high = Math.max(low, ...values)) {
		const svg = this.element.querySelector(".sparkline");
		svg.setAttribute("viewBox", `0 ${-high} ${Math.max(1, values.length - 1)} ${high - low || 1}`);
		svg.firstElementChild.setAttribute("points", values.map((value, i) => `${i},${-value}`).join(" "));
	}

	write(name, text) {
		return write(this.field(name), text);
	}

	field(name) {
		return this.element.querySelector(`[data-field="${name}"]`);
	}
}
