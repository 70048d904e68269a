/** The page: makes the lanes, lets time pass, and lets go of every connection when nobody looks. */

import { reducedMotion } from "./card.js";
import { browserNow, offset, oneWay } from "./clock.js";
import { makeControls } from "./controls.js";
import { Lab } from "./lab.js";
import { Lane } from "./lane.js";
import { Truth } from "./truth.js";
import { showVerdict } from "./verdict.js";

const find = (selector) => document.querySelector(selector);
const field = (name) => find(`[data-field="${name}"]`);
const reading = JSON.parse(document.body.dataset.reading);
const page = crypto.getRandomValues(new Uint32Array(1))[0].toString(36);
const truth = new Truth(find("[data-truth]"), reading);
const lanes = [];
let epoch;

const lab = new Lab({
	lanes: () => lanes.map(({ id }) => id),
	onState: (...state) => truth.showState(...state),
	onMessage: ({ lab, pace, reading, meters, error, frozen }) => {
		if (lab) {
			({ epoch } = lab);
			controls.allow(lab);
		}
		if (pace) controls.showPace(pace);
		if (reading) {
			truth.take(reading);
			for (const { diagram } of lanes) diagram.wire({ kind: "change", at: reading.changed_at * 1000 });
		}
		if (meters) {
			for (const lane of lanes) if (meters[lane.id]) lane.report(meters[lane.id], epoch);
			showVerdict(field("verdict"), lanes);
			showTimes();
		}
		if (error) say(`That was refused: ${error}.`);
		if (frozen) say(`The server is frozen for ${frozen} seconds. Nothing moves, nothing is lost.`);
	},
});
lab.order = (wish) => lab.tell(wish) || say("The instruments are not connected just now.");
const controls = makeControls(find("[data-controls]"), lab);

for (const element of document.querySelectorAll("section[data-transport]")) {
	const { default: Transport } = await import(`./transports/${element.dataset.transport}.js`);
	lanes.push(new Lane(element, Transport, { page, reading, truth, lab }));
}

let silence;
function say(text) {
	clearTimeout(silence);
	field("notice").textContent = text;
	silence = setTimeout(() => say(""), 8000);
}

function showTimes() {
	field("zone").textContent = Intl.DateTimeFormat().resolvedOptions().timeZone;
	field("offset").textContent = offset().toFixed(1).replace("-", "−");
	field("error").textContent = oneWay().toFixed(1);
}
showTimes();

// A button, or a click on any picture, holds them all.
const holdButton = find("[data-action=hold]");
document.addEventListener("click", ({ target }) => {
	if (!target.closest(".picture, [data-action=hold]")) return;
	const held = holdButton.ariaPressed !== "true";
	holdButton.ariaPressed = held;
	for (const { diagram } of lanes) diagram.hold(held);
});

let ticking;
let nextFrame;

function draw() {
	for (const { diagram } of lanes) diagram.draw(browserNow());
	if (!reducedMotion.matches) nextFrame = requestAnimationFrame(draw);
}

function tick() {
	for (const card of [truth, ...lanes]) card.tick();
	if (reducedMotion.matches) draw();
}

function stopTime() {
	clearInterval(ticking);
	cancelAnimationFrame(nextFrame);
}

function resume() {
	if (document.hidden) return; // until somebody looks
	stopTime();
	ticking = setInterval(tick, reducedMotion.matches ? 1000 : 100);
	draw();
	for (const line of [lab, ...lanes]) line.start();
}

function suspend() {
	stopTime();
	for (const line of [lab, ...lanes]) line.stop();
}

// A hidden tab would hold connections, of which a browser has six per host for all its tabs; and a
// page that holds one cannot be kept for the Back button.
document.addEventListener("visibilitychange", () => (document.hidden ? suspend() : resume()));
addEventListener("pagehide", suspend);
addEventListener("pageshow", resume);
reducedMotion.addEventListener("change", resume);
resume();
