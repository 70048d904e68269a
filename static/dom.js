// @ts-check
/** The page's elements: found by their selectors, written only where something changed. */

/** The path below which the app is: "" or, for example, "/push". */
export const root = document.body.dataset.root ?? "";

export const reducedMotion = matchMedia("(prefers-reduced-motion: reduce)");

/**
 * Return the element; throws an Error if there is none.
 * @param {string} selector
 * @param {ParentNode} root
 * @returns {HTMLElement}
 */
export function find(selector, root = document) {
	const element = root.querySelector(selector);
	if (!element) throw new Error(`no ${selector}`);
	return /** @type {HTMLElement} */ (element);
}

/**
 * Write only what has changed: a screen reader may read out again whatever is written.
 * @template {Element} T
 * @param {T} element
 * @param {string} text
 * @returns {T}
 */
export function write(element, text) {
	if (element.textContent !== text) element.textContent = text;
	return element;
}
