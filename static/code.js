// @ts-check
/** The code of a lane, in a dialog: the idea of what the page at /code/… shows. */

import { find, root } from "./dom.js";

const dialog = /** @type {HTMLDialogElement} */ (find("dialog.code"));
const title = find("h2", dialog);
const page = /** @type {HTMLAnchorElement} */ (find("header a", dialog));
const content = find("[role=region]", dialog);

/**
 * @param {string} transport
 * @param {string} name its title
 */
export async function showCode(transport, name) {
	page.href = `${root}/code/${transport}`;
	title.textContent = `${name}: the code`;
	dialog.className = `code ${transport}`;
	content.textContent = "Fetching the code…";
	dialog.showModal();
	content.scrollTop = 0;
	/** @type {Iterable<Node>} */
	let shown;
	try {
		const response = await fetch(page.href, { signal: AbortSignal.timeout(10_000) });
		if (!response.ok) throw new Error(`the server responded with ${response.status}`);
		const code = new DOMParser().parseFromString(await response.text(), "text/html");
		shown = find(".idea", code).childNodes;
	} catch (error) {
		const { message } = /** @type {Error} */ (error);
		const reason = error instanceof TypeError ? "the server cannot be reached" : message;
		const textContent = `The code cannot be shown: ${reason}.`;
		shown = [Object.assign(document.createElement("p"), { role: "alert", textContent })];
	}
	const isCurrent = title.textContent.startsWith(name); // unless another lane's code was opened since
	if (isCurrent) content.replaceChildren(...shown);
}
