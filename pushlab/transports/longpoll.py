"""Long polling: the server responds when there is news.

`GET /update?after=C` is held until the newest reading is not C. The response is a signal, or with
`carry=1` the reading. After `timeout` seconds (`limits.POLL_TIMEOUT`) it is 204, and the browser
asks again (RFC 6202). Of feeds with names it is an array, with everything that is missing.
"""

from collections.abc import Sequence

from pushlab import feed, limits
from pushlab.feed import Feed, Reading
from pushlab.wsgi import parameters
from pushlab.wsgi.responses import Environ, Response, json_response
from pushlab.wsgi.waiting import Wait

#: The next response to this request is another one.
NO_STORE = ("Cache-Control", "no-store")


def update(feeds: Sequence[Feed], environ: Environ) -> Response | Wait:
    """Respond with news, or wait for it."""
    topics, afters, timeout, carry = parameters.read(environ)
    if timeout is None:
        timeout = limits.POLL_TIMEOUT
    if topics:
        respond = carry_readings if carry else signal_readings
    else:
        respond = carry_reading if carry else signal_reading
    positions = feed.positions(feeds, afters)
    found = feed.news(positions)
    wait = Wait(positions, timeout, respond)
    return wait.count(found) if found else wait


def signal_reading(found: Sequence[Reading]) -> Response:
    """Return a signal; 204 if there is nothing new."""
    return json_response("200 OK", found[-1].signal, NO_STORE) if found else nothing_new()


def carry_reading(found: Sequence[Reading]) -> Response:
    """Return the reading; 204 if there is nothing new."""
    return json_response("200 OK", found[-1].carry, NO_STORE) if found else nothing_new()


def signal_readings(found: Sequence[Reading]) -> Response:
    """Return an array of signals, the last of each topic."""
    last = {reading.feed: reading.signal for reading in found}
    return array(list(last.values()))


def carry_readings(found: Sequence[Reading]) -> Response:
    """Return an array of readings, each topic's in order."""
    return array([reading.carry for reading in found])


def array(messages: list[bytes]) -> Response:
    """Return a JSON array; 204 without messages."""
    if not messages:
        return nothing_new()
    return json_response("200 OK", b"[%s]" % b",".join(messages), NO_STORE)


def nothing_new() -> Response:
    """Return the response to a poll that waited in vain."""
    return Response("204 No Content", [NO_STORE])
