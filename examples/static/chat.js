/** The browser's half of examples/chat.py. */

import { connect, find, log, notice, onSubmit } from "./socket.js";

const { room } = find("[data-inside]").dataset;
const members = new Set();
let socket = null;

/** What the server may say, by the field that tells one message from another. */
const kinds = {
	you({ you, members: present, history }) {
		members.clear();
		present.forEach((name) => members.add(name));
		find("[data-log]").replaceChildren(); // after a reconnect, too: the history has the last of it
		history.forEach(said);
		log(`You are here as ${you}.`, "event");
	},
	from: said,
	joined({ joined }) {
		members.add(joined);
		log(`${joined} has come.`, "event");
	},
	left({ left, dropped }) {
		members.delete(left);
		log(dropped ? `${left} was too slow, and is out.` : `${left} has left.`, "event");
	},
	error({ error }) {
		notice(error);
	},
};

function said({ from, text }) {
	const name = document.createElement("b");
	name.textContent = `${from}: `;
	log(text).prepend(name);
}

function enter(name) {
	sessionStorage.setItem("name", name); // for this tab, until it is closed
	find("[data-enter]").hidden = true;
	find("[data-inside]").hidden = false;
	socket = connect(`/chat/${encodeURIComponent(room)}?name=${encodeURIComponent(name)}`, {
		heard(text) {
			const message = JSON.parse(text);
			kinds[Object.keys(kinds).find((kind) => kind in message)](message);
			find("[data-members]").textContent = [...members].join(", ");
		},
	});
	find("#text").focus();
}

onSubmit(find("[data-enter]"), ({ name }) => name.trim() && enter(name.trim()));

onSubmit(find("[data-say]"), ({ text }, form) => {
	if (socket.send(text)) form.reset();
});

onSubmit(find("[data-go]"), ({ room: other }) => {
	if (other.trim()) location.assign(`/chat/${encodeURIComponent(other.trim())}`);
});

find("#name").value = sessionStorage.getItem("name") ?? "";
