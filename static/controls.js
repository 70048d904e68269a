// @ts-check
/** The controls: what a page may do to the data that all pages see. */

import { find } from "./dom.js";

/**
 * @param {HTMLElement} element
 * @param {(command: import("./lab.js").Command) => void} send
 */
export function makeControls(element, send) {
	const buttons = element.querySelectorAll("button");
	let pace = "";
	let resume = ""; // the pace after a pause, which only the server knows
	let asked = ""; // and not reported yet

	element.addEventListener("click", ({ target }) => {
		if (!(target instanceof HTMLButtonElement)) return;
		const { control } = target.dataset;
		// Pause is a switch. A second click may be faster than the first one's report.
		const isOff = control === "pause" && target.value === (asked || pace);
		const wanted = isOff ? resume : target.value;
		if (wanted) asked = wanted;
		if (control) send(wanted ? { do: "pace", pace: wanted } : { do: control });
	});

	return {
		/** @param {{ may_steer: boolean, paces: string[] }} lab */
		allow({ may_steer, paces }) {
			for (const button of buttons) {
				button.disabled = !may_steer;
				button.hidden = button.value !== "" && !paces.includes(button.value);
			}
			find("[data-field=rights]", element).hidden = may_steer;
		},

		/** @param {{ pace: string, resume: string }} state */
		showPace(state) {
			({ pace, resume } = state);
			asked = "";
			for (const button of buttons) if (button.value) button.ariaPressed = String(button.value === pace);
		},
	};
}
