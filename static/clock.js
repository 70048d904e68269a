// @ts-check
/** The server's clock, as well as a browser can know it: ages must not depend on two clocks. */

const KEPT = 30; // samples: at one every two seconds, a minute

/** @typedef {{ offset: number, error: number }} Sample milliseconds */

const [page] = /** @type {PerformanceNavigationTiming[]} */ (performance.getEntriesByType("navigation"));
// The Back button may bring an old copy from the browser's cache, whose time says nothing.
if (page.type === "back_forward" && page.transferSize === 0) location.reload();

let base = performance.timeOrigin;
/** @type {Sample[]} */
let samples = [];
/** @type {Sample} */
let best;

/** This browser's time, in milliseconds since the epoch. */
export function browserNow() {
	// performance.now() stops while some systems sleep, and does not follow a clock that is set.
	const wrong = Date.now() - base - performance.now();
	if (Math.abs(wrong) > 100) {
		base += wrong;
		samples = [];
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
	samples = [...samples.slice(1 - KEPT), { offset: at - sent - error, error }];
	best = samples.reduce((a, b) => (b.error < a.error ? b : a));
}

// The request for the page is the first sample.
const at = Number(document.body.dataset.now) * 1000;
learn({ sent: base + page.requestStart, at, received: base + page.responseStart });

/** Milliseconds by which the server's clock is ahead of this browser's. */
export const offset = () => best.offset;
/** Milliseconds from here to the server, at most; the offset may be wrong by as much. */
export const oneWay = () => best.error;

export const toServer = (/** @type {number} */ time) => time + best.offset;
export const toBrowser = (/** @type {number} */ time) => time - best.offset;
export const serverNow = () => toServer(browserNow());
