/** Follow topics of a Flask app with `Push`: docs/reference/push-js.rst. */

export type Transport = "websocket" | "sse" | "longpoll";

/**
 * `stale`: what was signalled takes long to fetch. `retrying`, `offline`: waiting to connect again.
 * `stopped`: closed, or the page is hidden. `refused`: closed for good by the server.
 */
export type State = "connecting" | "live" | "stale" | "retrying" | "offline" | "stopped" | "refused";

export interface Reading<Value = any> {
	topic: string;
	/** `<epoch>-<sequence>`: what `after` takes. */
	cursor: string;
	/** When it was published: seconds since 1970, by the server's clock. */
	changed_at: number;
	value: Value;
}

export interface Options<Value = any> {
	/** Where to go on: a cursor, or with several topics cursors by topic. Default: from the beginning. */
	after?: string | null | Record<string, string | null | undefined>;
	/** Whether messages carry the readings, or only signal that there are some. Default: true. */
	carry?: boolean;
	/** Which to try, in this order. Default: `["websocket", "sse", "longpoll"]`. */
	transports?: readonly Transport[];
	/** Whether to stay connected while the page is hidden. Default: false. */
	whileHidden?: boolean;
	onReading?(reading: Reading<Value>): void;
	/** The log does not keep what came after our cursor: start over from your own data. */
	onReset?(reset: { topic: string; cursor: string }): void;
	/** `retryAt` is by `Date.now()` while waiting, else null. */
	onState?(state: State, retryAt: number | null): void;
	/** Nothing follows any more. `status`: 400, 401, 403 or 404. */
	onRefused?(refusal: { status: number }): void;
}

export interface Following {
	/** Close the connection; nothing is called any more but `onState("stopped", null)`. */
	close(): void;
	readonly state: State;
}

export function follow<Value = any>(topics: string | readonly string[], options?: Options<Value>): Following;
