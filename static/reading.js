// @ts-check
/** A reading in words: the browser's half of lab/summary.py; and times. */

/** @typedef {{ [field: string]: any }} Value */

/** @param {Value} value */
export function headline(value) {
	if (isNumber(value.cpu_percent, 100)) return `CPU ${value.cpu_percent.toFixed(1)} %`;
	if (typeof value.line === "string") return wellFormed(value.line);
	if (typeof value.time === "string") return localMoment(value.time) ?? wellFormed(value.time);
	if (Object.keys(value).length === 0) return "nothing yet";
	const separatorOrString = /[,:]|"[^"\\]*(?:\\.[^"\\]*)*"/g;
	return JSON.stringify(value).replace(separatorOrString, (it) => (it.length > 1 ? it : `${it} `));
}

/** @param {Value} value */
export function details({ cpu_percent, memory_percent, load_average }) {
	if (!isNumber(cpu_percent, 100)) return "";
	const memory = isNumber(memory_percent, 100) ? [`memory ${memory_percent.toFixed(0)} %`] : [];
	const loads = Array.isArray(load_average) ? load_average : [];
	if (!loads.length || !loads.every((load) => isNumber(load, 1e6))) return memory.join();
	return [...memory, `load average ${loads.map((load) => load.toFixed(2)).join(" ")}`].join(" · ");
}

/**
 * An age in words: 1.2 s, 1 min 5 s, 2 h 3 min, 4 d 5 h.
 * @param {number} milliseconds
 */
export function age(milliseconds, { tenths = true } = {}) {
	// Rounded down, or 59.96 s were "60.0 s".
	const tenth = Math.floor(Math.max(0, milliseconds) / 100);
	const [seconds, minutes, hours, days] = [10, 600, 36_000, 864_000].map((n) => Math.floor(tenth / n));
	if (days) return `${days} d ${hours % 24} h`;
	if (hours) return `${hours} h ${minutes % 60} min`;
	if (minutes) return `${minutes} min ${seconds % 60} s`;
	return tenths ? `${seconds}.${tenth % 10} s` : `${seconds} s`;
}

/** @type {Intl.DateTimeFormatOptions} */
const DAY = { year: "numeric", month: "short", day: "numeric" };
/** @type {Intl.DateTimeFormatOptions} */
const TIME = { hour: "numeric", minute: "2-digit", second: "2-digit", fractionalSecondDigits: 1 };

/** A moment in the reader's time zone. @param {Date} date */
export function localTime(date) {
	const isToday = new Date().toDateString() === date.toDateString();
	return date.toLocaleString([], isToday ? TIME : { ...DAY, ...TIME });
}

/** Without an offset from UTC, a time does not say which moment it means. @param {string} text */
function localMoment(text) {
	const isMoment = /^\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:\d\d)$/.test(text);
	const date = new Date(text);
	return isMoment && !Number.isNaN(date.valueOf()) ? localTime(date) : null;
}

/**
 * @param {unknown} value
 * @param {number} limit
 */
function isNumber(value, limit) {
	return typeof value === "number" && value >= 0 && value <= limit;
}

/** Half of a surrogate pair is written as its escape, as JSON.stringify does. @param {string} text */
function wellFormed(text) {
	return text.replace(/\p{Surrogate}/gu, (half) => `\\u${half.charCodeAt(0).toString(16)}`);
}
