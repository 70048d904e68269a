// @ts-check
/** The browser half of examples/json_echo.py. socket.js closes its socket on `pagehide`. */

import { connect, find, log, onSubmit, root } from "./socket.js";

const socket = connect("/websocket", {
	received(message) {
		const { output, error } = JSON.parse(message);
		if (error) log(error, "error");
		else log(output);
	},
});

onSubmit(find("[data-form]"), ({ message }) => socket.send(message));

const closed = await (await fetch(`${root}/close-codes`)).json();
const counts = Object.entries(closed).map(([code, count]) => `${count} with ${code}`);
find("[data-close-codes]").textContent = counts.join(", ") || "none yet";
