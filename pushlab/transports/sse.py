"""Server-sent events: one answer that never ends, to which the server adds when there is news.

`GET /update` with `Accept: text/event-stream` is answered by a stream of events, each with its
cursor as `id:` and a signal, or with `carry=1` the reading, as `data:`. A browser's EventSource
reconnects by itself and says with `Last-Event-ID` where it was (WHATWG HTML section 9.2).
"""

from collections.abc import Iterator

from flask import Response, request

from pushlab.feed import Feed
from pushlab.wsgi import parameters as query

#: Seconds of silence after which a comment shows that the stream lives, and its reader.
HEARTBEAT = 15.0
#: Milliseconds that a browser shall wait before it connects again.
RETRY = 1000


def update(feed: Feed) -> Response:
    """Answer the current request with every change from now on, until the browser leaves."""
    after, carry = query.after(), query.carry()
    # The URL of a reconnecting EventSource is still its first one: what it has seen since counts.
    after = request.headers.get("Last-Event-ID", after)
    answer = Response(events(feed, after, carry=carry), mimetype="text/event-stream")
    answer.headers["Cache-Control"] = "no-store"
    answer.headers["X-Accel-Buffering"] = "no"  # or nginx would collect the events
    return answer


def events(feed: Feed, after: str | None, *, carry: bool) -> Iterator[bytes]:
    """Yield the stream piece by piece, until the feed is closed."""
    yield b"retry: %d\n\n" % RETRY
    while not feed.closed:
        reading = feed.wait(after, timeout=HEARTBEAT)
        if reading is None:
            yield b":\n\n"
        else:
            after = reading.cursor
            data = reading.carry if carry else reading.signal
            yield b"id: %s\ndata: %s\n\n" % (after.encode(), data)
