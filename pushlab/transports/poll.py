"""Short polling: repeated requests, each with an immediate response.

`GET /data` brings the newest reading, or says with 304 that the browser has it: the cursor is the
ETag (RFC 9110 section 13.1.2). `HEAD /data` returns the same headers without the reading: a signal.
"""

from collections.abc import Sequence

from werkzeug.exceptions import BadRequest
from werkzeug.http import parse_etags

from pushlab import counts
from pushlab.feed import Feed
from pushlab.wsgi.remembered import remembered
from pushlab.wsgi.responses import Environ, Response, json_response

etags = remembered(parse_etags)  #: all that have the newest reading name the same


def update(feeds: Sequence[Feed], environ: Environ) -> Response:
    """Return the newest reading, unless the browser has it."""
    if len(feeds) > 1:
        raise BadRequest("topic: only one has a newest reading")
    wanted, known = environ.get("HTTP_IF_MATCH"), environ.get("HTTP_IF_NONE_MATCH")
    # Another process may have sent that one a moment before this one has it.
    feeds[0].load(known.removeprefix("W/").strip('"') if known else None)
    reading = feeds[0].latest
    # A cache may keep it, but has to ask before it uses it again.
    headers = [("Cache-Control", "no-cache"), ("ETag", f'"{reading.cursor}"')]
    if wanted and not etags(wanted).contains(reading.cursor):  # before the other (13.2.2)
        return Response("412 Precondition Failed", [*headers, ("Content-Length", "0")])
    if known and etags(known).contains_weak(reading.cursor):
        return Response("304 Not Modified", headers)
    counts.fetched(reading, environ["REQUEST_METHOD"])
    return json_response("200 OK", reading.carry, *headers)
