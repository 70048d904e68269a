// @ts-check
/**
 * The experiments, in the order of the keys 1 to 7; static/experiment.js runs them.
 *
 * To add one, add an object: everything that it does is said here. docs/reference/lab.rst lists the fields.
 */

import { duration, size } from "./units.js";

/**
 * What a lane has measured in a phase; null or NaN for what is not known.
 * @typedef {object} Figures
 * @property {number} n changes of which it is known how late they were shown
 * @property {number | null} p50 milliseconds from a change to the screen
 * @property {number | null} p95
 * @property {number | null} bytes
 * @property {number | null} requests
 * @property {number} seen
 * @property {number} coalesced
 * @property {number} lost
 * @property {number | null} age how old what is on the screen was, in milliseconds; the median
 * @property {number | null} back milliseconds from the cut to the next reading on the screen
 * @property {number | null} received connections, of those that were opened, which brought news
 */
/** @typedef {{ carry: boolean, seconds: number, lanes: Record<string, Figures> }} Measured a phase */
/** @typedef {{ lane: string, note?: string, number: number | null, figures: Figures }} Bar */
/**
 * @typedef {object} Phase
 * @property {number} seconds
 * @property {boolean} carry
 * @property {number} [cut] all lanes are cut at the same moment, after so many seconds
 * @property {number} [showTime] milliseconds that a screen takes for a reading
 * @property {"sse" | "websocket"} [tabs] instead of the lanes, so many connections as ten tabs open
 */
/**
 * @typedef {object} Experiment
 * @property {string} id
 * @property {string} name on its button
 * @property {string} title
 * @property {string} question
 * @property {{ min: number, max: number, step: number } | { lanes: true, same: string, apart: number }} predict
 *   a slider; or the lane with the smallest number, `same` if another is not further `apart`
 * @property {string} [about] the lane that a slider asks about
 * @property {"near" | "far"} [distance] without it, wherever the page is
 * @property {string} pace
 * @property {string[]} [lanes] without it, all
 * @property {true} [counted] the server must count bytes, and be able to cut lanes
 * @property {Phase[]} phases
 * @property {(phases: Measured[], oneWay: number) => Bar[]} measure
 * @property {(number: number) => string} show
 * @property {("coalesced" | "lost" | "requests")[]} [columns]
 * @property {(result: { value: string | number | null, oneWay: number }) => string} explain
 * @property {string} link
 */

const FRAME = 17; // milliseconds: a screen shows 60 a second

const percent = (/** @type {number} */ number) => `${Math.round(number)} %`;
const rounded = (/** @type {number} */ number) => number.toFixed(1).replace(/\.0$/, "");

/**
 * A bar for each lane of a phase.
 * @param {Measured} phase
 * @param {(figures: Figures) => number | null} number
 * @param {string} [note]
 * @returns {Bar[]}
 */
const bars = ({ lanes } = { carry: true, seconds: 0, lanes: {} }, number, note) =>
	Object.entries(lanes).map(([lane, figures]) => ({ lane, note, number: number(figures), figures }));

/** @type {Experiment[]} */
export const experiments = [
	{
		id: "near",
		name: "Soonest",
		title: "Which is soonest?",
		question: "The server is right here, every lane carries the data, and it changes once a second. Which lane shows a change first?",
		predict: { lanes: true, same: "several, closer than a frame of the screen", apart: FRAME },
		distance: "near",
		pace: "1 per s",
		phases: [{ carry: true, seconds: 12 }],
		measure: ([phase]) => bars(phase, ({ p50 }) => p50),
		show: duration,
		explain: () =>
			"An open connection or a request that is held brings a change at once. Short polling asks every half second, so a change waits a quarter of a second on average.",
		link: "explanation/distance.rst",
	},
	{
		id: "payload",
		name: "Trips",
		title: "One trip or three?",
		question: "The server is far away. It sends only a signal that there is news, and the browser then fetches the data. How many trips between server and browser does a change need to the screen?",
		predict: { min: 1, max: 6, step: 0.5 },
		distance: "far",
		pace: "1 per s",
		lanes: ["longpoll", "sse", "websocket"],
		phases: [{ carry: false, seconds: 10 }, { carry: true, seconds: 10 }],
		measure: (phases, oneWay) =>
			phases.flatMap((phase) =>
				bars(phase, ({ p50 }) => p50 && p50 / oneWay, phase.carry ? "carry" : "signal"),
			),
		about: "websocket",
		show: (trips) => `${rounded(trips)} trips`,
		explain: ({ oneWay }) =>
			`A trip takes ${duration(oneWay)} here. A signal makes three: the signal comes, the request goes, the data comes. A reading that is carried makes one.`,
		link: "explanation/distance.rst",
	},
	{
		id: "pace",
		name: "Too fast",
		title: "Too fast to ask",
		question: "The server is far away, and the data changes 20 times a second. How many of 100 changes does long polling skip?",
		predict: { min: 0, max: 100, step: 5 },
		distance: "far",
		pace: "20 per s",
		phases: [{ carry: true, seconds: 10 }],
		measure: ([phase]) =>
			bars(phase, ({ seen, coalesced }) => (seen ? (100 * coalesced) / (seen + coalesced) : null)),
		about: "longpoll",
		show: percent,
		columns: ["coalesced", "lost"],
		explain: ({ oneWay }) =>
			`Long polling asks again when it has the response: one reading per round trip of ${duration(2 * oneWay)}. What was superseded meanwhile is skipped, not lost. An open connection brings every change.`,
		link: "explanation/polling.rst",
	},
	{
		id: "quiet",
		name: "Quiet",
		title: "Nothing happens",
		question: "The data does not change for a minute. How many bytes does short polling send and receive meanwhile?",
		predict: { min: 0, max: 200_000, step: 5000 },
		pace: "paused",
		counted: true,
		phases: [{ carry: true, seconds: 60 }],
		measure: ([phase]) => bars(phase, ({ bytes }) => bytes),
		about: "poll",
		show: size,
		columns: ["requests"],
		explain: () =>
			"Short polling asks twice a second, whether anything happens or not. A long poll is held for 25 seconds, then asked again. An open connection costs a few bytes every 15 or 20 seconds, to show that it is there. A page cannot see those: after 30 seconds of silence it asks whether it has missed something.",
		link: "explanation/polling.rst",
	},
	{
		id: "cut",
		name: "Cut",
		title: "The line is cut",
		question: "The data changes four times a second. The server cuts all lanes at the same moment, and refuses them for two seconds. Which lane shows something new first?",
		predict: { lanes: true, same: "several, within a tenth of a second", apart: 100 },
		pace: "4 per s",
		counted: true,
		phases: [{ carry: true, seconds: 15, cut: 3 }],
		measure: ([phase]) => bars(phase, ({ back }) => back),
		show: duration,
		columns: ["coalesced", "lost"],
		explain: () =>
			"Chance decides: each waits a random time before it tries again, or a thousand browsers would come back at once. Each then says what it had last, and gets the newest: what was superseded is skipped, and nothing is lost.",
		link: "reference/push-js.rst",
	},
	{
		id: "slow",
		name: "Slow screen",
		title: "A slow screen",
		question: "The data changes 20 times a second, but a screen takes 200 ms to show a reading. Which lane's screen shows the newest data?",
		predict: { lanes: true, same: "several, closer than a frame of the screen", apart: FRAME },
		distance: "near",
		pace: "20 per s",
		phases: [{ carry: true, showTime: 200, seconds: 10 }],
		measure: ([phase]) => bars(phase, ({ age }) => age),
		show: duration,
		columns: ["coalesced", "lost"],
		explain: () =>
			"What is pushed waits in the browser until everything before it has been shown, longer and longer. A browser that polls asks when it is ready, and gets the newest.",
		link: "explanation/polling.rst",
	},
	{
		id: "tabs",
		name: "Ten tabs",
		title: "Ten tabs",
		question: "Ten tabs of a browser each open an event stream to the same server. The data changes. How many of them learn of it?",
		predict: { min: 0, max: 10, step: 1 },
		distance: "near",
		pace: "1 per s",
		lanes: [],
		phases: [
			{ carry: false, tabs: "sse", seconds: 6 },
			{ carry: false, tabs: "websocket", seconds: 4 },
		],
		measure: (phases) => phases.flatMap((phase) => bars(phase, ({ received }) => received, "10 tabs")),
		about: "sse",
		show: (streams) => `${rounded(streams)} of 10`,
		explain: ({ value }) =>
			Number(value) > 6
				? "HTTP/2 has room for many requests on one connection, so that the limit of six is not reached here."
				: "With HTTP/1.1 a browser opens six connections to a server, for all its tabs together; the others wait, as does every other request. WebSockets are not among the six.",
		link: "explanation/proxies.rst",
	},
];
