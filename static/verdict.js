/** The verdict: what the lanes have measured, compared in a sentence. */

import { duration, times } from "./units.js";

const ENOUGH = 3; // updates
const SAME_TIME = 2; // milliseconds
const SAME_SIZE = 1.05;

export function showVerdict(element, lanes) {
	const known = lanes.filter(({ measured }) => measured.latencies.length >= ENOUGH);
	const { poll, longpoll, sse, websocket } = Object.fromEntries(known.map((lane) => [lane.transport, lane]));
	const one = websocket ?? sse;
	const other = longpoll ?? poll ?? (websocket && sse);
	let html = one && other ? compare(one, other) : "Measuring: the verdict comes after three updates.";
	const { cost, seen } = poll?.measured ?? {};
	if (cost?.requests) html += ` ${name(poll)} asked <strong>${cost.requests} times</strong> to hear ${seen} changes.`;
	if (element.innerHTML !== html) element.innerHTML = html;
}

function compare(one, other) {
	const sooner = other.measured.percentile(0.5) - one.measured.percentile(0.5);
	const apart = `${duration(Math.abs(sooner))} ${sooner > 0 ? "sooner" : "later"}`;
	const [time, than] = Math.abs(sooner) < SAME_TIME ? ["as soon", "as"] : [apart, "than"];
	const factor = other.measured.bytesPerUpdate / one.measured.bytesPerUpdate;
	const most = Math.max(factor, 1 / factor);
	const much = most < 2 ? `${Math.round(100 * Math.abs(1 - 1 / factor))} %` : `${times(most)} times`;
	const cost = most < SAME_SIZE ? "as many" : `${much} ${factor > 1 ? "fewer" : "more"}`;
	const second = name(other, other.name.replace(/^[LS]/, (letter) => letter.toLowerCase()));
	return (
		`${name(one)}${how(one, other)} told you <strong>${time}</strong> ${than} ` +
		`${second}${how(other, one)}` +
		(factor ? ` and used <strong>${cost} bytes</strong>.` : ".")
	);
}

/** Its payload, where they differ. */
function how(lane, other) {
	if (lane.carries === other.carries) return "";
	return lane.carries ? ", carrying the data," : " with its signals";
}

const name = (lane, text = lane.name) => `<span class="hue ${lane.transport}">${text}</span>`;
