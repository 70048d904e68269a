"""Long polling: the server responds when there is news.

`GET /update?after=C` is held until the newest reading is not C. The response is a signal, or with
`carry=1` the reading. After `timeout` seconds (`limits.POLL_TIMEOUT`) it is 204, and the browser
asks again (RFC 6202).
"""

from pushlab.feed import Feed
from pushlab.wsgi import parameters
from pushlab.wsgi.responses import Environ, Response, json_response
from pushlab.wsgi.waiting import wait


def update(feed: Feed, environ: Environ) -> Response:
    """Wait for news, and return it."""
    after, timeout, carry = parameters.read(environ)
    reading = wait(feed, environ, after, timeout=timeout)
    no_store = ("Cache-Control", "no-store")  # the next response to this request is another one
    if reading is None:
        return Response("204 No Content", [no_store])
    return json_response("200 OK", reading.carry if carry else reading.signal, no_store)
