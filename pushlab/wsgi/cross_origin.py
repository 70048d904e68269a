"""CORS: which pages of other origins may read responses.

A browser shows a response to a page of another origin only if the response names that origin, and
asks first (the preflight) whether a request with unusual headers may be sent (WHATWG Fetch section
3.3). For the server's own pages, and for origins that are not allowed, nothing is said.
"""

from collections.abc import Callable, Collection, Iterable
from typing import Any

from pushlab import limits
from pushlab.wsgi.access import normalized_origin
from pushlab.wsgi.responses import WSGI, Environ, Response

#: Methods and headers that a page may use, and headers of a response that it may read.
METHODS = "GET, HEAD, POST"
REQUEST_HEADERS = "Authorization, Content-Type, If-Match, If-None-Match, Last-Event-ID"
RESPONSE_HEADERS = "ETag"

#: A cache must not give the response for one origin to another.
_VARY = ("Vary", "Origin")


class CrossOrigin:
    """WSGI middleware: pages of `allow_origins` may use these paths."""

    def __init__(
        self, wsgi_app: WSGI, allow_origins: Collection[str], paths: Collection[str]
    ) -> None:
        self.wsgi_app = wsgi_app
        self.allow_origins = allow_origins
        self.paths = paths

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["PATH_INFO"] not in self.paths or "wsgi.websocket" in environ:
            return self.wsgi_app(environ, start_response)
        added = [_VARY]
        origin = environ.get("HTTP_ORIGIN")
        if origin is not None and normalized_origin(origin) in self.allow_origins:
            added.append(("Access-Control-Allow-Origin", origin))
            asks_first = "HTTP_ACCESS_CONTROL_REQUEST_METHOD" in environ
            if environ["REQUEST_METHOD"] == "OPTIONS" and asks_first:
                return _preflight(*added)(environ, start_response)
            added.append(("Access-Control-Expose-Headers", RESPONSE_HEADERS))

        def start(status: str, headers: list[tuple[str, str]], *exc_info: Any) -> Any:
            return start_response(status, [*headers, *added], *exc_info)

        return self.wsgi_app(environ, start)


def _preflight(*headers: tuple[str, str]) -> Response:
    """Return the response that permits the request to come."""
    permitted = [
        ("Access-Control-Allow-Methods", METHODS),
        ("Access-Control-Allow-Headers", REQUEST_HEADERS),
        ("Access-Control-Max-Age", str(limits.PREFLIGHT_AGE)),
    ]
    return Response("204 No Content", [*headers, *permitted])
