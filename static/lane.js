/** A lane: one transport on the page, what it brings, how late, and what that costs. */

import { Card, reducedMotion } from "./card.js";
import { oneWay, serverNow, toBrowser, toServer } from "./clock.js";
import { showCode } from "./code.js";
import { makeDiagram } from "./diagram.js";
import { Measurement } from "./measurement.js";
import { bandwidth, duration, size, times } from "./units.js";

const LOST_AFTER = 5000; // milliseconds, for which a reading was the newest, and the lane live
const SLACK = 100; // by which a request and the server's record of it may seem apart
const REMEMBERED = 100; // requests of which the server has yet to tell
const AUDIENCE = 10_000; // browsers

export class Lane extends Card {
	#subscription;
	#truth;
	#isWanted;
	#startedAt = Infinity; // server time
	#due; // the newest cursor, while the lane could have brought it,
	#dueSince; // since when it could
	#requests;
	#told = []; // by the server, and not found among them yet
	#run = 0;

	constructor(element, Transport, { page, reading, truth, lab }) {
		super(element);
		this.#truth = truth;
		this.show(reading);
		this.name = element.querySelector("h2").textContent;
		this.transport = element.dataset.transport;
		this.diagram = makeDiagram(this.field("diagram"));
		this.#isWanted = "autostart" in element.dataset;
		const subscription = (this.#subscription = new Transport({
			carry: this.#button("carry").ariaPressed === "true",
			onState: (...state) => this.showState(...state),
			onReading: (news) => this.#takeReading(news),
			onWire: (record) => this.#takeRecord(record),
		}));
		const measureAnew = () => {
			this.#run += 1;
			this.id = `${page}-${this.transport}${this.#run > 1 ? `-${this.#run}` : ""}`;
			this.measured = new Measurement(this.cursor);
			this.measured.run(this.#startedAt < Infinity);
			this.#requests = new Set();
			Object.assign(subscription, { lane: this.id, after: this.cursor, messages: 0 });
			subscription.restart();
			lab.watch();
			this.#showFigures();
		};
		measureAnew();

		const actions = {
			carry: (button) => {
				button.ariaPressed = subscription.carry = !subscription.carry;
				measureAnew(); // an average of both would be true of neither
			},
			stop: () => {
				this.#isWanted = !this.#isWanted;
				if (this.#isWanted) this.start();
				else this.stop();
				this.#showWhetherWanted();
			},
			cut: () => lab.order({ do: "cut", lane: this.id }),
			code: () => showCode(this.transport, this.name),
		};
		for (const name in actions) {
			this.#button(name).addEventListener("click", ({ currentTarget }) => actions[name](currentTarget));
		}
		this.#button("period")?.addEventListener("change", ({ target }) => {
			subscription.period = Number(target.value);
			measureAnew();
		});
		this.#showWhetherWanted();
	}

	get carries() {
		return this.#subscription.carry;
	}

	start() {
		if (!this.#isWanted || this.#startedAt < Infinity) return;
		this.#startedAt = serverNow();
		this.measured.run(true);
		this.#subscription.start();
	}

	stop() {
		this.#startedAt = Infinity;
		this.measured.run(false);
		this.#subscription.stop();
	}

	tick() {
		super.tick();
		const { cursor, element } = this.#truth;
		const live = this.#subscription?.state === "live" && element.dataset.state === "live";
		const now = performance.now();
		// Who was away is not late, but about to be told.
		if (!live || cursor !== this.#due) [this.#due, this.#dueSince] = [live && cursor, now];
		else if (now - this.#dueSince > LOST_AFTER) this.measured.overlook(cursor);
	}

	report(meter, epoch) {
		this.measured.report(meter, epoch);
		// An answer that it tells of may still be on its way here.
		this.#told = [...this.#told, ...meter.exchanges].slice(-REMEMBERED).filter(([asked, held, , up, down]) => {
			const record = [...this.#requests].find((record) => isThat(record, asked));
			if (!record) return true;
			this.#requests.delete(record);
			this.diagram.wire(Object.assign(record, { asked, answered: asked + held, up, down }));
		});
		this.#showFigures();
	}

	#takeReading(reading) {
		this.show(reading);
		this.measured.show(reading, reading.changed_at * 1000 >= this.#startedAt);
		this.#showFigures();
		if (reducedMotion.matches) return;
		this.field("value").animate([{ color: "var(--transport)" }, {}], 700);
	}

	#takeRecord(record) {
		if (record.kind === "message") {
			const { cursor, changed_at, openedAt, received } = record;
			const changed = changed_at ? changed_at * 1000 : this.#truth.changes.get(cursor);
			record.left = Math.max(changed ?? toServer(received) - oneWay(), openedAt);
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
		const show = (format, figures) => {
			for (const [name, number] of Object.entries(figures)) {
				this.write(name, number == null ? "–" : format(number)).value = number ?? "";
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
		if (!bytesPerUpdate || measured.seconds < 1) return;
		const rate = seen / measured.seconds;
		this.write("bandwidth", bandwidth(AUDIENCE * bytesPerUpdate * rate * 8));
		this.write("formula", `= 10,000 × ${size(bytesPerUpdate)} × ${rate.toFixed(2)}/s × 8`);
		this.write("load", `${Math.round(AUDIENCE * requestsPerUpdate * rate).toLocaleString("en-US")} requests/s`);
	}

	#showWhetherWanted() {
		const button = this.#button("stop");
		button.textContent = this.#isWanted ? "Stop" : "Start";
		button.ariaLabel = `${button.textContent} ${this.name}`;
		this.#button("cut").disabled = !this.#isWanted;
	}

	#button(name) {
		return this.element.querySelector(`[data-action="${name}"]`);
	}
}

/** Whether the server's record is of this request: by its own time, or by when it was. */
function isThat({ asked, sent, received }, time) {
	if (asked !== undefined) return asked === time;
	const at = toBrowser(time);
	return at > sent - SLACK && at < received + SLACK; // never, while it is not received
}
