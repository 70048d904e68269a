// @ts-check
/** Strokes: what a record of the wire looks like in the diagram, and how it reads in words. */

import { oneWay, toBrowser } from "./clock.js";
import { duration, size } from "./units.js";

export const SPAN = 10_000; // milliseconds, as all of these: the time that a diagram shows
const WAIT = 30; // a request that takes the server longer is held

/** @typedef {import("./instruments.js").WireRecord} WireRecord */

/**
 * A message from when it was sent to when it arrived. Times are in milliseconds, by this browser's clock.
 * @typedef {object} Stroke
 * @property {number} from
 * @property {number} to
 * @property {number} until the end of a request that is held
 * @property {"dot" | "empty" | "request" | "signal" | "reading"} weight
 * @property {boolean} up from the browser to the server
 * @property {boolean} held
 * @property {boolean} failed
 * @property {number | null} together from a request to the end of its response, once that is known
 * @property {string} what in words, as these: empty for what is drawn but not described
 * @property {string} brings
 * @property {string} bytes
 * @property {string} took
 * @property {string} note
 */

/** @type {Omit<Stroke, "from" | "to" | "until" | "weight">} */
const PLAIN = {
	...{ up: false, held: false, failed: false, together: null },
	...{ what: "", brings: "", bytes: "", took: "", note: "" },
};

/**
 * @param {WireRecord} record
 * @param {number} now by this browser's clock
 * @returns {Stroke[]}
 */
export function strokesOf(record, now) {
	const { kind, what = "", sent = 0, arrived, responded, received, empty, brings, failed = false } = record;
	if (kind === "change") {
		const at = toBrowser(record.at ?? 0);
		return [{ ...PLAIN, from: at, to: at, until: at, weight: "dot" }];
	}

	const here = (/** @type {number | undefined} */ time, estimate = 0, earliest = 0) =>
		Math.max(earliest, Math.min(time === undefined ? estimate : toBrowser(time), received ?? Infinity));
	const together = received ? received - sent : null;
	const count = (/** @type {number | undefined} */ bytes, direction = "") =>
		bytes === undefined ? "bytes follow" : size(bytes) + direction;
	/**
	 * @param {string} what
	 * @param {number} from
	 * @param {boolean} isKnown whether the server has said when that was
	 * @returns {Stroke}
	 */
	const arrival = (what, from, isKnown) => ({
		...{ ...PLAIN, what, from, to: received ?? 0, until: received ?? 0, together },
		...{ weight: empty ? "empty" : brings ?? "request", bytes: count(record.down) },
		brings: empty ? "nothing new" : brings ? `a ${brings}` : "",
		took: isKnown ? duration((received ?? 0) - from) : "",
	});
	if (kind === "message") return [arrival(what, here(record.left), true)];

	const since = here(arrived, sent + oneWay(), sent);
	// A request that is still held is drawn until later than now, which is not in sight.
	const until = here(responded, received ? received - oneWay() : now + 2 * SPAN, since);
	const held = until - since > WAIT;
	/** @type {Stroke} */
	const departure = {
		...{ ...PLAIN, what, from: sent, to: since, until, together, held, failed, up: true },
		...{ weight: empty ? "empty" : "request", bytes: count(record.up, " up") },
		took: arrived === undefined ? "" : duration(since - sent),
		note: held ? `held ${duration(until - since)}` : "",
	};
	if (failed || !received) return [{ ...departure, note: failed ? "cut off" : "no response yet" }];
	return [departure, arrival(`response to ${what}`, until, responded !== undefined)];
}

/**
 * Join what is not empty.
 * @param {string} separator
 * @param {string[]} parts
 */
export const list = (separator, ...parts) => parts.filter(Boolean).join(separator);
