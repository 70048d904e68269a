// @ts-check
/** What a page hands in: its results as one file that needs nothing else, and as a table. */

import { experiments } from "./experiments.js";
import { duration } from "./units.js";

/** @typedef {import("./experiment.js").Result} Result */
/** @typedef {(experiment: import("./experiments.js").Experiment, value: string | number | null) => string} InWords */

const STYLE = `
body { max-width: 50rem; margin: 2rem auto; padding: 0 1rem; font: 1rem/1.5 system-ui, sans-serif; color: #1b2333; background: #fff; }
section { break-inside: avoid; border-top: 1px solid #ccc; overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { padding: .15rem .5rem; text-align: right; border-bottom: 1px solid #ddd; }
th:first-child { text-align: left; }
@page { margin: 1.5cm; }
@media print { body { max-width: none; margin: 0; padding: 0; } section { overflow: visible; } }`;

const HEAD = ["lane", "payload", "measured", "n", "p50", "p95", "bytes", "requests", "skipped", "lost"];
const COLUMNS = [
	"name", "experiment", "at", "distance_ms", "pace", "seconds", "prediction", "measured",
	"lane", "payload", "n", "p50_ms", "p95_ms", "bytes", "requests", "coalesced", "lost",
];

/** @param {unknown} text */
const escape = (text) => String(text ?? "").replace(/[&<>"']/g, (sign) => `&#${sign.charCodeAt(0)};`);

/** In quotes if need be (RFC 4180), and never a formula for a spreadsheet. @param {unknown} value */
function quote(value) {
	const text = typeof value === "string" ? value.replace(/^[=+\-@\t\r]/, "'$&") : String(value ?? "");
	return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

const payload = (/** @type {{ carry: boolean }} */ { carry }) => (carry ? "carry" : "signal");

/** With their experiment, each. @param {Result[]} results */
const known = (results) =>
	results.flatMap((result) => {
		const experiment = experiments.find(({ id }) => id === result.experiment);
		return experiment ? [{ result, experiment }] : [];
	});

/** One page that opens without a network. @param {Result[]} results @param {string} name @param {InWords} inWords */
export function asHtml(results, name, inWords) {
	const row = (/** @type {string} */ tag, /** @type {unknown[]} */ [first, ...cells]) =>
		`<tr><th>${escape(first)}</th>${cells.map((text) => `<${tag}>${escape(text)}</${tag}>`).join("")}</tr>`;
	const time = (/** @type {number | null} */ milliseconds) =>
		milliseconds == null ? "–" : duration(milliseconds);
	const sections = known(results).map(({ result, experiment }) => {
		const { at, distance, pace, oneWay, prediction, value, phases } = result;
		const bars = experiment.measure(phases, oneWay);
		const rows = phases.flatMap((phase) =>
			Object.entries(phase.lanes).map(([lane, figures]) => {
				const { n, p50, p95, bytes, requests, coalesced, lost } = figures;
				const measured = bars.find((bar) => bar.figures === figures)?.number ?? null;
				const compared = measured === null ? "–" : experiment.show(measured);
				return row("td", [
					inWords(experiment, lane), payload(phase), compared,
					n, time(p50), time(p95), bytes ?? "–", requests ?? "–", coalesced, lost,
				]);
			}),
		);
		const seconds = phases.map((phase) => phase.seconds).join(" + ");
		return `<section>
<h2>${escape(experiment.title)}</h2>
<p>${escape(experiment.question)}</p>
<p>Predicted: <b>${escape(inWords(experiment, prediction))}</b>. Measured: <b>${escape(inWords(experiment, value))}</b>.</p>
<p>${escape(experiment.explain(result))}</p>
<table>${row("th", HEAD)}${rows.join("")}</table>
<p><small>Round trip ${distance == null ? "unknown" : `${escape(distance)} ms`} · pace ${escape(pace)} · ${escape(seconds)} s · ${escape(at)}</small></p>
</section>`;
	});
	return `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>Pushlab: results${name && ` of ${escape(name)}`}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>${STYLE}</style>
<h1>Pushlab: my results</h1>
<p>Name: ${escape(name) || "____________________"}</p>
${sections.join("\n")}
</html>
`;
}

/** A row per lane and phase of each run (RFC 4180). @param {Result[]} results @param {string} name @param {InWords} inWords */
export function asCsv(results, name, inWords) {
	const rows = known(results).flatMap(({ result, experiment }) =>
		result.phases.flatMap((phase) =>
			Object.entries(phase.lanes).map(([lane, { n, p50, p95, bytes, requests, coalesced, lost }]) => [
				name, result.experiment, result.at, result.distance, result.pace, phase.seconds,
				inWords(experiment, result.prediction), inWords(experiment, result.value),
				lane, payload(phase), n, p50, p95, bytes, requests, coalesced, lost,
			]),
		),
	);
	return [COLUMNS, ...rows].map((row) => `${row.map(quote).join(",")}\r\n`).join("");
}

/** @param {string} text @param {string} name of the file @param {string} type */
export function save(text, name, type) {
	const url = URL.createObjectURL(new Blob([text], { type }));
	Object.assign(document.createElement("a"), { href: url, download: name }).click();
	setTimeout(() => URL.revokeObjectURL(url), 60_000);
}
