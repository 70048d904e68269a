/** Cursors: `<epoch>-<sequence>`, the position of a reading in its feed. */

/** @param {string} [cursor] */
const parts = (cursor = "") => /^([0-9a-z]+)-(\d+)$/i.exec(cursor) ?? [];

/** The random name of the feed's current life. @param {string} [cursor] */
export const epoch = (cursor) => parts(cursor)[1];

/** The reading's number, counted up from 1. @param {string} [cursor] */
export const sequence = (cursor) => Number(parts(cursor)[2]);

/** Whether it is not among what `after` has seen. @param {string} cursor @param {string} [after] */
export const isNewer = (cursor, after) =>
	epoch(cursor) !== epoch(after) || sequence(cursor) > sequence(after);
