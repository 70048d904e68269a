/** The browser's half of examples/blueprints.py: the page says which socket it wants. */

import { connect, find, log, onSubmit } from "./socket.js";

const socket = connect(find("[data-socket]").textContent, { heard: (message) => log(message) });

onSubmit(find("[data-form]"), ({ message }, form) => {
	if (socket.send(message)) form.reset();
});
