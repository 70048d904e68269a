/** The code of a lane, in a dialog: what the page at /code/… shows. */

const dialog = document.querySelector("dialog.code");
const [title, page] = dialog.querySelectorAll("h2, header a");
const content = dialog.querySelector("[role=region]");

export async function showCode(transport, name) {
	page.href = `/code/${transport}`;
	title.textContent = `${name}: the code`;
	dialog.className = `code ${transport}`;
	content.textContent = "Fetching the code…";
	dialog.showModal();
	content.scrollTop = 0;
	let shown;
	try {
		const answer = await fetch(`/code/${transport}`, { signal: AbortSignal.timeout(10_000) });
		if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
		shown = new DOMParser().parseFromString(await answer.text(), "text/html").querySelector("main").childNodes;
	} catch (error) {
		const why = error instanceof TypeError ? "the server cannot be reached" : error.message;
		const textContent = `The code cannot be shown: ${why}.`;
		shown = [Object.assign(document.createElement("p"), { role: "alert", textContent })];
	}
	if (title.textContent.startsWith(name)) content.replaceChildren(...shown); // or it is too late
}

// A link scrolls, but is no step in the page's history.
content.addEventListener("click", (event) => {
	const link = event.target.closest("a");
	if (!link) return;
	event.preventDefault();
	document.getElementById(link.hash.slice(1)).scrollIntoView();
});
