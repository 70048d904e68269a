"""Short polling: repeated requests, each with an immediate response.

`GET /data` brings the newest reading, or says with 304 that the browser has it: the cursor is the
ETag (RFC 9110 section 13.1.2). `HEAD /data` returns the same headers without the reading: a signal.
"""

from werkzeug.http import is_resource_modified, parse_etags

from pushlab.feed import Feed
from pushlab.wsgi.responses import Environ, Response, json_response


def update(feed: Feed, environ: Environ) -> Response:
    """Return the newest reading, unless the browser has it."""
    reading = feed.latest
    etag = f'"{reading.cursor}"'
    # A cache may keep it, but has to ask before it uses it again.
    headers = [("Cache-Control", "no-cache"), ("ETag", etag)]
    if is_resource_modified(environ, etag=etag):
        return json_response("200 OK", reading.carry, *headers)
    if parse_etags(environ.get("HTTP_IF_MATCH")):
        return Response("412 Precondition Failed", [*headers, ("Content-Length", "0")])
    return Response("304 Not Modified", headers)
