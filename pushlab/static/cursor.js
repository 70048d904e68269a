// @ts-check
/** Cursors: `<epoch>-<sequence>`, the position of a reading in its feed. */

/** The random name of the feed's current life. @param {string} cursor */
export const epoch = (cursor) => cursor.split("-")[0];

/** The reading's number, counted up from 1. @param {string} cursor */
export const sequence = (cursor) => Number(cursor.split("-")[1]);

/**
 * Whether a cursor names a reading that a subscriber at `after` has not received.
 * @param {string} cursor
 * @param {string} after
 */
export function isNewer(cursor, after) {
	return epoch(cursor) !== epoch(after) || sequence(cursor) > sequence(after);
}
