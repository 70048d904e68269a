// @ts-check
/** Keeps the page as new as the database: the stock of each product, and the customer's orders. */

import { follow } from "../push/push.js"; // of this server, whatever the path below which it is

/** @param {string} selector */
const find = (selector) => /** @type {HTMLElement} */ (document.querySelector(selector));

const { topic = "", after, login = "" } = find("main").dataset;
const status = find("[role=status]");
const notice = find("[role=alert]");
const orders = find("[data-orders]");
const stocks = new Map(
	[.../** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll("[data-stock]"))].map((element) => [
		`stock/${element.dataset.stock}`,
		element,
	]),
);

/** @param {{ order: number, sku: string, status: string }} value */
function showOrder({ order, sku, status }) {
	let entry = orders.querySelector(`[data-order="${order}"]`);
	if (!entry) {
		entry = document.createElement("li");
		entry.setAttribute("data-order", String(order));
		orders.prepend(entry);
	}
	entry.textContent = `Order ${order}, ${sku}: ${status}`;
}

follow([topic, ...stocks.keys()], {
	after: { [topic]: after }, // the page has the orders up to here; of a stock, the newest is sent
	onReading(reading) {
		const stock = stocks.get(reading.topic);
		if (stock) stock.textContent = reading.value.left;
		else showOrder(reading.value);
	},
	onReset: () => location.reload(), // away for more than the log keeps: the database has it all
	onRefused: () => location.assign(login), // logged out, also in another tab
	onState(state) {
		status.dataset.state = state;
		status.textContent = state === "live" ? "connected" : state === "stopped" ? "not connected" : `${state}…`;
	},
});

for (const form of /** @type {NodeListOf<HTMLFormElement>} */ (document.querySelectorAll("main form"))) {
	form.addEventListener("submit", async (event) => {
		event.preventDefault(); // without this script the form works, too, and loads the page again
		const { ok } = await fetch(form.action, { method: "POST" }).catch(() => ({ ok: false }));
		notice.textContent = ok ? "" : "Not ordered: the shop does not respond.";
	});
}
