/** The browser's half of examples/login.py. */

import { connect, find, log, notice, onSubmit } from "./socket.js";

let socket = null;

async function post(path, value) {
	notice("");
	try {
		const headers = { "Content-Type": "application/json" };
		const answer = await fetch(path, { method: "POST", headers, body: JSON.stringify(value) });
		const { error = "" } = await answer.json();
		if (error) notice(error);
		return answer.ok;
	} catch {
		notice("The server cannot be reached.");
		return false;
	}
}

function enter() {
	show(true);
	socket = connect("/whoami", {
		heard(text) {
			const message = JSON.parse(text);
			if (message.you) find("[data-you]").textContent = message.you;
			else log(`${message.from}: ${message.text}`);
		},
		async closed({ code }) {
			// Why a handshake was refused no page is told: 1006 is a 401 as well as a cut.
			if (code === 4401 || (code === 1006 && (await isOver()))) leave("You are logged out.");
		},
	});
}

/** Ask whether there is no login any more, as after a restart of the server. */
async function isOver() {
	try {
		const page = new DOMParser().parseFromString(await (await fetch("/")).text(), "text/html");
		return page.querySelector("[data-login]")?.dataset.name === "";
	} catch {
		return false; // it cannot be reached
	}
}

function leave(why) {
	socket?.stop();
	socket = null;
	find("[data-log]").replaceChildren();
	show(false);
	notice(why);
}

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
	if (socket.send(message)) form.reset();
});

// The socket need not be closed here: the server closes it, in every tab.
find("[data-logout]").addEventListener("click", () => post("/logout", {}));

if (find("[data-login]").dataset.name) enter();
