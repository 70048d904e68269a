/** The server's clock, as well as a browser can know it: ages must not depend on two clocks. */

// The server looked at its clock between the page's request and its answer. When exactly cannot be
// seen from here: in the middle, give or take half of that time.
const [page] = performance.getEntriesByType("navigation");
// The Back button may bring an old copy from the browser's cache, whose time says nothing.
if (page.type === "back_forward" && page.transferSize === 0) location.reload();

const loadedAt = Date.now() - performance.now();
const askedAt = loadedAt + page.requestStart;
const answeredAt = loadedAt + page.responseStart;

/** Milliseconds that the server's clock is ahead of this one. */
export const offset = Number(document.body.dataset.now) * 1000 - (askedAt + answeredAt) / 2;

/** How wrong the offset may be, in milliseconds either way. */
export const uncertainty = (answeredAt - askedAt) / 2;

/** The server's time now, in milliseconds since the epoch. */
export function serverNow() {
  // Not performance.now(), which stands still while some systems sleep.
  return Date.now() + offset;
}
