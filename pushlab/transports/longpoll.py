"""Long polling: the browser asks, and the server answers when there is something to say.

`GET /update?after=C` is held until the newest reading is not C. The answer is a signal, or with
`carry=1` the reading; after `timeout` seconds it is 204, and the browser asks again (RFC 6202).
"""

from flask import Response

from pushlab.feed import Feed
from pushlab.wsgi import parameters as query


def update(feed: Feed) -> Response:
    """Hold the current request until there is news, and answer with it."""
    after, timeout, carry = query.after(), query.timeout(), query.carry()
    reading = feed.wait(after, timeout=timeout)
    if reading is None:
        answer = Response(status=204)
        del answer.headers["Content-Type"]  # of nothing
    else:
        body = reading.carry if carry else reading.signal
        answer = Response(body, mimetype="application/json")
    answer.headers["Cache-Control"] = "no-store"  # the same question has another answer tomorrow
    return answer
