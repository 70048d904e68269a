"""Long polling: the server responds when there is news.

`GET /update?after=C` is held until the newest reading is not C. The response is a signal, or with
`carry=1` the reading. After `timeout` seconds (`limits.POLL_TIMEOUT`) it is 204, and the browser
asks again (RFC 6202).
"""

from pushlab.feed import Feed, Reading
from pushlab.wsgi import parameters
from pushlab.wsgi.responses import Environ, Response, json_response
from pushlab.wsgi.waiting import Wait

#: The next response to this request is another one.
NO_STORE = ("Cache-Control", "no-store")


def update(feed: Feed, environ: Environ) -> Response | Wait:
    """Respond with news, or wait for it."""
    after, timeout, carry = parameters.read(environ)
    respond = carry_reading if carry else signal_reading
    if feed.latest.cursor != after:
        return respond(feed.latest)
    return Wait(feed, after, timeout, respond)


def signal_reading(reading: Reading | None) -> Response:
    """Return a signal; 204 if there is nothing new."""
    return json_response("200 OK", reading.signal, NO_STORE) if reading else nothing_new()


def carry_reading(reading: Reading | None) -> Response:
    """Return the reading; 204 if there is nothing new."""
    return json_response("200 OK", reading.carry, NO_STORE) if reading else nothing_new()


def nothing_new() -> Response:
    """Return the response to a poll that waited in vain."""
    return Response("204 No Content", [NO_STORE])
