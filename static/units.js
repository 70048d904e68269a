// @ts-check
/** Numbers with their units, as short as they can be read from afar. */

/** 1.4, 13. @param {number} number */
export const times = (number) => number.toFixed(number < 9.95 ? 1 : 0);

/**
 * In the first of these units, each a thousand of the one before, that keeps the number short.
 * @param {number} number
 * @param {string[]} units
 * @returns {string}
 */
const scale = (number, [unit, ...larger]) =>
	number < 999.5 || !larger.length ? `${times(number)} ${unit}` : scale(number / 1e3, larger);

/** 842 B, 3.3 kB, 12 MB. @param {number} bytes */
export const size = (bytes) => (bytes < 999.5 ? `${Math.round(bytes)} B` : scale(bytes / 1e3, ["kB", "MB"]));

/** 0.8 ms, 34 ms, 1.52 s. @param {number} milliseconds */
export const duration = (milliseconds) =>
	milliseconds < 999.5 ? `${times(milliseconds)} ms` : `${(milliseconds / 1e3).toFixed(2)} s`;

/** 640 kbit/s, 33.7 Mbit/s, 1.2 Gbit/s. @param {number} bits */
export const bandwidth = (bits) => scale(bits / 1e3, ["kbit/s", "Mbit/s", "Gbit/s"]);
