/** The controls: what a page may do to the data that all pages see. */

export function makeControls(element, lab) {
	const buttons = element.querySelectorAll("button");
	let pace;
	let before = "irregular";

	element.addEventListener("click", ({ target }) => {
		const { control } = target.dataset;
		// Pause is a switch: off again, the pace is that of before.
		const wish = control === "pause" && target.value === pace ? before : target.value;
		if (control) lab.order(wish ? { do: "pace", pace: wish } : { do: control });
	});

	return {
		allow({ may_steer, paces }) {
			for (const button of buttons) {
				button.disabled = !may_steer;
				button.hidden = button.value && !paces.includes(button.value);
			}
			element.querySelector("[data-field=rights]").hidden = may_steer;
		},

		showPace(news) {
			if (pace && pace !== news && pace !== "paused") before = pace;
			pace = news;
			for (const button of buttons) if (button.value) button.ariaPressed = button.value === pace;
		},
	};
}
