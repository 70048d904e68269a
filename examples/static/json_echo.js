// @ts-check
/** The browser half of examples/json_echo.py. socket.js closes its socket when the page is left. */

import { connect, find, log, onSubmit } from "./socket.js";

const socket = connect("/websocket", {
	received(message) {
		const { output, error } = JSON.parse(message);
		if (error) log(error, "error");
		else log(output);
	},
});

onSubmit(find("[data-form]"), ({ message }) => socket.send(message));

const closed = await (await fetch("/goodbyes")).json();
const counts = Object.entries(closed).map(([code, count]) => `${count} with ${code}`);
find("[data-goodbyes]").textContent = counts.join(", ") || "none has left yet";
