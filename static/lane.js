// @ts-check
/** A lane: one transport on the page, what it brings, how late, and at what cost. */

import { Card } from "./card.js";
import { browserNow, changedHere, oneWay, toBrowser, toServer } from "./clock.js";
import { showCode } from "./code.js";
import { makeDiagram } from "./diagram.js";
import { find, reducedMotion, root } from "./dom.js";
import { withInstruments } from "./instruments.js";
import { Measurement } from "./measurement.js";
import { bandwidth, duration, size, times } from "./units.js";

/** @typedef {import("./subscription.js").Reading} Reading */
/** @typedef {import("./instruments.js").WireRecord} WireRecord */
/** @typedef {[arrived: number, held: number, status: number, up: number, down: number]} Exchange */

const LOST_AFTER = 15_000; // milliseconds, for which a reading was the newest, and the lane live
const SLACK = 100; // by which a request and the server's record of it may seem apart
const REMEMBERED = 100; // requests that the server has yet to report
const AUDIENCE = 10_000; // browsers

export class Lane extends Card {
	#subscription;
	#server;
	#lab;
	#send;
	#page;
	#startedAt = Infinity;
	#due = ""; // the newest cursor, while the lane could have brought it,
	#dueSince = 0; // since when it could
	/** @type {Set<WireRecord>} */
	#requests = new Set();
	/** @type {Exchange[]} reported by the server, and not found among the requests yet */
	#reported = [];
	#run = 0;
	#pace = ""; // as long as it is not known
	#choice; // of a period, if the lane has one
	/** Milliseconds from one request of short polling to the next; "" for other lanes. */
	period = "";
	#showTime = 0; // milliseconds
	/** @type {Reading[]} that wait for a slow screen */
	#backlog = [];
	/** The name by which the server counts. */
	id = "";
	/** @type {Map<boolean, Measurement>} the last with each payload, by whether the lane carried */
	measurements = new Map();

	/**
	 * @param {HTMLElement} element
	 * @param {typeof import("./subscription.js").Subscription} Transport
	 * @param {object} surroundings
	 * @param {string} surroundings.page a random name
	 * @param {Reading} surroundings.reading
	 * @param {import("./server_card.js").ServerCard} surroundings.server
	 * @param {import("./lab.js").Lab} surroundings.lab
	 * @param {(command: import("./lab.js").Command) => void} surroundings.send
	 */
	constructor(element, Transport, { page, reading, server, lab, send }) {
		super(element);
		this.#server = server;
		this.#lab = lab;
		this.#send = send;
		this.#page = page;
		this.show(reading);
		this.transport = element.dataset.transport ?? "";
		this.#choice = /** @type {HTMLSelectElement | null} */ (element.querySelector("[data-action=period]"));
		this.period = this.#choice?.value ?? "";
		this.name = find("h2", element).textContent;
		this.diagram = makeDiagram(this.field("diagram"));
		this.isEnabled = "autostart" in element.dataset;
		const subscription = (this.#subscription = new (withInstruments(Transport, this.name))());
		subscription.root = root;
		subscription.carry = this.#button("carry").ariaPressed === "true";
		subscription.onState = (state, retryAt) => this.showState(state, retryAt);
		subscription.onReading = (reading) => this.#bring(reading);
		subscription.onWire = (record) => this.#addRecord(record);
		this.measureAnew();

		// An average over both payloads, or two periods, would be true of neither.
		this.#button("carry").addEventListener("click", () => {
			this.setCarry(!this.carries);
			this.measureAnew();
		});
		const choice = this.#choice;
		choice?.addEventListener("change", () => this.setPeriod(choice.value));
		this.#button("stop").addEventListener("click", () => this.setEnabled(!this.isEnabled));
		this.#button("cut").addEventListener("click", () => this.cut());
		this.#button("code").addEventListener("click", () => showCode(this.transport, this.name));
		this.#showEnabled();
	}

	get carries() {
		return this.#subscription.carry;
	}

	get isLive() {
		return this.#subscription.state === "live";
	}

	/** What is measured so far would be true of neither payload: call `measureAnew`. @param {boolean} carry */
	setCarry(carry) {
		this.#subscription.carry = carry;
		this.#button("carry").ariaPressed = String(carry);
	}

	/** Another one begins a new measurement. @param {string} [milliseconds] without it, as it was at first */
	setPeriod(milliseconds = this.#choice?.querySelector("[selected]")?.getAttribute("value") ?? "") {
		if (!this.#choice || milliseconds === this.period) return;
		this.period = this.#choice.value = milliseconds;
		Object.assign(this.#subscription, { period: Number(milliseconds) });
		this.measurements.clear();
		this.measureAnew();
	}

	/** @param {boolean} enabled */
	setEnabled(enabled) {
		this.isEnabled = enabled;
		if (enabled) this.start();
		else this.stop();
		this.#showEnabled();
	}

	/** The data changes at this pace from now on. @param {string} pace */
	setPace(pace) {
		this.#pace = pace;
		if (pace && this.#startedAt < Infinity) this.measured.paces.add(pace);
	}

	/** A screen that takes so many milliseconds for each reading. @param {number} milliseconds */
	setShowTime(milliseconds) {
		this.#showTime = milliseconds;
		this.#dropBacklog();
	}

	/** Have the server close the lane's connections, and refuse them for two seconds. */
	cut() {
		this.#send({ do: "cut", lane: this.id });
	}

	/** Begin a new measurement, with a new connection and a new name. */
	measureAnew() {
		this.#dropBacklog();
		this.#run += 1;
		this.id = `${this.#page}-${this.transport}${this.#run > 1 ? `-${this.#run}` : ""}`;
		this.measurements.set(this.carries, new Measurement(this.cursor));
		this.measured.run(this.#startedAt < Infinity);
		this.setPace(this.#pace);
		this.#requests.clear();
		const after = new Map([["", this.cursor]]);
		Object.assign(this.#subscription, { lane: this.id, after, messages: 0 });
		this.#subscription.restart();
		this.#lab.watch();
		this.#showFigures();
	}

	/** The measurement under way. */
	get measured() {
		return /** @type {Measurement} */ (this.measurements.get(this.carries));
	}

	start() {
		if (!this.isEnabled || this.#startedAt < Infinity) return;
		this.#startedAt = browserNow();
		this.measured.run(true);
		this.setPace(this.#pace);
		this.#subscription.start();
	}

	stop() {
		this.#dropBacklog();
		this.#startedAt = Infinity;
		this.measured.run(false);
		this.#subscription.stop();
	}

	/** @override */
	tick() {
		super.tick();
		const { cursor, element } = this.#server;
		const live = this.#subscription?.state === "live" && element.dataset.state === "live";
		const now = performance.now();
		// A lane that was away is not late: it has only now got the chance to catch up.
		if (!live || cursor !== this.#due) [this.#due, this.#dueSince] = [live ? cursor : "", now];
		else if (now - this.#dueSince > LOST_AFTER) this.measured.countLost(cursor);
	}

	/**
	 * Take the server's report on this lane.
	 * @param {Record<import("./measurement.js").Counter, number> & { exchanges: Exchange[] }} meter
	 * @param {string} epoch
	 */
	report(meter, epoch) {
		this.measured.report(meter, epoch);
		// A response that the server reports may still be on its way here.
		this.#reported = [...this.#reported, ...meter.exchanges].slice(-REMEMBERED).filter((exchange) => {
			const [arrived, held, , up, down] = exchange;
			const record = [...this.#requests].find((record) => matches(record, arrived));
			if (!record) return true;
			this.#requests.delete(record);
			this.diagram.wire(Object.assign(record, { arrived, responded: arrived + held, up, down }));
			return false;
		});
		this.#showFigures();
	}

	/** Show a reading; on a slow screen, each when the one before has been shown. @param {Reading} reading */
	#bring(reading) {
		if (!this.#showTime) return this.#showReading(reading);
		const backlog = this.#backlog;
		backlog.push(reading);
		const subscription = this.#subscription;
		subscription.showing = subscription.showing.then(async () => {
			if (backlog !== this.#backlog) return;
			await new Promise((resolve) => setTimeout(resolve, this.#showTime));
			if (backlog === this.#backlog) this.#showReading(/** @type {Reading} */ (backlog.shift()));
		});
	}

	/** Show only the newest of what waits for a slow screen. */
	#dropBacklog() {
		const newest = this.#backlog.at(-1);
		this.#backlog = [];
		this.#subscription.showing = Promise.resolve();
		if (newest) this.#showReading(newest);
	}

	/** @param {Reading} reading */
	#showReading(reading) {
		this.show(reading);
		this.measured.show(reading, changedHere(reading) >= this.#startedAt);
		this.#showFigures();
		if (reducedMotion.matches) return;
		this.field("value").animate([{ color: "var(--transport)" }, {}], 700);
	}

	/** @param {WireRecord} record */
	#addRecord(record) {
		if (record.kind === "message") {
			const { cursor = "", changed_at, openedAt = 0, received } = record;
			const changed = changed_at ? changed_at * 1000 : this.#server.changes.get(cursor);
			record.left = Math.max(changed ?? toServer(Number(received)) - oneWay(), openedAt);
		} else {
			const [oldest] = this.#requests.add(record);
			if (this.#requests.size > REMEMBERED) this.#requests.delete(oldest);
		}
		this.diagram.wire(record);
	}

	#showFigures() {
		const { measured } = this;
		const { seen, coalesced, lost, latencies, bytesPerUpdate, requestsPerUpdate } = measured;
		const { requests, empty, up, down } = measured.cost;
		const { messages } = this.#subscription;
		/**
		 * @param {(number: number) => string} format
		 * @param {Record<string, number | null | undefined>} figures
		 */
		const show = (format, figures) => {
			for (const [name, number] of Object.entries(figures)) {
				const field = this.write(name, number == null ? "–" : format(number));
				if (field instanceof HTMLDataElement) field.value = String(number ?? "");
			}
		};
		show(String, { requests, empty, messages, seen, coalesced, lost });
		show(size, { "bytes-per-update": bytesPerUpdate, "bytes-down": down, "bytes-up": up });
		show(times, { "requests-per-update": requestsPerUpdate });
		show(duration, {
			"latency-last": latencies.at(-1),
			"latency-p50": measured.percentile(0.5),
			"latency-p95": measured.percentile(0.95),
		});
		this.drawSparkline(latencies.slice(-40));
		if (!bytesPerUpdate || !requestsPerUpdate || measured.seconds < 1) return;
		const rate = seen / measured.seconds;
		this.write("bandwidth", bandwidth(AUDIENCE * bytesPerUpdate * rate * 8));
		this.write("formula", `= 10,000 × ${size(bytesPerUpdate)} × ${rate.toFixed(2)}/s × 8`);
		this.write("load", `${Math.round(AUDIENCE * requestsPerUpdate * rate).toLocaleString("en-US")} requests/s`);
	}

	#showEnabled() {
		const button = this.#button("stop");
		button.textContent = this.isEnabled ? "Stop" : "Start";
		button.ariaLabel = `${button.textContent} ${this.name}`;
		this.#button("cut").disabled = !this.isEnabled;
	}

	/** @param {string} action */
	#button(action) {
		return /** @type {HTMLButtonElement} */ (find(`[data-action="${action}"]`, this.element));
	}
}

/**
 * Whether the server's record is of this request: by its own time, or by when it was.
 * @param {WireRecord} record
 * @param {number} arrived
 */
function matches({ arrived: own, sent, received }, arrived) {
	if (own !== undefined) return own === arrived;
	const at = toBrowser(arrived);
	return received != null && at > Number(sent) - SLACK && at < received + SLACK;
}
