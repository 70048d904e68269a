"""Dispatch in front of Flask: a function per path.

Flask's request context, routing and response objects are two thirds of what a short response costs.
The functions are those that Flask's routes call, so what one reads is what runs. Whatever such a
function refuses goes on to Flask, which calls it again and makes the error response.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from werkzeug.exceptions import ClientDisconnected, HTTPException

from pushlab.wsgi.responses import WSGI, Environ, Response


class Direct:
    """WSGI middleware that serves GET and HEAD of some paths."""

    def __init__(self, wsgi_app: WSGI, routes: Mapping[str, Callable[[Environ], Response]]) -> None:
        self.wsgi_app = wsgi_app
        self.routes = routes

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        respond = self.routes.get(environ["PATH_INFO"])
        is_plain = environ["REQUEST_METHOD"] in ("GET", "HEAD") and "wsgi.websocket" not in environ
        if respond is None or not is_plain:
            return self.wsgi_app(environ, start_response)
        try:
            response = respond(environ)
        except ClientDisconnected:  # there is no client to respond to
            raise
        except HTTPException:
            return self.wsgi_app(environ, start_response)
        return response(environ, start_response)
