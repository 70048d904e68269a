/** A WebSocket that stays connected while its page is shown, and the page's words for it. */

const LARGEST_CAP = 8000; // milliseconds, as all of these: the longest wait before trying again
const FIRST_CAP = 500;
const SHORTEST = 100;
const SETTLED = 1000; // open for this long, a connection is worth returning to at once

/** Codes with which a server says that coming back would be of no use. */
const FINAL = new Set([1003, 1007, 1008, 1009, 4401]);

/**
 * Connect to a path of this server. `heard` is called with each message, `opened` and `closed` (with
 * the CloseEvent) if they are given. Returns `send`, which says whether it could, and `stop`.
 */
export function connect(path, { heard, opened = () => {}, closed = () => {} }) {
	let socket = null;
	let timer = 0;
	let cap = FIRST_CAP;
	let wanted = true;

	function open() {
		clearTimeout(timer);
		show("connecting", "connecting…");
		const mine = (socket = new WebSocket(path)); // of this page's host, with ws or wss as it is
		let openSince = Infinity;
		mine.binaryType = "arraybuffer";
		mine.onopen = () => {
			openSince = performance.now();
			show("live", "connected");
			opened();
		};
		mine.onmessage = ({ data }) => heard(data);
		mine.onclose = (event) => {
			if (mine !== socket) return; // given up, and perhaps replaced
			socket = null;
			if (performance.now() - openSince > SETTLED) cap = FIRST_CAP;
			if (FINAL.has(event.code)) {
				wanted = false;
				show("stopped", `closed by the server: ${event.reason || event.code}`);
			} else {
				// Full jitter: any time up to a cap that doubles, so that not all return at once.
				timer = setTimeout(open, SHORTEST + Math.random() * (cap - SHORTEST));
				cap = Math.min(cap * 2, LARGEST_CAP);
				show("retrying", "not connected, trying again");
			}
			closed(event);
		};
	}

	function close() {
		clearTimeout(timer);
		const leaving = socket;
		socket = null;
		leaving?.close(1000, "left");
	}

	// `pagehide` comes whenever a page is left, also on phones and into the back/forward cache.
	const over = new AbortController();
	addEventListener("pagehide", close, { signal: over.signal });
	addEventListener("pageshow", ({ persisted }) => persisted && wanted && open(), { signal: over.signal });
	addEventListener("online", () => wanted && !socket && open(), { signal: over.signal });
	open();

	return {
		send(message) {
			const can = socket?.readyState === WebSocket.OPEN;
			if (can) socket.send(message);
			notice(can ? "" : "Not sent: there is no connection. Try again when there is.");
			return can;
		},
		stop() {
			wanted = false;
			over.abort();
			close();
			show("stopped", "not connected");
		},
	};
}

export const find = (selector) => document.querySelector(selector);

function show(state, words) {
	find("[data-state]").dataset.state = state;
	find("[data-state] [role=status]").textContent = words;
}

/** Tell the reader what went wrong, or with "" that nothing does any more. */
export function notice(text) {
	find("[data-notice]").textContent = text;
}

/** Add a line to the log, as text, whatever it is; the oldest of many go. */
export function log(text, kind = "heard") {
	const line = document.createElement("p");
	line.dataset.kind = kind;
	line.textContent = text;
	const lines = find("[data-log]");
	lines.append(line);
	while (lines.children.length > 200) lines.firstChild.remove();
	lines.scrollTop = lines.scrollHeight;
	return line;
}

/** Have a form do this with its fields, by their names, instead of loading another page. */
export function onSubmit(form, act) {
	form.addEventListener("submit", (event) => {
		event.preventDefault();
		act(Object.fromEntries(new FormData(form)), form);
	});
}
