// @ts-check
/** A WebSocket that stays connected while its page is shown, and what the page says about it. */

const MIN_WAIT = 100; // milliseconds, as all of these: waits before connecting again
const FIRST_CAP = 500;
const MAX_CAP = 8000;
const SETTLED = 1000; // a connection that was open for this long is retried with the first cap again

/** Close codes after which reconnecting would be of no use. */
const FINAL = new Set([1003, 1007, 1008, 1009, 4401]);

/** The path below which the app is: "" or, for example, "/push". */
export const root = document.body.dataset.root ?? "";

/**
 * @typedef {object} Listeners
 * @property {(message: any) => void} received text, or an ArrayBuffer
 * @property {() => void} [opened]
 * @property {(event: CloseEvent) => void} [closed]
 */
/**
 * @typedef {object} Socket
 * @property {(message: string | ArrayBuffer) => boolean} send whether there was a connection
 * @property {() => void} stop
 */

/**
 * Connect to a path of this server, and reconnect until stopped.
 * @param {string} path
 * @param {Listeners} listeners
 * @returns {Socket}
 */
export function connect(path, { received, opened = () => {}, closed = () => {} }) {
	/** @type {WebSocket | null} */
	let socket = null;
	/** @type {ReturnType<typeof setTimeout>} */
	let timer;
	let cap = FIRST_CAP;
	let enabled = true;

	function open() {
		clearTimeout(timer);
		show("connecting", "connecting…");
		const own = (socket = new WebSocket(root + path)); // of this page's host, with ws or wss as it is
		let openSince = Infinity;
		own.binaryType = "arraybuffer";
		own.onopen = () => {
			openSince = performance.now();
			show("live", "connected");
			opened();
		};
		own.onmessage = ({ data }) => received(data);
		own.onclose = (event) => {
			if (own !== socket) return; // closed by us, and perhaps replaced
			socket = null;
			if (performance.now() - openSince > SETTLED) cap = FIRST_CAP;
			if (FINAL.has(event.code)) {
				enabled = false;
				show("stopped", `closed by the server: ${event.reason || event.code}`);
			} else {
				// Full jitter: any time up to a cap that doubles, so that browsers do not all return at once.
				timer = setTimeout(open, MIN_WAIT + Math.random() * (cap - MIN_WAIT));
				cap = Math.min(cap * 2, MAX_CAP);
				show("retrying", "not connected, trying again");
			}
			closed(event);
		};
	}

	function close() {
		clearTimeout(timer);
		const open = socket;
		socket = null;
		open?.close(1000, "left");
	}

	// `pagehide` comes whenever a page is left, also on phones and into the back/forward cache.
	const listening = new AbortController();
	const { signal } = listening;
	addEventListener("pagehide", close, { signal });
	addEventListener("pageshow", ({ persisted }) => persisted && enabled && open(), { signal });
	addEventListener("online", () => enabled && !socket && open(), { signal });
	open();

	return {
		send(message) {
			const isOpen = socket?.readyState === WebSocket.OPEN;
			if (isOpen) socket?.send(message);
			notice(isOpen ? "" : "Not sent: there is no connection. Try again when there is.");
			return isOpen;
		},
		stop() {
			enabled = false;
			listening.abort();
			close();
			show("stopped", "not connected");
		},
	};
}

/**
 * Return the element; throws an Error if there is none.
 * @param {string} selector
 * @param {ParentNode} root
 * @returns {HTMLElement}
 */
export function find(selector, root = document) {
	const element = root.querySelector(selector);
	if (!element) throw new Error(`no ${selector}`);
	return /** @type {HTMLElement} */ (element);
}

/** @param {string} selector */
export const findInput = (selector) => /** @type {HTMLInputElement} */ (find(selector));

/**
 * @param {string} state
 * @param {string} words
 */
function show(state, words) {
	find("[data-state]").dataset.state = state;
	find("[data-state] [role=status]").textContent = words;
}

/** Show what went wrong, or with "" that nothing does any more. @param {string} text */
export function notice(text) {
	find("[data-notice]").textContent = text;
}

/**
 * Add an entry to the log, as text, whatever it is; the oldest of many are removed.
 * @param {string} text
 */
export function log(text, kind = "message") {
	const entry = document.createElement("p");
	entry.dataset.kind = kind;
	entry.textContent = text;
	const entries = find("[data-log]");
	entries.append(entry);
	while (entries.children.length > 200) entries.firstChild?.remove();
	entries.scrollTop = entries.scrollHeight;
	return entry;
}

/**
 * Call `act` with the form's fields, by their names, instead of loading another page.
 * @param {HTMLElement} element a form
 * @param {(fields: Record<string, string>, form: HTMLFormElement) => void} act
 */
export function onSubmit(element, act) {
	const form = /** @type {HTMLFormElement} */ (element);
	form.addEventListener("submit", (event) => {
		event.preventDefault();
		const fields = /** @type {Record<string, string>} */ (Object.fromEntries(new FormData(form)));
		act(fields, form);
	});
}
