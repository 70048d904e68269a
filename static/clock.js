// @ts-check
/** The server's clock, as well as a browser can know it: ages must not depend on two clocks. */

/** Samples: at one every two seconds, a minute. */
const KEPT = 30;
/** Milliseconds, as all times here, that clocks may drift apart meanwhile. */
const SLACK = 100;
/** By which a reading may seem to have changed too late, or too early: a busy page takes it late. */
const [EARLY, LATE] = [500, 5000];
/** Readings whose eras are remembered. */
const READINGS = 2000;

/** @typedef {{ offset: number, error: number }} Sample */
/** @typedef {{ samples: Sample[], best: Sample }} Era a time in which the server's clock is not set */
/** @typedef {{ cursor: string, changed_at: number }} Change of a reading */

const [page] = /** @type {PerformanceNavigationTiming[]} */ (performance.getEntriesByType("navigation"));
// The Back button may bring an old copy from the browser's cache, whose time says nothing.
if (page.type === "back_forward" && page.transferSize === 0) location.reload();

let base = performance.timeOrigin;
/** @type {Era} */
let era = { samples: [], best: { offset: 0, error: 0 } };
/** @type {Map<string, Era>} of readings, by cursor: whose clock their `changed_at` is of */
const eras = new Map();

/** This browser's time, in milliseconds since the epoch. */
export function browserNow() {
	// performance.now() stops while some systems sleep, and does not follow a clock that is set.
	const wrong = Date.now() - base - performance.now();
	if (Math.abs(wrong) > 100) {
		base += wrong;
		era.samples = [];
	}
	return base + performance.now();
}

/**
 * Learn from the server's time `at`, somewhere between `sent` and `received`: take the middle, half of
 * the round trip is the error. So the sample with the shortest round trip is the best one.
 * @param {{ sent: number, at: number, received: number }} times
 */
export function learn({ sent, at, received }) {
	const error = (received - sent) / 2;
	const sample = { offset: at - sent - error, error };
	const difference = Math.abs(sample.offset - era.best.offset);
	// The server's clock has been set. Readings of before keep the offset of before.
	if (era.samples.length && difference > error + era.best.error + SLACK) era = { samples: [], best: sample };
	era.samples = [...era.samples.slice(1 - KEPT), sample];
	era.best = era.samples.reduce((a, b) => (b.error < a.error ? b : a));
}

/**
 * @param {string} cursor
 * @param {Era} its
 */
function remember(cursor, its) {
	const [[oldest]] = eras.set(cursor, its);
	if (eras.size > READINGS) eras.delete(oldest);
	return its;
}

/** When a reading changed, by this browser's clock. @param {Change} change */
export function changedHere({ cursor, changed_at }) {
	return changed_at * 1000 - (eras.get(cursor) ?? remember(cursor, era)).best.offset;
}

/**
 * Whether a reading's time agrees with its age, which does not depend on how the server's clock is set.
 * If not, the clock has been set, and for this reading its age counts.
 * @param {Change} change
 * @param {number} age in seconds
 */
export function agrees({ cursor, changed_at }, age) {
	const { error } = era.best;
	const offset = (changed_at + age) * 1000 - browserNow() + error;
	const difference = offset - era.best.offset;
	const same = difference < error + EARLY && difference > -error - LATE;
	remember(cursor, same ? era : { samples: [], best: { offset, error } });
	return same;
}

// The request for the page is the first sample.
const at = Number(document.body.dataset.now) * 1000;
learn({ sent: base + page.requestStart, at, received: base + page.responseStart });

/** Milliseconds by which the server's clock is ahead of this browser's. */
export const offset = () => era.best.offset;
/** Milliseconds from here to the server, at most; the offset may be wrong by as much. */
export const oneWay = () => era.best.error;

export const toServer = (/** @type {number} */ time) => time + era.best.offset;
export const toBrowser = (/** @type {number} */ time) => time - era.best.offset;
export const serverNow = () => toServer(browserNow());
