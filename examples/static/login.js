// @ts-check
/** The browser half of examples/login.py. */

import { connect, find, log, notice, onSubmit, root } from "./socket.js";

/** @type {import("./socket.js").Socket | null} */
let socket = null;

/**
 * @param {string} path
 * @param {object} value
 */
async function post(path, value) {
	notice("");
	try {
		const headers = { "Content-Type": "application/json" };
		const response = await fetch(root + path, { method: "POST", headers, body: JSON.stringify(value) });
		const { error = "" } = await response.json();
		if (error) notice(error);
		return response.ok;
	} catch {
		notice("The server cannot be reached.");
		return false;
	}
}

function enter() {
	show(true);
	socket = connect("/whoami", {
		received(text) {
			const message = JSON.parse(text);
			if (message.you) find("[data-you]").textContent = message.you;
			else log(`${message.from}: ${message.text}`);
		},
		async closed({ code }) {
			// Browsers hide why a handshake failed: 1006 may be a 401 or a lost connection.
			if (code === 4401 || (code === 1006 && (await isLoggedOut()))) showLogin("You are logged out.");
		},
	});
}

/** Whether the login has ended, as after a restart of the server. */
async function isLoggedOut() {
	try {
		const page = new DOMParser().parseFromString(await (await fetch(`${root}/`)).text(), "text/html");
		return find("[data-login]", page).dataset.name === "";
	} catch {
		return false; // it cannot be reached
	}
}

/** @param {string} reason */
function showLogin(reason) {
	socket?.stop();
	socket = null;
	find("[data-log]").replaceChildren();
	show(false);
	notice(reason);
}

/** @param {boolean} isInside */
function show(isInside) {
	find("[data-login]").hidden = isInside;
	find("[data-inside]").hidden = !isInside;
	find(isInside ? "#message" : "#name").focus();
}

onSubmit(find("[data-login]"), async (fields, form) => {
	if (!(await post("/login", fields))) return;
	form.reset();
	enter();
});

onSubmit(find("[data-say]"), ({ message }, form) => {
	if (socket?.send(message)) form.reset();
});

// The socket need not be closed here: the server closes it, in every tab.
find("[data-logout]").addEventListener("click", () => post("/logout", {}));

if (find("[data-login]").dataset.name) enter();
