"""Short polling: the browser asks again and again, and is answered at once, news or not.

`GET /data` brings the newest reading, or says with 304 that the browser has it already: the
cursor is the ETag (RFC 9110 section 13.1.2). `HEAD /data` says the same without the reading: a
signal.
"""

from flask import Response, request

from pushlab.feed import Feed


def update(feed: Feed) -> Response:
    """Answer the current request with the newest reading, unless the browser names it as known."""
    reading = feed.latest
    answer = Response(reading.carry, mimetype="application/json")
    answer.headers["Cache-Control"] = "no-cache"  # keep it, but ask before using it again
    answer.set_etag(reading.cursor)
    answer.make_conditional(request)
    return answer
