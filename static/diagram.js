/** The space-time diagram of a lane: every message a stroke from when it left to when it arrived. */

import { write } from "./card.js";
import { oneWay, toBrowser } from "./clock.js";
import { localTime } from "./reading.js";
import { duration, size } from "./units.js";

const SIGHT = 10_000; // milliseconds, as all of these: the time in sight
const STEP = 1000; // from one tidying up to the next
const WAIT = 30; // a request that waits for longer is held
const REACH = 8; // pixels, as all of these: how close to a stroke one points at it
const APART = 9; // closer, an ask and its answer would hide each other
const WIDTHS = { dot: [9], empty: [2, 3.2], ask: [2.2, 3.4], signal: [2.8, 4.2], reading: [4, 5.4] }; // head / 2
const ROWS = 12;

export function makeDiagram(root) {
	const drawn = new Map(); // strokes by record
	let latest = []; // records, newest first, for the table
	let chosen = null; // a stroke,
	let isAloud = false; // and whether by keyboard
	let isHeld = false;
	let present = 0; // by the browser's clock
	let shown = 0; // the time at the right edge
	let origin = 0; // the time at x = 0: it follows, or coordinates would be coarse
	let tidied = 0;
	let [width, height] = [0, 0]; // not measured yet

	const find = (selector) => root.querySelector(selector);
	const svg = find("svg");
	const picture = find(".picture");
	const field = find(".field");

	/** Draw a record, or draw it again when more is known of it. */
	function wire(record) {
		const strokes = drawn.get(record) ?? [];
		drawn.set(record, strokes);
		if (record.what && !strokes.length) latest = [record, ...latest.slice(0, ROWS - 1)];
		strokesOf(record, present).forEach((news, index) => {
			if (!strokes[index]) {
				svg.insertAdjacentHTML("beforeend", `<g><path class="bar"/><path/></g>`);
				strokes[index] = { shape: svg.lastChild };
			}
			layOut(Object.assign(strokes[index], news));
		});
	}

	/** Let time pass: all that moves is the layer. */
	function draw(now) {
		present = now;
		if (!isHeld) shown = now;
		if (Math.abs(now - tidied) >= STEP) tidy();
		svg.style.transform = `translateX(${left()}px)`;
	}

	function hold(held) {
		isHeld = held;
		root.toggleAttribute("data-held", held);
		find(".now").textContent = held ? "held" : "now";
		say();
	}

	const xOf = (time) => ((time - origin) * width) / SIGHT;

	const left = () => width - xOf(shown);

	function layOutAll() {
		if (!isHeld) origin = shown;
		for (const record of drawn.keys()) wire(record);
		say();
	}

	function layOut(stroke) {
		if (!width || !height) return;
		const { from, to, until, up, held, failed, weight, together, shape } = stroke;
		const scale = Math.max(0.8, Math.min(height / 76, width / 480));
		const [line, head] = WIDTHS[weight].map((pixels) => pixels * scale);
		const room = together ? (together * width) / SIGHT : Infinity;
		const aside = (Math.max(0, APART * scale - room) / 2) * (up ? -1 : 1);
		const [x1, x2, end] = [xOf(from) + aside, xOf(to) + aside, xOf(until)];
		const [y1, y2] = up ? [height, 2] : [0, height - 2];
		Object.assign(stroke, { x1, x2, y1, y2, end });
		const neck = (2.5 * head) / height;
		const [x, y] = [x2 - (x2 - x1) * neck, y2 - (y2 - y1) * neck];
		let path = head ? `M${x1} ${y1}L${x} ${y}M${x2} ${y2}L${x - head} ${y}h${2 * head}z` : `M${x1} 0h0`;
		if (failed) path += `M${end - 7}-7l14 14m0-14l-14 14`;
		const set = (part, d, width) => {
			part.setAttribute("d", d);
			part.setAttribute("stroke-width", width);
		};
		set(shape.firstChild, held ? `M${x2 - aside} 0H${end}` : "", WIDTHS.dot * scale);
		set(shape.lastChild, path, line);
		shape.setAttribute("class", list(" ", weight, failed && "failed", stroke === chosen && "chosen"));
	}

	function tidy() {
		tidied = present;
		for (const [record, strokes] of drawn) {
			const [from, until] = [strokes[0].from, strokes.at(-1).until + STEP];
			const isShown = from < shown && until > shown - SIGHT;
			if (isShown || until > present - SIGHT) continue; // or it will be, when no longer held
			for (const { shape } of strokes) shape.remove();
			if (strokes.includes(chosen)) choose(null);
			drawn.delete(record);
		}
		layOutAll(); // the clocks are known better by now, and what waits has grown
		if (isHeld || find("table").contains(getSelection().anchorNode)) return;
		const body = find("tbody");
		const strokes = latest.flatMap((record) => strokesOf(record, present).reverse());
		strokes.slice(0, ROWS).forEach(({ from, what, news, bytes, took, after }, index) => {
			const row = body.rows[index] ?? body.insertRow();
			const texts = [localTime(new Date(from)), list(": ", what, news, after), bytes, took || "…"];
			texts.forEach((text, column) => write(row.cells[column] ?? row.insertCell(), text));
		});
	}

	/** Newest first. */
	function inSight() {
		const strokes = [...drawn.values()].flat().reverse();
		return strokes.filter(({ what, from, until }) => what && from < shown && until > shown - SIGHT);
	}

	/** Choose a stroke so many further into the past. */
	function walk(steps) {
		const strokes = inSight();
		const stroke = strokes[Math.max(0, strokes.indexOf(chosen) + steps)];
		if (stroke) choose(stroke, true);
	}

	function point({ offsetX, offsetY }) {
		const [x, y] = [offsetX - left(), offsetY - field.offsetTop];
		let nearest = null;
		let reach = REACH;
		for (const stroke of inSight()) {
			const { x1, y1, x2, y2, end, held } = stroke;
			// Strokes are steep: beside is near enough to the nearest point.
			let distance = Math.abs(x1 + ((y - y1) / (y2 - y1)) * (x2 - x1) - x);
			if (held && x > x2 && x < end) distance = Math.min(distance, Math.abs(y));
			if (distance < reach) [nearest, reach] = [stroke, distance];
		}
		choose(nearest);
	}

	function choose(stroke, aloud = false) {
		const both = [chosen, stroke].filter(Boolean);
		[chosen, isAloud] = [stroke, aloud];
		both.forEach(layOut);
		say();
	}

	/** Only what is chosen by keyboard is spoken: who hovers can see. */
	function say() {
		const { what, news, bytes, took, after } = chosen ?? {};
		const hint = isHeld ? "held: a click, or Space, lets it run" : root.dataset.hint;
		const text = what ? `${what}: ${list(", ", news, bytes, took, after)}` : hint;
		const [seen, spoken] = find(".words").children;
		write(seen, isAloud ? "" : text);
		write(spoken, isAloud ? text : "");
	}

	const on = (type, listener) => picture.addEventListener(type, listener);
	on("pointermove", point);
	on("pointerdown", point);
	// A finger that is lifted is still interested; a mouse that leaves is not.
	on("pointerleave", ({ pointerType }) => pointerType === "mouse" && choose(null));
	on("blur", () => choose(null));
	const keys = {
		" ": () => picture.click(), // the page hears it, and holds all lanes
		Escape: () => choose(null),
		ArrowLeft: () => walk(1),
		ArrowRight: () => walk(-1),
	};
	on("keydown", (event) => {
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

/** A record as strokes, by this clock, and in words. */
function strokesOf(record, now) {
	const { kind, what, sent, asked, answered, received, empty, brings, failed } = record;
	if (kind === "change") return [{ from: toBrowser(record.at), until: toBrowser(record.at), weight: "dot" }];

	const here = (time, estimate, earliest = 0) =>
		Math.max(earliest, Math.min(time == null ? estimate : toBrowser(time), received ?? Infinity));
	const together = received && received - sent;
	const come = (what, from, isKnown) => ({
		...{ what, from, to: received, until: received, together, weight: empty ? "empty" : brings ?? "ask" },
		...{ news: empty ? "nothing new" : brings && `a ${brings}`, bytes: bytes(record.down) },
		took: isKnown && duration(received - from),
	});
	if (kind === "message") return [come(what, here(record.left), true)];

	const since = here(asked, sent + oneWay(), sent);
	// What is held still is drawn until later than now, which is out of sight.
	const until = here(answered, received ? received - oneWay() : now + 2 * SIGHT, since);
	const held = until - since > WAIT;
	const go = {
		...{ what, from: sent, to: since, until, together, held, failed, up: true, weight: empty ? "empty" : "ask" },
		...{ bytes: bytes(record.up, " up"), took: asked && duration(since - sent) },
		after: held && `held ${duration(until - since)}`,
	};
	if (failed || !received) return [{ ...go, after: failed ? "cut off" : "no answer yet" }];
	return [go, come(`answer to ${what}`, until, answered)];
}

const bytes = (count, way = "") => (count == null ? "bytes follow" : size(count) + way);
const list = (separator, ...parts) => parts.filter(Boolean).join(separator);
