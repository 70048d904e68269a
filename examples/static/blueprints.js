// @ts-check
/** The browser half of examples/blueprints.py: the page names its socket. */

import { connect, find, log, onSubmit } from "./socket.js";

const socket = connect(find("[data-socket]").textContent, { received: (message) => log(message) });

onSubmit(find("[data-form]"), ({ message }, form) => {
	if (socket.send(message)) form.reset();
});
