/** A reading in words: the browser's half of pushlab/headline.py, and times as a reader wants them. */

/** The headline of a value: what a person wants to read first. */
export function headline(value) {
  if (isNumber(value.cpu_percent, 100)) return `CPU ${value.cpu_percent.toFixed(1)} %`;
  if (typeof value.line === "string") return wellFormed(value.line);
  if (typeof value.time === "string") return localMoment(value.time) ?? wellFormed(value.time);
  if (Object.keys(value).length === 0) return "nothing yet";
  const separatorOrString = /[,:]|"[^"\\]*(?:\\.[^"\\]*)*"/g;
  return JSON.stringify(value).replace(separatorOrString, (it) => (it.length > 1 ? it : `${it} `));
}

/** What else a load value says, in one line; nothing for any other value. */
export function details({ cpu_percent, memory_percent, load_average }) {
  if (!isNumber(cpu_percent, 100)) return "";
  const parts = [];
  if (isNumber(memory_percent, 100)) parts.push(`memory ${memory_percent.toFixed(0)} %`);
  const loads = Array.isArray(load_average) ? load_average : [];
  if (loads.length && loads.every((load) => isNumber(load, 1e6))) {
    parts.push(`load average ${loads.map((load) => load.toFixed(2)).join(" ")}`);
  }
  return parts.join(" · ");
}

/** The number of a cursor's reading, counted since its epoch began. */
export function sequence(cursor) {
  return Number(cursor.slice(cursor.lastIndexOf("-") + 1));
}

/** Whether a cursor names news to whoever has seen `than`: another epoch, or a later reading. */
export function isNews(cursor, than) {
  if (!than) return true;
  const epoch = (text) => text.slice(0, text.lastIndexOf("-"));
  return epoch(cursor) !== epoch(than) || sequence(cursor) > sequence(than);
}

/** An age in words: 1.2 s, 1 min 5 s, 2 h 3 min, 4 d 5 h. */
export function age(milliseconds, { tenths = true } = {}) {
  // Rounded down, so that 59.96 s are not "60.0 s", and never negative.
  const tenth = Math.floor(Math.max(0, milliseconds) / 100);
  const seconds = Math.floor(tenth / 10);
  if (seconds < 60) return tenths ? `${seconds}.${tenth % 10} s` : `${seconds} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min ${seconds % 60} s`;
  const hours = Math.floor(minutes / 60);
  return hours < 24 ? `${hours} h ${minutes % 60} min` : `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

const TIME = { hour: "numeric", minute: "2-digit", second: "2-digit", fractionalSecondDigits: 1 };
const clockTime = new Intl.DateTimeFormat(undefined, TIME);
const DAY = { year: "numeric", month: "short", day: "numeric" };
const dayAndTime = new Intl.DateTimeFormat(undefined, { ...DAY, ...TIME });

/** A moment in the reader's time zone; the day is only worth saying when it is not today. */
export function localTime(date) {
  const today = new Date().toDateString() === date.toDateString();
  return (today ? clockTime : dayAndTime).format(date);
}

/** Without an offset from UTC, a time does not say which moment it means: it stays as it is. */
function localMoment(text) {
  const isMoment = /^\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:\d\d)$/.test(text);
  const date = new Date(text);
  return isMoment && !Number.isNaN(date.valueOf()) ? localTime(date) : null;
}

function isNumber(value, limit) {
  return typeof value === "number" && value >= 0 && value <= limit;
}

/** Half of a surrogate pair is no text; it is written as its escape, as JSON.stringify does. */
function wellFormed(text) {
  return text.replace(/\p{Surrogate}/gu, (half) => `\\u${half.charCodeAt(0).toString(16)}`);
}
