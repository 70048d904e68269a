/** The server's clock, as well as a browser can know it: ages must not depend on two clocks. */

const KEPT = 30; // samples: at one every two seconds, a minute

const [page] = performance.getEntriesByType("navigation");
// The Back button may bring an old copy from the browser's cache, whose time says nothing.
if (page.type === "back_forward" && page.transferSize === 0) location.reload();

let base = performance.timeOrigin;
let samples = [];
let best;

/** This browser's time, in milliseconds since the epoch. */
export function browserNow() {
	// performance.now() stands still while some systems sleep, and when somebody sets the clock.
	const wrong = Date.now() - base - performance.now();
	if (Math.abs(wrong) > 100) {
		base += wrong;
		samples = [];
	}
	return base + performance.now();
}

/**
 * The server looked at its clock between `sent` and `received`: in the middle, give or take half of
 * that. So the shortest round trip knows best.
 */
export function learn({ sent, at, received }) {
	const error = (received - sent) / 2;
	samples = [...samples.slice(1 - KEPT), { offset: at - sent - error, error }];
	best = samples.reduce((a, b) => (b.error < a.error ? b : a));
}

// The page itself is such a question.
const at = document.body.dataset.now * 1000;
learn({ sent: base + page.requestStart, at, received: base + page.responseStart });

/** Milliseconds that the server's clock is ahead, and that it may be wrong: the way there. */
export const offset = () => best.offset;
export const oneWay = () => best.error;

export const toServer = (time) => time + best.offset;
export const toBrowser = (time) => time - best.offset;
export const serverNow = () => toServer(browserNow());
