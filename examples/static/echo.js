/** The browser's half of examples/echo.py. */

import { connect, find, log, onSubmit } from "./socket.js";

const socket = connect("/echo", { heard: (message) => log(message) });

onSubmit(find("[data-form]"), ({ message }, form) => {
	if (socket.send(message)) form.reset();
});
