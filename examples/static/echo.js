// @ts-check
/** The browser half of examples/echo.py. */

import { connect, find, log, onSubmit } from "./socket.js";

const socket = connect("/echo", { received: (message) => log(message) });

onSubmit(find("[data-form]"), ({ message }, form) => {
	if (socket.send(message)) form.reset();
});
