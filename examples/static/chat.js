// @ts-check
/** The browser half of examples/chat.py. */

import { connect, find, findInput, log, notice, onSubmit, root } from "./socket.js";

const { room = "" } = find("[data-inside]").dataset;
/** @type {Set<string>} */
const members = new Set();
/** @type {import("./socket.js").Socket | null} */
let socket = null;

/** The server's messages, by the field that only one kind has. @type {Record<string, (message: any) => void>} */
const kinds = {
	you({ you, members: present, history }) {
		members.clear();
		for (const name of present) members.add(name);
		find("[data-log]").replaceChildren(); // after a reconnect the history has the last entries again
		history.forEach(show);
		log(`You are here as ${you}.`, "event");
	},
	from: show,
	joined({ joined }) {
		members.add(joined);
		log(`${joined} has joined.`, "event");
	},
	left({ left, dropped }) {
		members.delete(left);
		log(dropped ? `${left} was too slow, and is out.` : `${left} has left.`, "event");
	},
	error({ error }) {
		notice(error);
	},
};

/** @param {{ from: string, text: string }} message */
function show({ from, text }) {
	const name = document.createElement("b");
	name.textContent = `${from}: `;
	log(text).prepend(name);
}

/** @param {string} name */
function enter(name) {
	sessionStorage.setItem("name", name); // for this tab, until it is closed
	find("[data-enter]").hidden = true;
	find("[data-inside]").hidden = false;
	socket = connect(`/chat/${encodeURIComponent(room)}?name=${encodeURIComponent(name)}`, {
		received(text) {
			const message = JSON.parse(text);
			for (const kind in kinds) if (kind in message) kinds[kind](message);
			find("[data-members]").textContent = [...members].join(", ");
		},
	});
	find("#text").focus();
}

onSubmit(find("[data-enter]"), ({ name }) => {
	if (name.trim()) enter(name.trim());
});

onSubmit(find("[data-say]"), ({ text }, form) => {
	if (socket?.send(text)) form.reset();
});

onSubmit(find("[data-go]"), ({ room: other }) => {
	if (other.trim()) location.assign(`${root}/chat/${encodeURIComponent(other.trim())}`);
});

findInput("#name").value = sessionStorage.getItem("name") ?? "";
