/** The browser's half of examples/json_echo.py. Its socket is closed on leaving: see socket.js. */

import { connect, find, log, onSubmit } from "./socket.js";

const socket = connect("/websocket", {
	heard(message) {
		const { output, error } = JSON.parse(message);
		if (error) log(error, "error");
		else log(output);
	},
});

onSubmit(find("[data-form]"), ({ message }) => socket.send(message));

const goodbyes = await (await fetch("/goodbyes")).json();
const counts = Object.entries(goodbyes).map(([code, count]) => `${count} with ${code}`);
find("[data-goodbyes]").textContent = counts.join(", ") || "none has left yet";
