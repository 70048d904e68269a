// @ts-check
/** The verdict: what the lanes have measured, like compared with like, in a few sentences. */

import { ENOUGH } from "./measurement.js";
import { duration } from "./units.js";

const SAME_TIME = 2; // milliseconds
const POLLS = ["longpoll", "poll"]; // the transports that push are compared with these, in this order
const MEASURING = "Measuring: the verdict comes after three updates.";
const HINT = "Switch a lane to “signal, then fetch” to measure what carrying the data saves.";

/**
 * @typedef {object} Measured
 * @property {number[]} latencies
 * @property {number} seen
 * @property {{ requests?: number }} cost
 * @property {Set<string>} paces
 * @property {number | null} bytesPerUpdate null where bytes are not counted
 * @property {(q: number) => number | undefined} percentile
 */
/**
 * @typedef {object} MeasuredLane
 * @property {string} transport
 * @property {string} name
 * @property {boolean} carries
 * @property {Map<boolean, Measured>} measurements the last with each payload, by whether it carries
 */

/** @typedef {{ p50: number, bytes: number | null, paces: string }} Figures */

/**
 * @param {HTMLElement} element
 * @param {MeasuredLane[]} lanes
 */
export function showVerdict(element, lanes) {
	const known = lanes.filter((lane) => figuresOf(lane));
	const pair = choosePair(known);
	const poll = known.find(({ transport }) => transport === "poll");
	const sentences = [pair ? compare(...pair) : lanes.length > 1 ? MEASURING : ""];
	if (poll) sentences.push(requestsOf(poll));
	if (pair && (isAlike(pair) || !pivotOf(...pair))) sentences.push(saving([pair[1], pair[0], ...lanes]));
	const html = sentences.filter(Boolean).join(" ");
	if (element.innerHTML !== html) element.innerHTML = html;
}

/**
 * What a lane has measured with this payload; undefined after too few updates.
 * @param {MeasuredLane} lane
 * @returns {Figures | undefined}
 */
function figuresOf(lane, carries = lane.carries) {
	const measured = lane.measurements.get(carries);
	if (!measured || measured.latencies.length < ENOUGH) return undefined;
	const { bytesPerUpdate: bytes, paces } = measured;
	return { p50: measured.percentile(0.5) ?? 0, bytes, paces: [...paces].sort().join() };
}

/** Whether the data changed at the same paces while these were measured. @param {(Figures | undefined)[]} all */
const samePaces = (...all) => new Set(all.map((figures) => figures?.paces)).size === 1;

/**
 * A lane that pushes, else long polling, and another one; two that can be compared if there are any.
 * @param {MeasuredLane[]} known
 * @returns {[MeasuredLane, MeasuredLane] | undefined}
 */
function choosePair(known) {
	const pushing = known.filter(({ transport }) => !POLLS.includes(transport)).reverse();
	const polling = POLLS.flatMap((name) => known.filter(({ transport }) => transport === name));
	/** @type {[MeasuredLane, MeasuredLane][]} */
	const pairs = [];
	pushing.forEach((one, i) => {
		for (const other of [...polling, ...pushing.slice(i + 1)]) pairs.push([one, other]);
	});
	if (polling.length > 1) pairs.push([polling[0], polling[1]]);
	return pairs.find((pair) => isAlike(pair) || pivotOf(...pair)) ?? pairs[0];
}

const isAlike = (/** @type {MeasuredLane[]} */ [one, other]) =>
	one.carries === other.carries && samePaces(figuresOf(one), figuresOf(other));

/**
 * Of two lanes with different payloads, the one that has measured that of the other, too.
 * @param {MeasuredLane} one
 * @param {MeasuredLane} other
 */
const pivotOf = (one, other) =>
	[other, one].find((lane) => samePaces(figuresOf(one), figuresOf(other), figuresOf(lane, !lane.carries)));

/**
 * @param {MeasuredLane} one
 * @param {MeasuredLane} other
 */
function compare(one, other) {
	if (one.carries !== other.carries) return decompose(one, other);
	const [a, b] = [/** @type {Figures} */ (figuresOf(one)), /** @type {Figures} */ (figuresOf(other))];
	const both = one.carries ? "Both carry the data" : "Both only signal";
	const lanes = `${hue(one)} and ${hue(other, inSentence(other))}`;
	if (!samePaces(a, b)) return `${lanes} were measured at different paces: reload the page to compare them.`;
	const cost = a.bytes && b.bytes && ` and used <strong>${count(a.bytes)} bytes</strong> per update against ${count(b.bytes)}`;
	return `${both}: ${speedOf(one, other, a, b)}${cost || ""}.`;
}

/**
 * Say how much of the difference is the payload's, and how much the transport's.
 * @param {MeasuredLane} one
 * @param {MeasuredLane} other
 */
function decompose(one, other) {
	const payload = (/** @type {MeasuredLane} */ { carries }) => (carries ? "carries the data" : "only signals");
	const both = `${hue(one)} ${payload(one)} and ${hue(other, inSentence(other))} ${payload(other)}`;
	const pivot = pivotOf(one, other);
	if (!pivot) return `${both}: switch both to the same payload to compare the transports.`;
	const [a, b] = [/** @type {Figures} */ (figuresOf(one)), /** @type {Figures} */ (figuresOf(other))];
	// On one side of it the transport is the same, on the other the payload.
	const between = /** @type {Figures} */ (figuresOf(pivot, !pivot.carries));
	const [payloads, transports] = pivot === other ? [effect(b, between), effect(between, a)] : [effect(between, a), effect(b, between)];
	return `${both}: ${speedOf(one, other, a, b)}. Its payload alone makes it ${payloads}; the transport alone makes it ${transports}.`;
}

/**
 * @param {MeasuredLane} one
 * @param {MeasuredLane} other
 * @param {Figures} a
 * @param {Figures} b
 */
function speedOf(one, other, a, b) {
	const sooner = b.p50 - a.p50;
	const than = `${faster(sooner, "as fast")}</strong> ${Math.abs(sooner) < SAME_TIME ? "as" : "than"}`;
	return `${hue(one)} was <strong>${than} ${hue(other, inSentence(other))}`;
}

/**
 * What carrying saves the first of these lanes that has measured both payloads.
 * @param {MeasuredLane[]} lanes
 */
function saving(lanes) {
	const [carry, signal, lane] =
		lanes
			.map((lane) => /** @type {const} */ ([figuresOf(lane, true), figuresOf(lane, false), lane]))
			.find(([carry, signal]) => carry && samePaces(carry, signal)) ?? [];
	if (!lane || !carry || !signal) return `<span class="hint">${HINT}</span>`;
	return `Carrying alone makes ${hue(lane, inSentence(lane))} ${effect(signal, carry)}.`;
}

/**
 * How much faster, and how many bytes less.
 * @param {Figures} before
 * @param {Figures} after
 */
function effect(before, after) {
	const fewer = before.bytes && after.bytes && before.bytes - after.bytes;
	const bytes = fewer && ` and takes <strong>${count(Math.abs(fewer))} bytes ${fewer > 0 ? "less" : "more"}</strong> per update`;
	return `<strong>${faster(before.p50 - after.p50, "no faster")}</strong>${bytes || ""}`;
}

/**
 * @param {number} sooner in milliseconds
 * @param {string} same what to say if nobody could see a difference
 */
const faster = (sooner, same) =>
	Math.abs(sooner) < SAME_TIME ? same : `${duration(Math.abs(sooner))} ${sooner > 0 ? "faster" : "slower"}`;

/** @param {MeasuredLane} lane */
function requestsOf(lane) {
	const { cost, seen } = /** @type {Measured} */ (lane.measurements.get(lane.carries));
	return cost.requests ? `${hue(lane)} sent <strong>${cost.requests} requests</strong> for ${seen} changes.` : "";
}

const count = (/** @type {number} */ bytes) => Math.round(bytes).toLocaleString("en-US");

/** A name within a sentence: long polling, but WebSocket. @param {MeasuredLane} lane */
const inSentence = ({ name }) => name.replace(/^[A-Z](?=[^A-Z]*$)/, (letter) => letter.toLowerCase());

/** @param {MeasuredLane} lane */
const hue = (lane, text = lane.name) => `<span class="hue ${lane.transport}">${text}</span>`;
