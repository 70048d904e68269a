// @ts-check
/** The page: makes the lanes, lets time pass, and closes every connection while the page is hidden. */

import { browserNow, offset, oneWay } from "./clock.js";
import { makeControls } from "./controls.js";
import { find, reducedMotion, write } from "./dom.js";
import { makeExperiments } from "./experiment.js";
import { Lab } from "./lab.js";
import { Lane } from "./lane.js";
import { ServerCard } from "./server_card.js";
import { showVerdict } from "./verdict.js";

const field = (/** @type {string} */ name) => find(`[data-field="${name}"]`);
const reading = JSON.parse(document.body.dataset.reading ?? "");
const page = crypto.getRandomValues(new Uint32Array(1))[0].toString(36);
const server = new ServerCard(find("[data-truth]"), reading);
/** @type {Lane[]} */
const lanes = [];
let epoch = "";

/** @type {Lab} */
const lab = new Lab();
const send = (/** @type {import("./lab.js").Command} */ command) => {
	if (!lab.send(command)) notify("The instruments are not connected just now.");
};
const controls = makeControls(find("[data-controls]"), send);
lab.lanes = () => lanes.map(({ id }) => id);
lab.onState = (state, retryAt) => server.showState(state, retryAt);
/** @type {ReturnType<typeof makeExperiments> | null} */
let experiments = null;
lab.onMessage = (message) => {
	const { lab: about, pace, reading, age, source, meters, error, frozen } = message;
	if (about) {
		({ epoch } = about);
		controls.allow(about);
	}
	if (about || meters) write(field("source"), source ?? ""); // each says it, as long as it is so
	if (pace) {
		controls.showPace(message);
		for (const lane of lanes) lane.setPace(pace);
	}
	if (reading) {
		// The server's clock has been set: ask for its time now.
		if (!server.add(reading, age)) {
			lab.send({ do: "clock", sent: browserNow() });
			tick();
		}
		for (const { diagram } of lanes) diagram.wire({ kind: "change", at: reading.changed_at * 1000 });
	}
	if (meters) {
		for (const lane of lanes) if (meters[lane.id]) lane.report(meters[lane.id], epoch);
		showVerdict(field("verdict"), lanes);
		showTimes();
	}
	experiments?.onMessage(message);
	if (error) notify(`That was refused: ${error}.`);
	classroom?.receive(message);
	if (frozen) notify(`The server is frozen for ${frozen} seconds. Nothing moves, nothing is lost.`);
};

for (const element of document.querySelectorAll("section[data-transport]")) {
	const card = /** @type {HTMLElement} */ (element);
	const { default: Transport } = await import(`./transports/${card.dataset.transport}.js`);
	lanes.push(new Lane(card, Transport, { page, reading, server, lab, send }));
}

const room = /** @type {HTMLElement | null} */ (document.querySelector("[data-classroom]"));
const classroom = room && (await import("./classroom.js")).makeClassroom(room, { lab, lanes, send });

/** @type {ReturnType<typeof setTimeout>} */
let clearing;
/** Show a notice for some seconds. @param {string} text */
function notify(text) {
	clearTimeout(clearing);
	field("notice").textContent = text;
	clearing = setTimeout(() => (field("notice").textContent = ""), 8000);
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
	if (!(target instanceof Element && target.closest(".picture, [data-action=hold]"))) return;
	const held = holdButton.ariaPressed !== "true";
	holdButton.ariaPressed = String(held);
	for (const { diagram } of lanes) diagram.hold(held);
});

const hold = () => holdButton.click();
// What could not be sent is sent with the next connection, or is not needed any more: no notice.
experiments = makeExperiments(find(".experiments"), { lanes, send: (command) => lab.send(command), hold });
classroom?.take(experiments);

/** @type {ReturnType<typeof setInterval>} */
let ticking;
let nextFrame = 0;
let isReduced = false;

function draw() {
	for (const { diagram } of lanes) diagram.draw(browserNow());
	if (!isReduced) nextFrame = requestAnimationFrame(draw);
}

function tick() {
	for (const card of [server, ...lanes]) card.tick();
	// Its event does not come where `matches` was read since the change and before the next frame.
	if (isReduced !== reducedMotion.matches) resume();
	else if (isReduced) draw();
}

function stopTicking() {
	clearInterval(ticking);
	cancelAnimationFrame(nextFrame);
}

function resume() {
	if (document.hidden) return; // until it is shown
	stopTicking();
	isReduced = reducedMotion.matches;
	ticking = setInterval(tick, isReduced ? 1000 : 100);
	draw();
	for (const each of [lab, ...lanes]) each.start();
}

function suspend() {
	stopTicking();
	for (const each of [lab, ...lanes]) each.stop();
}

// A hidden tab would hold connections, of which a browser has six per host for all its tabs; and a
// page that holds one cannot be kept for the Back button.
document.addEventListener("visibilitychange", () => (document.hidden ? suspend() : resume()));
addEventListener("pagehide", suspend);
addEventListener("pageshow", resume);
resume();
