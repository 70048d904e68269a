// @ts-check
/** Runs an experiment: the question first, then the lanes, then the prediction beside the measurement. */

import { browserNow, oneWay } from "./clock.js";
import { find, root, write } from "./dom.js";
import { experiments } from "./experiments.js";
import { asCsv, asHtml, save } from "./hand_in.js";
import { percentile } from "./measurement.js";

/** @typedef {import("./experiments.js").Experiment} Experiment */
/** @typedef {import("./experiments.js").Bar} Bar */
/** @typedef {import("./experiments.js").Figures} Figures */
/** @typedef {import("./experiments.js").Measured} Measured */
/** @typedef {import("./experiments.js").Phase} Phase */
/** @typedef {import("./lane.js").Lane} Lane */
/** @typedef {[name: string, distance: number, url: string, isHere: boolean]} Place */
/**
 * @typedef {object} Result
 * @property {string} experiment its id
 * @property {string} at when it ended, ISO 8601
 * @property {number | null} distance round trip in milliseconds; null if not known
 * @property {string} pace
 * @property {number} oneWay milliseconds, as measured
 * @property {string | number | null} prediction
 * @property {string | number | null} value what it is compared with
 * @property {Measured[]} phases
 * @property {Record<string, Figures>} lanes those of the last phase
 */

/** Seconds for predictions, when an experiment is started for all. */
export const PREDICTING = 10;
const TICK = 100; // milliseconds, as all of these
const SETTLING = 1000; // what opens is still under way when a lane is live
const GRACE = 5000; // for pages that began later
const TIMEOUT = 30_000; // for what must happen before an experiment can go on
const TABS = 10;
const KEPT = 50; // results
/** @type {Record<string, string>} */
const COLUMNS = { coalesced: "skipped", lost: "lost", requests: "requests" };
const HIDDEN = "The page was hidden, so that its lanes were closed. Run it again.";

/**
 * @param {HTMLElement} element
 * @param {object} surroundings
 * @param {Lane[]} surroundings.lanes
 * @param {(command: import("./lab.js").Command) => void} surroundings.send if it is connected
 * @param {() => void} surroundings.hold hold the pictures, or let them run
 */
export function makeExperiments(element, { lanes, send, hold }) {
	/** @type {Place[]} */
	const places = JSON.parse(element.dataset.places ?? "[]");
	const here = places.find(([, , , isHere]) => isHere);
	const panel = find(".panel", element);
	const group = find("[role=group]", element);
	const prediction = find(".prediction", element);
	const form = /** @type {HTMLFormElement} */ (find("form", element));
	const bar = /** @type {HTMLProgressElement} */ (find("progress", element));
	const dialog = /** @type {HTMLDialogElement} */ (find("dialog.results"));
	const button = (/** @type {string} */ action) =>
		/** @type {HTMLButtonElement} */ (find(`[data-action=${action}]`, element));
	const part = (/** @type {string} */ name) => find(`[data-part=${name}]`, element);

	/** What the server has said last. */
	let [maySteer, isCounted, pace] = [false, true, ""];
	/** @type {string[] | null} */
	let paces = null;
	/** @type {Experiment | null} that is open */
	let chosen = null;
	/** @type {AbortController | null} of the run, or of the time for predictions before it */
	let run = null;
	/** @type {string | number | null} */
	let predicted = null;
	let isForAll = false; // the run
	let borrowed = ""; // the pace, until it is given back; by the teacher's page, where there is one
	/** @type {ReturnType<typeof setTimeout>} */
	let givingBack;
	let ended = ""; // why the last run did
	/** @type {Set<() => void>} called when the server's next report has come */
	const waiting = new Set();
	/** @type {() => void} puts everything back as it was */
	let restore = () => {};
	let results = /** @type {Result[]} */ ([]);

	const api = {
		inWords,
		/** @type {((id: string) => void) | null} set if this page may start an experiment for all */
		onStartForAll: null,
		/** A question is to be opened, by a button or a key. @type {() => void} */
		onChosen: () => {},
		/** @type {(result: Result) => void} */
		onFinished: () => {},
		/** @type {(url: string) => string} what is to be added to the URL of another place */
		linkTo: (url) => url,

		/** The id of the experiment that runs, or of which the prediction is awaited for all. */
		get running() {
			return run && chosen ? chosen.id : "";
		},

		/**
		 * Open the question. For all, it runs by itself after the time for predictions; `age` is how
		 * many seconds ago it was started.
		 * @param {string} id
		 * @param {{ forAll?: boolean, age?: number }} options
		 */
		start(id, { forAll = false, age = 0 } = {}) {
			const experiment = experiments.find((each) => each.id === id);
			if (!experiment) return;
			stop("");
			const place = placeOf(experiment);
			if (place && !place[3]) return goTo(place, id);
			open(experiment);
			if (forAll) runForAll(experiment, age);
		},

		/** End what runs, for example as the teacher has ended it for all. */
		stop: () => stop(""),

		/** Take what the server says. @param {any} message */
		onMessage({ lab, pace: name, meters }) {
			if (lab) {
				({ may_steer: maySteer, paces } = lab);
				isCounted = lab.metered ?? true;
			}
			if (name) pace = name;
			if (lab) borrow(); // the end of a connection gives it back; a teacher's is a student's at first
			if (lab || name) showReason();
			if (!meters) return;
			for (const go of waiting) go();
			waiting.clear();
		},
	};

	// Where the page is.

	/** Where an experiment is run: where the page is, if that will do. @param {Experiment} experiment */
	function placeOf({ distance }) {
		if (!here || !distance || (distance === "far") === here[1] > 0) return here;
		return distance === "far" ? places[places.length - 1] : places[0];
	}

	/**
	 * Other ports are other origins: what has been measured goes along in the fragment, which is not sent.
	 * @param {string} id of an experiment to open there
	 */
	const fragment = (id = "") =>
		`#${new URLSearchParams({ experiment: id, ...(results.length && { results: JSON.stringify(results) }) })}`;

	/** @param {Place} place @param {string} id */
	function goTo([, , url], id) {
		location.href = api.linkTo(url + location.search) + fragment(id);
	}

	/** Take along what was measured at another port, or before the page was loaded again. */
	function readFragment() {
		const given = new URLSearchParams(location.hash.slice(1));
		try {
			const kept = given.has("results") ? JSON.parse(given.get("results") ?? "") : history.state?.results;
			results = (kept ?? []).filter(isResult);
		} catch {
			// The link is not one of ours; there is nothing to keep.
		}
		keep();
		const id = given.get("experiment");
		if (id) api.start(id);
	}

	/** Remember the results for when the page is loaded again. */
	function keep() {
		results = results.slice(-KEPT);
		button("results").hidden = !results.length;
		const url = location.hash.includes("experiment=") ? location.pathname + location.search : "";
		history.replaceState({ ...history.state, results }, "", url || location.href);
	}

	// The question.

	/** @param {Experiment} experiment */
	function open(experiment) {
		chosen = experiment;
		isForAll = false;
		predicted = null;
		ended = "";
		panel.hidden = false;
		part("result").hidden = true;
		for (const each of group.querySelectorAll("button")) each.ariaPressed = String(each.value === experiment.id);
		write(part("title"), experiment.title);
		write(part("question"), experiment.question);
		prediction.replaceChildren(...questionOf(experiment));
		showReason();
		panel.scrollIntoView({ block: "nearest" });
		if (!dialog.open) prediction.querySelector("input")?.focus({ preventScroll: true });
	}

	/** The lanes of this page that an experiment is about. @param {Experiment} experiment */
	const lanesOf = ({ lanes: names }) => lanes.filter(({ transport }) => !names || names.includes(transport));

	/** @param {Experiment} experiment */
	function questionOf(experiment) {
		const { predict, show } = experiment;
		if ("lanes" in predict) {
			const choices = [...lanesOf(experiment).map(({ transport, name }) => [transport, name]), ["same", predict.same]];
			return choices.map(([value, text]) => {
				const input = Object.assign(document.createElement("input"), { type: "radio", name: "choice", value });
				return labelled(text, input);
			});
		}
		const { min, max, step } = predict;
		const input = Object.assign(document.createElement("input"), { type: "range", min, max, step });
		input.valueAsNumber = (min + max) / 2;
		input.ariaLabel = "Your prediction";
		const output = document.createElement("output");
		output.value = "move it: your prediction";
		input.addEventListener("input", () => {
			output.value = show(input.valueAsNumber);
			input.setAttribute("aria-valuetext", output.value);
		});
		return [input, output];
	}

	/** @param {string} text @param {HTMLInputElement} input */
	function labelled(text, input) {
		const label = document.createElement("label");
		label.append(input, ` ${text}`);
		return label;
	}

	/** Why the chosen experiment can never be run here, in words. */
	function obstacle() {
		if (!chosen) return "";
		if (chosen.counted && !isCounted)
			return "This server does not count bytes, and cannot cut lanes: start serve.py for this experiment.";
		if (chosen.distance === "far" && !here)
			return "There is no port that is far away: start serve.py with --far 200, and open its own address.";
		if (chosen.about && chosen.lanes?.length !== 0 && !lanes.some(({ transport }) => transport === chosen?.about))
			return "This page does not show the lane that the question is about: open it with all four.";
		if ("lanes" in chosen.predict && lanesOf(chosen).length === 1)
			return "This page does not show the lanes that the question is about: open it with all four.";
		if (paces && !paces.length) return "The data has no pace that can be set: start serve.py with another --source.";
		return "";
	}

	/** Why it cannot be run just now. */
	function reason() {
		if (!chosen || obstacle() || maySteer || !pace || pace === chosen.pace) return obstacle();
		return `The data changes at “${pace}”; this experiment needs “${chosen.pace}”. The teacher sets the pace.`;
	}

	function showReason() {
		if (!chosen || run) return;
		const why = reason();
		write(part("status"), why || ended);
		button("run").disabled = !paces || Boolean(why) || predicted === null;
		button("start-for-all").hidden = !api.onStartForAll;
		button("start-for-all").disabled = Boolean(obstacle());
		write(button("end"), "Close");
	}

	prediction.addEventListener("input", ({ target }) => {
		const input = /** @type {HTMLInputElement} */ (target);
		predicted = input.type === "range" ? input.valueAsNumber : input.value;
		showReason();
	});

	// The run.

	/** @param {Experiment} experiment @param {number} age in seconds */
	async function runForAll(experiment, age) {
		isForAll = true;
		const controller = begin();
		write(part("status"), `Predict now: it runs for all in ${PREDICTING} seconds.`);
		try {
			if (age < PREDICTING) await pass(PREDICTING - age, PREDICTING, age, controller.signal);
		} catch {
			return; // it was stopped
		}
		runNow(experiment, Math.max(0, age - PREDICTING), controller);
	}

	function begin() {
		run = new AbortController();
		button("run").disabled = button("start-for-all").disabled = true;
		write(button("end"), "Stop");
		bar.hidden = false;
		bar.value = 0;
		return run;
	}

	/**
	 * @param {Experiment} experiment
	 * @param {number} late seconds of it that have passed already
	 */
	async function runNow(experiment, late = 0, controller = begin()) {
		const { signal } = controller;
		restore = prepare(experiment);
		panel.dataset.running = "";
		part("result").hidden = true;
		write(part("status"), "It runs.");
		// What is disabled lets go of the focus. A button would take the space bar.
		if (panel.contains(document.activeElement)) part("status").focus({ preventScroll: true });
		for (const input of prediction.querySelectorAll("input")) input.disabled = true;
		const total = experiment.phases.reduce((sum, { seconds }) => sum + seconds, 0);
		let passed = 0;
		try {
			if (obstacle()) throw new Error(obstacle());
			borrowed = experiment.pace;
			borrow();
			await until(() => pace === experiment.pace, reason() || "The pace was not set.", signal);
			const phases = [];
			for (const phase of experiment.phases) {
				const left = phase.seconds - Math.max(0, late - passed);
				const run = phase.tabs ? runTabs : runPhase;
				if (left > 0) phases.push(await run(experiment, phase, left, { total, passed, signal }));
				passed += phase.seconds;
			}
			const result = resultOf(experiment, phases);
			stop("");
			results.push(result);
			keep();
			show(experiment, result);
			api.onFinished(result);
		} catch (error) {
			if (signal.aborted) return; // and it was said why
			stop(/** @type {Error} */ (error).message);
		}
	}

	/** Remember how everything is; return what puts it back. @param {Experiment} experiment */
	function prepare(experiment) {
		const before = lanes.map(({ isEnabled, carries, period }) => ({ isEnabled, carries, period }));
		// What a slow screen or a cut has done must not count afterwards.
		const isSpecial = experiment.phases.some(({ cut, showTime }) => cut || showTime);
		clearTimeout(givingBack);
		for (const lane of lanes) lane.setPeriod();
		return () => {
			lanes.forEach((lane, index) => {
				const { isEnabled, carries, period } = before[index];
				lane.setShowTime(0);
				lane.setPeriod(period);
				if (isSpecial || carries !== lane.carries) {
					lane.setCarry(carries);
					lane.measureAnew();
				}
				if (isEnabled !== lane.isEnabled) lane.setEnabled(isEnabled);
			});
			// Other pages may still be measuring.
			if (isForAll) givingBack = setTimeout(giveBack, GRACE);
			else giveBack();
		};
	}

	function borrow() {
		if (borrowed && maySteer) send({ do: "borrow", pace: borrowed });
	}

	function giveBack() {
		if (borrowed) send({ do: "give_back" }); // also what was borrowed before another page became the teacher's
		borrowed = "";
	}

	/** End the run, if there is one, and say why. @param {string} why */
	function stop(why) {
		if (!run) return;
		run.abort(new Error(why));
		run = null;
		delete panel.dataset.running;
		restore();
		restore = () => {};
		bar.hidden = true;
		for (const input of prediction.querySelectorAll("input")) input.disabled = false;
		ended = why;
		showReason();
	}

	function close() {
		chosen = null;
		panel.hidden = true;
		const opener = /** @type {HTMLElement | null} */ (group.querySelector("[aria-pressed=true]"));
		if (opener) opener.ariaPressed = "false";
		if (panel.contains(document.activeElement) || document.activeElement === document.body) opener?.focus();
	}

	/**
	 * @typedef {object} Progress
	 * @property {number} total seconds
	 * @property {number} passed before this phase
	 * @property {AbortSignal} signal
	 */

	/**
	 * @param {Experiment} experiment
	 * @param {Phase} phase
	 * @param {number} seconds
	 * @param {Progress} progress
	 * @returns {Promise<Measured>}
	 */
	async function runPhase(experiment, { carry, cut, showTime = 0 }, seconds, { total, passed, signal }) {
		const using = lanesOf(experiment);
		const areLive = () => using.every(({ isLive }) => isLive);
		for (const lane of using) {
			lane.setCarry(carry);
			lane.setShowTime(showTime);
			lane.measureAnew();
		}
		for (const lane of lanes) lane.setEnabled(using.includes(lane));
		await until(areLive, "Not every lane could connect.", signal);
		await pause(SETTLING, signal);
		await report(signal);
		const before = using.map(countersOf);
		/** @type {number[][]} */
		const ages = using.map(() => []);
		const sampling = setInterval(() => using.forEach((lane, index) => ages[index].push(lane.age)), TICK);
		let cutAt = Infinity;
		try {
			const first = Math.min(cut ?? 0, seconds);
			await pass(first, total, passed, signal);
			if (cut) {
				cutAt = browserNow();
				for (const lane of using) lane.cut();
			}
			await pass(seconds - first, total, passed + first, signal);
		} finally {
			clearInterval(sampling);
		}
		await until(areLive, "Not every lane came back.", signal);
		await report(signal);
		const measured = using.map((lane, index) => [
			lane.transport,
			figuresOf(lane, before[index], { age: percentile(ages[index], 0.5), cutAt }),
		]);
		return { carry, seconds, lanes: Object.fromEntries(measured) };
	}

	/**
	 * Open the connections of ten tabs, while the lanes hold none, and count those that get news.
	 * @param {Experiment} _experiment
	 * @param {Phase} phase
	 * @param {number} seconds
	 * @param {Progress} progress
	 * @returns {Promise<Measured>}
	 */
	async function runTabs(_experiment, { carry, tabs = "sse" }, seconds, { total, passed, signal }) {
		for (const lane of lanes) lane.setEnabled(false);
		const url = `${root}/update?carry=${Number(carry)}&after=${find("[data-truth]").dataset.cursor}`;
		const connect = () => (tabs === "sse" ? new EventSource(url) : new WebSocket(url));
		const connections = Array.from({ length: TABS }, connect);
		const received = new Set();
		for (const connection of connections) connection.onmessage = () => received.add(connection);
		try {
			await pass(seconds, total, passed, signal);
		} finally {
			for (const connection of connections) connection.close();
		}
		/** @type {Figures} */
		const nothing = { n: 0, p50: null, p95: null, bytes: null, requests: null, seen: 0, coalesced: 0,
			lost: 0, age: null, back: null, received: null };
		return { carry, seconds, lanes: { [tabs]: { ...nothing, n: received.size, received: received.size } } };
	}

	/** Let so many seconds pass. @param {number} seconds @param {number} total @param {number} passed @param {AbortSignal} signal */
	async function pass(seconds, total, passed, signal) {
		const begun = performance.now();
		bar.max = total;
		const elapsed = () => (performance.now() - begun) / 1000;
		do {
			bar.value = passed + Math.min(elapsed(), seconds);
			await pause(Math.min(TICK, Math.max(0, seconds - elapsed()) * 1000), signal);
		} while (elapsed() < seconds);
	}

	/** Wait for something that must happen. @param {() => boolean} condition @param {string} why it could not @param {AbortSignal} signal */
	async function until(condition, why, signal) {
		const deadline = performance.now() + TIMEOUT;
		while (!condition()) {
			if (performance.now() > deadline) throw new Error(why);
			await pause(TICK, signal);
		}
	}

	/** Wait for the server's next report. @param {AbortSignal} signal */
	async function report(signal) {
		let has = false;
		waiting.add(() => (has = true));
		await until(() => has, "The instruments do not report.", signal);
	}

	/** @param {Experiment} experiment @param {Measured[]} phases @returns {Result} */
	function resultOf({ id, pace, measure, predict, about }, phases) {
		const bars = measure(phases, oneWay());
		const value = "apart" in predict
			? smallest(bars, predict.apart)
			: bars.find(({ lane }) => lane === about)?.number ?? null;
		return {
			experiment: id,
			at: new Date().toISOString(),
			distance: here ? here[1] : null,
			pace,
			oneWay: oneWay(),
			prediction: predicted,
			value,
			phases,
			lanes: phases[phases.length - 1]?.lanes ?? {},
		};
	}

	// The result.

	/** A number in the unit of the experiment, or the name of a lane. @param {Experiment} experiment @param {string | number | null} value */
	function inWords({ show, predict }, value) {
		if (value === null) return "–";
		if (typeof value === "number") return show(value);
		if (value === "same" && "lanes" in predict) return predict.same;
		return lanes.find(({ transport }) => transport === value)?.name ?? value;
	}

	/** @param {Experiment} experiment @param {Result} result */
	function show(experiment, result) {
		const { phases, prediction, value, oneWay } = result;
		const { columns = [], link, predict } = experiment;
		part("result").hidden = false;
		write(part("prediction"), `You predicted: ${inWords(experiment, prediction)}.`);
		write(part("measured"), `Measured: ${inWords(experiment, value)}.`);
		write(part("explanation"), experiment.explain(result));
		/** @type {HTMLAnchorElement} */ (part("link")).href = `${root}/docs/${link}`;
		const table = /** @type {HTMLTableElement} */ (find("table", element));
		const bars = experiment.measure(phases, oneWay);
		const most = Math.max(...bars.map(({ number }) => number ?? 0), "max" in predict ? Number(prediction) : 0);
		const [head] = table.tHead?.rows ?? [];
		const heads = ["lane", "measured", ...columns.map((name) => COLUMNS[name])].map((text) => cell(text, "th"));
		heads[1].colSpan = 2;
		head.replaceChildren(...heads);
		table.tBodies[0].replaceChildren(
			...bars.map(({ lane, note, number, figures }) => {
				const row = document.createElement("tr");
				const name = lanes.find(({ transport }) => transport === lane)?.name ?? lane;
				row.className = lane;
				const picture = cell("");
				const width = (/** @type {unknown} */ part) => `${(100 * Number(part ?? 0)) / (most || 1)}%`;
				const mark = "max" in predict && number === value ? `<line x1="${width(prediction)}" x2="${width(prediction)}" y2="100%"/>` : "";
				picture.innerHTML = `<svg width="100%" overflow="visible" aria-hidden="true"><rect height="100%" width="${width(number)}"/>${mark}</svg>`;
				row.append(cell(note ? `${name}, ${note}` : name, "th"), picture);
				row.append(cell(number === null ? "–" : experiment.show(number)));
				row.append(...columns.map((name) => cell(String(figures[name] ?? "–"))));
				return row;
			}),
		);
		if (document.activeElement === document.body || panel.contains(document.activeElement))
			part("result").focus({ preventScroll: true });
		panel.scrollIntoView({ block: "nearest" });
	}

	/** @param {string} text @param {"td" | "th"} kind */
	function cell(text, kind = "td") {
		return Object.assign(/** @type {HTMLTableCellElement} */ (document.createElement(kind)), { textContent: text });
	}

	// Buttons and keys.

	/** Open a question, but not while something runs: a slip must not end it. @param {string} id */
	function choose(id) {
		api.onChosen();
		if (run) write(part("status"), "It runs. Stop or Escape ends it.");
		else api.start(id);
	}

	group.append(
		...experiments.map(({ id, name }, index) => {
			const each = Object.assign(document.createElement("button"), { type: "button", value: id });
			each.dataset.action = "experiment";
			each.textContent = `${index + 1} ${name}`;
			each.ariaPressed = "false";
			each.addEventListener("click", () => choose(id));
			return each;
		}),
	);
	form.addEventListener("submit", (event) => {
		event.preventDefault();
		if (chosen && !button("run").disabled) runNow(chosen);
	});
	const endOrClose = () => (run ? stop("It was stopped: nothing is measured.") : close());
	button("end").addEventListener("click", endOrClose);
	button("start-for-all").addEventListener("click", () => chosen && api.onStartForAll?.(chosen.id));

	document.addEventListener("keydown", (event) => {
		const { key, target } = event;
		const isOn = /** @type {HTMLInputElement} */ (find("[type=checkbox]", element)).checked;
		const isForUs = isOn && !event.defaultPrevented && !event.altKey && !event.ctrlKey && !event.metaKey;
		if (!isForUs || !(target instanceof Element) || document.querySelector("dialog[open]")) return;
		const isTyped = target.closest("input:not([type=range], [type=radio], [type=checkbox]), select, textarea");
		const has = (/** @type {string} */ selector) => Boolean(target.closest(selector));
		if (isTyped) return;
		if (/^[1-9]$/.test(key) && experiments[Number(key) - 1]) choose(experiments[Number(key) - 1].id);
		else if (key === "Escape" && chosen) endOrClose();
		// A button, a box that scrolls, and a choice not made yet have the space bar for themselves.
		else if (key === " " && !has("button, a, summary, [tabindex='0'], [type=checkbox], [type=radio]:not(:checked)")) {
			if (chosen && !button("run").disabled && has(".prediction")) runNow(chosen);
			else hold();
		} else return;
		event.preventDefault();
	});

	// What has been measured goes along to the page at another distance.
	document.addEventListener("click", ({ target }) => {
		const link = target instanceof Element && target.closest("[aria-label=Distance] a, .lesson a, [aria-label=Size] a");
		if (link instanceof HTMLAnchorElement && results.length) link.hash = fragment();
	});
	const hide = () => {
		stop(HIDDEN);
		clearTimeout(givingBack);
		giveBack(); // without GRACE, as the connection ends: else it would be borrowed again over the next one
	};
	document.addEventListener("visibilitychange", () => document.hidden && hide());
	addEventListener("pagehide", hide);

	// What is handed in.

	button("results").addEventListener("click", () => {
		const number = new Set(results.map(({ experiment }) => experiment)).size;
		write(find("[data-part=summary]", dialog), `Experiments measured: ${number} of ${experiments.length}. Runs: ${results.length}.`);
		dialog.showModal();
	});
	/** @type {[string, typeof asHtml, string][]} */
	const kinds = [["html", asHtml, "text/html"], ["csv", asCsv, "text/csv"]];
	for (const [ending, write, type] of kinds) {
		find(`[data-action=save-${ending}]`, dialog).addEventListener("click", () => {
			const name = /** @type {HTMLInputElement} */ (find("[name=name]", dialog)).value;
			save(write(results, name, inWords), `pushlab-results.${ending}`, type);
		});
	}

	readFragment();
	return api;
}

/** Whether this is a result: a link may have been written by hand. @param {any} it */
function isResult(it) {
	const isFigure = (/** @type {unknown} */ figure) => figure === null || typeof figure === "number";
	const isValue = (/** @type {unknown} */ value) => isFigure(value) || typeof value === "string";
	const areLanes = (/** @type {any} */ lanes) =>
		lanes && Object.values(lanes).every((lane) => lane && Object.values(lane).every(isFigure));
	return (
		experiments.some(({ id }) => id === it?.experiment) &&
		[it.prediction, it.value, it.at, it.pace].every(isValue) &&
		[it.distance, it.oneWay].every(isFigure) &&
		Array.isArray(it.phases) &&
		it.phases.every((/** @type {any} */ phase) => isFigure(phase?.seconds) && areLanes(phase.lanes))
	);
}

/** The lane with the smallest number, or "same" if another is not further apart. @param {Bar[]} bars @param {number} apart */
function smallest(bars, apart) {
	const known = bars.filter(({ number }) => number !== null);
	const [first, second] = known.sort((a, b) => Number(a.number) - Number(b.number));
	if (!first || !second) return null;
	return Number(second.number) - Number(first.number) <= apart ? "same" : first.lane;
}

/** Rejects when the signal aborts. @param {number} wait @param {AbortSignal} signal */
function pause(wait, signal) {
	return new Promise((resolve, reject) => {
		const timer = setTimeout(resolve, wait, undefined);
		signal.addEventListener("abort", () => {
			clearTimeout(timer);
			reject(signal.reason);
		}, { once: true });
		if (signal.aborted) reject(signal.reason);
	});
}

/** To hundredths, as it may have to fit into a URL. @param {number | null | undefined} number */
const rounded = (number) => (number == null ? null : Math.round(number * 100) / 100);

/** What only grows, so that a phase has the difference. @param {Lane} lane */
function countersOf({ measured }) {
	const { seen, coalesced, lost, cost, shownAt } = measured;
	const { requests = NaN, up = NaN, down = NaN } = cost;
	return { seen, coalesced, lost, requests, bytes: up + down, shown: shownAt.length };
}

/**
 * @param {Lane} lane
 * @param {ReturnType<typeof countersOf>} before
 * @param {{ age: number | undefined, cutAt: number }} more
 * @returns {Figures}
 */
function figuresOf(lane, before, { age, cutAt }) {
	const now = countersOf(lane);
	const latencies = lane.measured.latencies.slice(before.shown);
	const counted = (/** @type {"requests" | "bytes"} */ name) => {
		const difference = now[name] - before[name];
		return Number.isNaN(difference) ? null : difference;
	};
	return {
		n: latencies.length,
		p50: rounded(percentile(latencies, 0.5)),
		p95: rounded(percentile(latencies, 0.95)),
		bytes: counted("bytes"),
		requests: counted("requests"),
		seen: now.seen - before.seen,
		coalesced: now.coalesced - before.coalesced,
		lost: now.lost - before.lost,
		age: rounded(age),
		back: rounded(backAfter(lane.measured.shownAt, cutAt)),
		received: null,
	};
}

/** How long after the cut the first reading came: it ends the longest time without one. @param {number[]} shownAt @param {number} cutAt */
function backAfter(shownAt, cutAt) {
	let [longest, end] = [0, /** @type {number | null} */ (null)];
	shownAt.forEach((shown, index) => {
		const gap = shown - (shownAt[index - 1] ?? shown);
		if (shown > cutAt && gap > longest) [longest, end] = [gap, shown];
	});
	return end && end - cutAt;
}
