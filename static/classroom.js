// @ts-check
/** The class: what this page measures goes to the teacher, whose page shows everybody's. */

import { find, write } from "./dom.js";
import { PREDICTING } from "./experiment.js";
import { experiments } from "./experiments.js";
import { ENOUGH, percentile } from "./measurement.js";
import { duration } from "./units.js";

const PERIOD = 3000; // milliseconds between two reports of this page's medians
const LEAST = 0.1; // milliseconds: a logarithm needs more than nothing
const ENDS_AFTER = 5000; // milliseconds: pages that are slower still finish
const STORED = "pushlab-key";

/** @typedef {{ run: number, id: string, age: number }} Run */
/** @typedef {ReturnType<typeof import("./experiment.js").makeExperiments>} Runner */
/** @typedef {Record<string, number[]>} Medians by transport, of each page */
/** @typedef {[number | string, number][]} Counted */
/** @typedef {{ run: number, id: string, count: number, predictions: Counted, values: Counted, lanes: Medians }} Results */
/** @typedef {{ pages: number, medians: Medians, results: Results | null }} Report */

/**
 * @param {HTMLElement} element
 * @param {object} surroundings
 * @param {import("./lab.js").Lab} surroundings.lab
 * @param {import("./lane.js").Lane[]} surroundings.lanes
 * @param {(command: import("./lab.js").Command) => void} surroundings.send
 */
export function makeClassroom(element, { lab, lanes, send }) {
	const field = (/** @type {string} */ name) => find(`[data-field="${name}"]`, element);
	const nameOf = (/** @type {string} */ transport) => lanes.find((lane) => lane.transport === transport)?.name;
	let key = takeKey();
	const opener = find("[data-action=class]");
	const closer = find("[data-action=close-class]", element);
	let isTeacher = false;
	const covers = document.documentElement.classList.contains("present"); // the whole page, if it is open
	let isOpen = !covers;
	/** @type {Run | null} under way */
	let run = null;
	/** @type {Runner | null} */
	let runner = null;

	setInterval(() => {
		const known = lanes.filter(({ measured }) => measured.latencies.length >= ENOUGH);
		if (!known.length) return;
		const medians = known.map((lane) => [lane.transport, rounded(lane.measured.percentile(0.5) ?? 0)]);
		lab.send({ do: "medians", lanes: Object.fromEntries(medians) });
	}, PERIOD);

	function toggle() {
		isOpen = !isOpen;
		showRole();
		(isOpen ? closer : opener).focus();
	}
	for (const button of [opener, closer]) button.addEventListener("click", toggle);
	document.addEventListener("keydown", (event) => {
		if (event.key !== "Escape" || !covers || element.hidden) return;
		toggle();
		event.preventDefault();
	});
	find("[data-action=end]", element).addEventListener("click", () => send({ do: "end" }));
	// The key is added late: who hovers over a link for all to see does not show it.
	find("main").addEventListener("click", ({ target }) => {
		const link = target instanceof Element && target.closest("[aria-label=Distance] a, .lesson a");
		if (link instanceof HTMLAnchorElement) link.href = withKey(link.href);
	});

	/** Show or hide what is the teacher's. */
	function showRole() {
		element.hidden = !(isTeacher && isOpen);
		for (const covered of document.querySelectorAll("body > header, main > :not(.classroom, .notice)"))
			/** @type {HTMLElement} */ (covered).inert = covers && !element.hidden;
		opener.hidden = !isTeacher;
		opener.ariaExpanded = String(isOpen);
		if (runner) runner.onStartForAll = isTeacher ? (id) => send({ do: "experiment", id }) : null;
	}

	/** @param {string} url */
	function withKey(url) {
		if (!isTeacher) return url;
		const teachers = new URL(url);
		teachers.searchParams.set("key", key);
		return teachers.href;
	}

	/** @param {Report} report */
	function show({ pages, medians, results }) {
		write(field("here"), pages === 1 ? "1 page is here." : `${pages || "No"} pages are here${pages ? "." : " yet."}`);
		showStrips(field("medians"), medians);
		field("run").hidden = !results;
		if (!results) return;
		find("[data-action=end]", element).hidden = !run;
		const experiment = experiments.find(({ id }) => id === results.id);
		write(field("run-name"), experiment?.title ?? results.id);
		write(field("run-count"), results.count === 1 ? "Results of 1 page." : `Results of ${results.count} pages.`);
		write(field("predicted"), inWords("Predicted", results.predictions, experiment));
		write(field("found"), inWords("Measured", results.values, experiment));
		showStrips(field("run-medians"), results.lanes);
	}

	/**
	 * @param {string} what
	 * @param {Counted} counted
	 * @param {import("./experiments.js").Experiment} [experiment]
	 */
	function inWords(what, counted, experiment) {
		if (!counted.length) return "";
		const one = (/** @type {number | string} */ value) =>
			experiment && runner ? runner.inWords(experiment, value) : String(value);
		const numbers = counted.flatMap(([value, times]) => (typeof value === "number" ? Array(times).fill(value) : []));
		if (counted.length > 8 && numbers.length) {
			const [least, median, most] = [0, 0.5, 1].map((q) => one(percentile(numbers, q) ?? 0));
			return `${what}: from ${least} to ${most}, median ${median}`;
		}
		return `${what}: ${counted.map(([value, times]) => `${one(value)} × ${times}`).join(", ")}`;
	}

	/**
	 * A row of dots for each lane, one for each page, and a line at their median.
	 * @param {HTMLElement} table
	 * @param {Medians} medians
	 */
	function showStrips(table, medians) {
		const all = Object.values(medians).flat();
		table.hidden = !all.length;
		if (table.hidden) return;
		const from = Math.floor(Math.log10(Math.max(LEAST, Math.min(...all))));
		const to = Math.max(from + 1, Math.ceil(Math.log10(Math.max(LEAST, ...all))));
		const at = (/** @type {number} */ value) =>
			rounded((1000 * (Math.log10(Math.max(LEAST, value)) - from)) / (to - from));
		const steps = to - from < 2 ? [1, 2, 5] : [1];
		const ticks = Array.from({ length: to - from }, (_, i) => steps.map((step) => step * 10 ** (from + i)));
		const marks = [...ticks.flat(), 10 ** to];

		const body = find("tbody", table);
		for (const row of body.querySelectorAll("tr")) row.hidden = !(row.className in medians || row.className === "axis");
		for (const [transport, values] of Object.entries(medians)) {
			const row = body.querySelector(`.${transport}`) ?? makeRow(transport);
			const median = percentile(values, 0.5) ?? 0;
			// One after the other, each page's dot keeps its height, so that dots do not hide each other.
			const dots = values.map((value, i) => `M${at(value)} ${Math.round(10 + 80 * ((0.5 + i * 0.618) % 1))}h.01`);
			draw(row, "grid", marks.map((mark) => `M${at(mark)} 0v100`).join(""));
			draw(row, "dots", dots.join(""));
			draw(row, "median", `M${at(median)} 0v100`);
			const [, , middle, pages] = row.children;
			write(middle, duration(median));
			write(pages, String(values.length));
			body.append(row); // in the order of the lanes
		}
		const axis = body.querySelector(".axis") ?? makeAxis();
		body.append(axis); // below them all
		const label = (/** @type {number} */ mark) => (mark < 1000 ? `${rounded(mark)} ms` : `${mark / 1000} s`);
		find("div", axis).replaceChildren(
			...marks.map((mark) => {
				const text = Object.assign(document.createElement("span"), { textContent: label(mark) });
				text.style.insetInlineStart = `${(at(mark) + 20) / 10.4}%`;
				return text;
			}),
		);
	}

	/** @param {string} transport */
	function makeRow(transport) {
		const row = document.createElement("tr");
		row.className = transport;
		row.innerHTML =
			'<th scope="row"></th><td><svg viewBox="-20 0 1040 100" preserveAspectRatio="none" aria-hidden="true">' +
			'<path class="grid"/><path class="dots"/><path class="median"/></svg></td><td></td><td></td>';
		find("th", row).textContent = nameOf(transport) ?? transport;
		return row;
	}

	function makeAxis() {
		const axis = document.createElement("tr");
		axis.className = "axis";
		axis.ariaHidden = "true";
		axis.innerHTML = "<td></td><td><div></div></td><td></td><td></td>";
		return axis;
	}

	/** Join the run, or stop when the teacher has ended it. @param {Run | null} next */
	function follow(next) {
		if (!next && run && runner?.running === run.id) runner.stop();
		run = next;
		const phases = experiments.find(({ id }) => id === next?.id)?.phases ?? [];
		const seconds = phases.reduce((sum, { seconds }) => sum + seconds, PREDICTING);
		if (next && next.age < seconds) runner?.start(next.id, { forAll: true, age: next.age });
	}

	/** @param {import("./experiment.js").Result} result */
	function handIn({ experiment, prediction, value, lanes }) {
		const { run: number, id } = run ?? {};
		if (!number || experiment !== id) return;
		const figures = Object.entries(lanes).map(([lane, { n, p50, p95, bytes, requests, coalesced, lost }]) => {
			return [lane, { n, p50, p95, bytes, requests, coalesced, lost }];
		});
		lab.send({ do: "result", run: number, experiment, prediction, value, lanes: Object.fromEntries(figures) });
		// Pages that come now would not find it any more.
		if (isTeacher) setTimeout(() => run?.run === number && lab.send({ do: "end" }), ENDS_AFTER);
	}

	return {
		/** @param {Runner} experiments of this page */
		take(experiments) {
			runner = experiments;
			runner.onFinished = handIn;
			runner.onChosen = () => covers && !element.hidden && toggle();
			runner.linkTo = withKey;
		},

		/** @param {any} message of lab/instruments.py */
		receive({ lab: about, class: report, experiment, error }) {
			if (about?.class.role === "student" && key) lab.send({ do: "teach", key });
			if (about) {
				isTeacher = about.class.role === "teacher";
				showRole();
			}
			if (error?.startsWith("key:")) key = keep(""); // it is not asked with again
			if (experiment !== undefined) follow(experiment);
			if (report) show(report);
		},
	};
}

const rounded = (/** @type {number} */ number) => Math.round(number * 100) / 100;

/**
 * @param {Element} row
 * @param {string} name
 * @param {string} path
 */
const draw = (row, name, path) => find(`path.${name}`, row).setAttribute("d", path);

/** Take the teacher's key from the URL, where all could read it, or from before a reload. */
function takeKey() {
	const url = new URL(location.href);
	const key = url.searchParams.get("key");
	if (key === null) return keep();
	url.searchParams.delete("key");
	history.replaceState(history.state, "", url);
	return keep(key);
}

/** Keep the key for a reload of this page, or return what is kept. @param {string} [key] */
function keep(key) {
	try {
		if (key !== undefined) sessionStorage.setItem(STORED, key);
		return key ?? sessionStorage.getItem(STORED) ?? "";
	} catch {
		return key ?? ""; // this browser keeps nothing
	}
}
