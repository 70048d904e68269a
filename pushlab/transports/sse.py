"""Server-sent events: one endless response, one event per change.

`GET /update` with `Accept: text/event-stream` begins a stream of events, each with its cursor as
`id:` and a signal, or with `carry=1` the reading, as `data:`. A browser's EventSource reconnects by
itself and says with `Last-Event-ID` where it was (WHATWG HTML section 9.2). Of several feeds the id
has the cursors of all, in the order in which the request names them.
"""

from collections.abc import Sequence

from pushlab import limits
from pushlab.feed import Feed, Reading, positions
from pushlab.wsgi import parameters
from pushlab.wsgi.responses import Environ
from pushlab.wsgi.waiting import Stream

HEADERS = [
    ("Content-Type", "text/event-stream; charset=utf-8"),
    ("Cache-Control", "no-store"),
    ("X-Accel-Buffering", "no"),  # or nginx would collect the events
]


def update(feeds: Sequence[Feed], environ: Environ) -> Stream:
    """Return a stream of every change from now on."""
    _, afters, _, carry = parameters.read(environ)
    return Stream(
        positions(feeds, parameters.resumed(environ, afters)),
        HEADERS,
        first=b"retry: %d\n\n" % limits.RETRY,
        event=carry_reading if carry else signal_reading,
        heartbeat=b":\n\n",  # a comment, so that proxies do not cut what is silent
        interval=limits.HEARTBEAT,
    )


def signal_reading(reading: Reading, last_id: str) -> bytes:
    """Return the event that says that there is a reading."""
    return b"id: %s\ndata: %s\n\n" % (last_id.encode(), reading.signal)


def carry_reading(reading: Reading, last_id: str) -> bytes:
    """Return the event that brings the reading."""
    return b"id: %s\ndata: %s\n\n" % (last_id.encode(), reading.carry)
