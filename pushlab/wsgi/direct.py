"""A shortcut past Flask for the requests that come again and again.

Flask answers `GET /data`, `HEAD /data` and the long poll well, at the price of a request context,
routing and response objects: two thirds of what such an answer costs. This WSGI middleware answers
them from the feed, byte for byte as Flask would, if they are put in the plain way that a browser
puts them. Anything unusual goes on to Flask, whose routes remain the ones to read (`app.py`,
`longpoll.py`). `--no-shortcut` leaves everything to Flask; a test compares both.
"""

import re
from collections.abc import Callable, Iterable
from typing import Any

from pushlab.feed import Feed
from pushlab.wsgi.parameters import TIMEOUT

#: after, carry and timeout, each at most once, in any order, and with nothing to complain about;
#: and the lane, which is for the meters.
_QUERY = re.compile(
    r"(?!.*\b(after|carry|timeout)=.*\b\1=)"
    r"(?:(?:^|&)(?:after=(?P<after>[0-9A-Za-z]{1,32}-[0-9]{1,18})"
    r"|carry=(?P<carry>[01])"
    r"|lane=[0-9A-Za-z-]+"
    r"|timeout=(?P<timeout>[0-5]?[0-9](?:\.[0-9]{1,9})?)))*"
)
_ETAG = re.compile(r'"([0-9A-Za-z-]*)"')
_JSON = ("Content-Type", "application/json")
_NO_CACHE = ("Cache-Control", "no-cache")
_NO_STORE = ("Cache-Control", "no-store")
#: What changes Flask's answer in ways that are not worth repeating here.
_UNUSUAL = ("HTTP_IF_MATCH", "HTTP_IF_MODIFIED_SINCE", "HTTP_IF_RANGE", "HTTP_IF_UNMODIFIED_SINCE",
            "HTTP_RANGE")  # fmt: skip

WSGI = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class Shortcut:
    """Answers what it knows from the feed, and passes on the rest."""

    def __init__(self, wsgi_app: WSGI, feed: Feed) -> None:
        self.wsgi_app = wsgi_app
        self.feed = feed
        self._answers = {
            ("GET", "/data"): self._data,
            ("HEAD", "/data"): self._head,
            ("GET", "/update"): self._update,
        }

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        answer = self._answers.get((environ["REQUEST_METHOD"], environ["PATH_INFO"]))
        if answer is not None:
            body = answer(environ, start_response)
            if body is not None:
                return body
        return self.wsgi_app(environ, start_response)

    def _data(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes] | None:
        known = environ.get("HTTP_IF_NONE_MATCH")
        if known is not None:
            etag = _ETAG.fullmatch(known)
            if etag is None:
                return None
            known = etag[1]
        if "wsgi.websocket" in environ or any(name in environ for name in _UNUSUAL):
            return None
        reading = self.feed.latest
        tag = ("ETag", f'"{reading.cursor}"')
        if known == reading.cursor:
            start_response("304 NOT MODIFIED", [_NO_CACHE, tag])
            return ()
        length = ("Content-Length", str(len(reading.carry)))
        start_response("200 OK", [_JSON, length, _NO_CACHE, tag])
        return (reading.carry,)

    def _head(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes] | None:
        return None if self._data(environ, start_response) is None else ()

    def _update(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes] | None:
        asked = _QUERY.fullmatch(environ["QUERY_STRING"])
        if asked is None or "wsgi.websocket" in environ:
            return None
        if "text/event-stream" in environ.get("HTTP_ACCEPT", ""):
            return None
        reading = self.feed.wait(asked["after"], timeout=float(asked["timeout"] or TIMEOUT))
        if reading is None:
            start_response("204 NO CONTENT", [_NO_STORE])
            return ()
        body = reading.carry if asked["carry"] == "1" else reading.signal
        start_response("200 OK", [_JSON, ("Content-Length", str(len(body))), _NO_STORE])
        return (body,)
