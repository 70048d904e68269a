"""Server-sent events: one endless response, one event per change.

`GET /update` with `Accept: text/event-stream` begins a stream of events, each with its cursor as
`id:` and a signal, or with `carry=1` the reading, as `data:`. A browser's EventSource reconnects by
itself and says with `Last-Event-ID` where it was (WHATWG HTML section 9.2).
"""

from collections.abc import Iterator

from pushlab import limits
from pushlab.feed import Feed
from pushlab.websocket.connection import ConnectionClosed
from pushlab.wsgi import parameters
from pushlab.wsgi.responses import Environ, Response
from pushlab.wsgi.waiting import wait


def update(feed: Feed, environ: Environ) -> Response:
    """Return a stream of every change from now on."""
    after, _, carry = parameters.read(environ)
    # The URL of a reconnecting EventSource is still its first one: the newer cursor counts.
    after = environ.get("HTTP_LAST_EVENT_ID", after)
    headers = [
        ("Content-Type", "text/event-stream; charset=utf-8"),
        ("Cache-Control", "no-store"),
        ("X-Accel-Buffering", "no"),  # or nginx would collect the events
    ]
    return Response("200 OK", headers, events(feed, environ, after, carry=carry))


def events(feed: Feed, environ: Environ, after: str | None, *, carry: bool) -> Iterator[bytes]:
    """Yield the stream in pieces until the feed is closed."""
    yield b"retry: %d\n\n" % limits.RETRY
    while not feed.closed:
        try:
            reading = wait(feed, environ, after, timeout=limits.HEARTBEAT)
        except ConnectionClosed:
            return
        if reading is None:
            yield b":\n\n"  # a comment, so that proxies do not cut what is silent
        else:
            after = reading.cursor
            data = reading.carry if carry else reading.signal
            yield b"id: %s\ndata: %s\n\n" % (after.encode(), data)
