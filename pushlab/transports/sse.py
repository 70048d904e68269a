"""Server-sent events: one endless response, one event per change.

`GET /update` with `Accept: text/event-stream` begins a stream of events, each with its cursor as
`id:` and a signal, or with `carry=1` the reading, as `data:`. A browser's EventSource reconnects by
itself and says with `Last-Event-ID` where it was (WHATWG HTML section 9.2).
"""

from pushlab import limits
from pushlab.feed import Feed, Reading
from pushlab.wsgi import parameters
from pushlab.wsgi.responses import Environ
from pushlab.wsgi.waiting import Stream

HEADERS = [
    ("Content-Type", "text/event-stream; charset=utf-8"),
    ("Cache-Control", "no-store"),
    ("X-Accel-Buffering", "no"),  # or nginx would collect the events
]


def update(feed: Feed, environ: Environ) -> Stream:
    """Return a stream of every change from now on."""
    after, _, carry = parameters.read(environ)
    # The URL of a reconnecting EventSource is still its first one: the newer cursor counts.
    after = environ.get("HTTP_LAST_EVENT_ID", after)
    return Stream(
        feed,
        after,
        HEADERS,
        first=b"retry: %d\n\n" % limits.RETRY,
        event=carry_reading if carry else signal_reading,
        heartbeat=b":\n\n",  # a comment, so that proxies do not cut what is silent
        interval=limits.HEARTBEAT,
    )


def signal_reading(reading: Reading) -> bytes:
    """Return the event that says that there is a reading."""
    return b"id: %s\ndata: %s\n\n" % (reading.cursor.encode(), reading.signal)


def carry_reading(reading: Reading) -> bytes:
    """Return the event that brings the reading."""
    return b"id: %s\ndata: %s\n\n" % (reading.cursor.encode(), reading.carry)
