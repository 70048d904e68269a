/** The server's clock, as well as a browser can know it: ages must not depend on two clocks. */

/**
 * Milliseconds that the server's clock is ahead of this one. The server looked at its clock between
 * the page's request and its answer; in the middle, as far as one can tell from here.
 */
export const offset = Number(document.body.dataset.now) * 1000 - momentOfTheRequest();

/** The server's time now, in milliseconds since the epoch. */
export function serverNow() {
  // Not performance.now(), which stands still while some systems sleep.
  return Date.now() + offset;
}

function momentOfTheRequest() {
  const [page] = performance.getEntriesByType("navigation");
  const middle = page ? (page.requestStart + page.responseStart) / 2 : performance.now();
  return Date.now() - performance.now() + middle;
}
