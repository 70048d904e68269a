// @ts-check
/** The space-time diagram of a lane: every message a stroke from when it was sent to its arrival. */

import { find, write } from "./dom.js";
import { localTime } from "./reading.js";
import { list, SPAN, strokesOf } from "./strokes.js";

/** @typedef {import("./strokes.js").WireRecord} WireRecord */
/**
 * A stroke that is drawn; its coordinates are in pixels of the layer that moves.
 * @typedef {import("./strokes.js").Stroke
 *   & { shape: Element, x1: number, x2: number, y1: number, y2: number, end: number }} Drawn
 */

const TIDY_EVERY = 1000; // milliseconds
const REACH = 8; // pixels, as all of these: how close to a stroke one points at it
const APART = 9; // closer, a request and its response would hide each other
const ROWS = 12;

/** Nothing hovers there. */
const touch = matchMedia("(pointer: coarse)");

/** The width of a stroke, and half of that of its head. @type {Record<string, number[]>} */
const WIDTHS = { dot: [9, 0], empty: [2, 3.2], request: [2.2, 3.4], signal: [2.8, 4.2], reading: [4, 5.4] };

/** @param {HTMLElement} root */
export function makeDiagram(root) {
	/** @type {Map<WireRecord, Drawn[]>} */
	const drawn = new Map();
	/** @type {Set<WireRecord>} that came since the last frame */
	const waiting = new Set();
	/** @type {WireRecord[]} newest first, for the table */
	let latest = [];
	/** @type {Drawn | null} */
	let chosen = null;
	let isSpoken = false; // chosen by keyboard
	let isHeld = false;
	let present = 0; // by the browser's clock
	let shown = 0; // the time at the right edge
	let origin = 0; // the time at x = 0: it follows, or coordinates would be coarse
	let tidied = 0;
	let [width, height] = [0, 0]; // not measured yet

	const svg = find("svg", root);
	const picture = find(".picture", root);
	const field = find(".field", root);
	const table = /** @type {HTMLTableElement} */ (find("table", root));

	/** Have a record drawn with the next frame, also again when more is known of it. @param {WireRecord} record */
	const wire = (record) => waiting.add(record);

	/** @param {WireRecord} record */
	function drawRecord(record) {
		const strokes = drawn.get(record) ?? [];
		drawn.set(record, strokes);
		if (record.what && !strokes.length) latest = [record, ...latest.slice(0, ROWS - 1)];
		strokesOf(record, present).forEach((stroke, index) => {
			if (!strokes[index]) {
				svg.insertAdjacentHTML("beforeend", `<g><path class="bar"/><path/></g>`);
				strokes[index] = /** @type {Drawn} */ ({ shape: svg.lastElementChild });
			}
			layOut(Object.assign(strokes[index], stroke));
		});
	}

	/** Let time pass: all that moves is the layer. @param {number} now */
	function draw(now) {
		present = now;
		if (!isHeld) shown = now;
		for (const record of waiting) drawRecord(record);
		waiting.clear();
		if (Math.abs(now - tidied) >= TIDY_EVERY) tidy();
		svg.style.transform = `translateX(${left()}px)`;
	}

	/** @param {boolean} held */
	function hold(held) {
		isHeld = held;
		root.toggleAttribute("data-held", held);
		find(".now", root).textContent = held ? "held" : "now";
		describe();
	}

	const xOf = (/** @type {number} */ time) => ((time - origin) * width) / SPAN;

	const left = () => width - xOf(shown);

	function layOutAll() {
		if (!isHeld) origin = shown;
		for (const record of drawn.keys()) drawRecord(record);
		describe();
	}

	/** @param {Drawn} stroke */
	function layOut(stroke) {
		if (!width || !height) return;
		const { from, to, until, up, held, failed, weight, together, shape } = stroke;
		const scale = Math.max(0.8, Math.min(height / 76, width / 480));
		const [thickness, head] = WIDTHS[weight].map((pixels) => pixels * scale);
		const room = together ? (together * width) / SPAN : Infinity;
		const aside = (Math.max(0, APART * scale - room) / 2) * (up ? -1 : 1);
		const [x1, x2, end] = [xOf(from) + aside, xOf(to) + aside, xOf(until)];
		const [y1, y2] = up ? [height, 2] : [0, height - 2];
		Object.assign(stroke, { x1, x2, y1, y2, end });
		const neck = (2.5 * head) / height;
		const [x, y] = [x2 - (x2 - x1) * neck, y2 - (y2 - y1) * neck];
		let path = head ? `M${x1} ${y1}L${x} ${y}M${x2} ${y2}L${x - head} ${y}h${2 * head}z` : `M${x1} 0h0`;
		if (failed) path += `M${end - 7}-7l14 14m0-14l-14 14`;
		const [bar, arrow] = shape.children;
		bar.setAttribute("d", held ? `M${x2 - aside} 0H${end}` : "");
		bar.setAttribute("stroke-width", String(WIDTHS.dot[0] * scale));
		arrow.setAttribute("d", path);
		arrow.setAttribute("stroke-width", String(thickness));
		shape.setAttribute("class", list(" ", weight, failed ? "failed" : "", stroke === chosen ? "chosen" : ""));
	}

	function tidy() {
		tidied = present;
		for (const [record, strokes] of drawn) {
			const [from, until] = [strokes[0].from, strokes[strokes.length - 1].until + TIDY_EVERY];
			const isShown = from < shown && until > shown - SPAN;
			if (isShown || until > present - SPAN) continue; // or it will be, when no longer held
			for (const { shape } of strokes) shape.remove();
			if (chosen && strokes.includes(chosen)) choose(null);
			drawn.delete(record);
		}
		layOutAll(); // the clocks are known better by now, and what is held has grown
		if (isHeld || table.contains(getSelection()?.anchorNode ?? null)) return;
		const [body] = table.tBodies;
		const strokes = latest.flatMap((record) => strokesOf(record, present).reverse());
		strokes.slice(0, ROWS).forEach(({ from, what, brings, bytes, took, note }, index) => {
			const row = body.rows[index] ?? body.insertRow();
			const texts = [localTime(new Date(from)), list(": ", what, brings, note), bytes, took || "…"];
			texts.forEach((text, column) => write(row.cells[column] ?? row.insertCell(), text));
		});
	}

	/** Newest first. */
	function inSight() {
		const strokes = [...drawn.values()].flat().reverse();
		return strokes.filter(({ what, from, until }) => what && from < shown && until > shown - SPAN);
	}

	/** Choose the stroke that is so many further in the past. @param {number} steps */
	function walk(steps) {
		const strokes = inSight();
		const stroke = strokes[Math.max(0, (chosen ? strokes.indexOf(chosen) : -1) + steps)];
		if (stroke) choose(stroke, true);
	}

	/** @param {PointerEvent} event */
	function point({ offsetX, offsetY }) {
		const [x, y] = [offsetX - left(), offsetY - field.offsetTop];
		let nearest = null;
		let reach = REACH;
		for (const stroke of inSight()) {
			const { x1, y1, x2, y2, end, held } = stroke;
			// Strokes are steep: the distance sideways is close enough to the shortest.
			let distance = Math.abs(x1 + ((y - y1) / (y2 - y1)) * (x2 - x1) - x);
			if (held && x > x2 && x < end) distance = Math.min(distance, Math.abs(y));
			if (distance < reach) [nearest, reach] = [stroke, distance];
		}
		choose(nearest);
	}

	/** @param {Drawn | null} stroke */
	function choose(stroke, spoken = false) {
		const before = chosen;
		[chosen, isSpoken] = [stroke, spoken];
		if (before) layOut(before);
		if (stroke) layOut(stroke);
		describe();
	}

	/** Only what is chosen by keyboard is spoken: a pointer's user can see. */
	function describe() {
		const { hint: hover = "", hintTouch = "" } = root.dataset;
		const [letRun, hint] = touch.matches ? ["a touch", hintTouch] : ["a click, or Space,", hover];
		const text = chosen
			? `${chosen.what}: ${list(", ", chosen.brings, chosen.bytes, chosen.took, chosen.note)}`
			: isHeld ? `held: ${letRun} lets it run` : hint;
		const [seen, spoken] = find(".words", root).children;
		write(seen, isSpoken ? "" : text);
		write(spoken, isSpoken ? text : "");
	}

	picture.addEventListener("pointermove", point);
	picture.addEventListener("pointerdown", point);
	// Lifting a finger keeps what it pointed at; a mouse that moves away does not.
	picture.addEventListener("pointerleave", ({ pointerType }) => {
		if (pointerType === "mouse") choose(null);
	});
	picture.addEventListener("blur", () => choose(null));
	/** @type {Record<string, () => void>} */
	const keys = {
		" ": () => picture.click(), // page.js then holds all lanes
		Escape: () => choose(null),
		ArrowLeft: () => walk(1),
		ArrowRight: () => walk(-1),
	};
	picture.addEventListener("keydown", (event) => {
		if (event.altKey || event.ctrlKey || event.metaKey || !keys[event.key]) return;
		event.preventDefault();
		keys[event.key]();
	});
	new ResizeObserver(([{ contentRect }]) => {
		({ width, height } = contentRect);
		layOutAll();
	}).observe(field);
	hold(false);
	return { wire, draw, hold };
}
