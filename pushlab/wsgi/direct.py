"""Dispatch in front of Flask, for functions of the environ.

Flask's request context, routing and response objects are two thirds of what a short response costs.
A view marked with `direct` is a function of the environ, which Flask's route calls, and which a
server may call itself: what one reads is what runs. Whatever such a function refuses goes on to
Flask, which calls it again and makes the error response.
"""

from collections.abc import Callable, Iterable
from functools import cached_property, wraps
from typing import Any

import flask
from flask import Flask, signals
from flask.sessions import SecureCookieSessionInterface
from werkzeug.exceptions import ClientDisconnected, HTTPException

from pushlab.wsgi.responses import Environ, Response
from pushlab.wsgi.waiting import Stream, Wait

#: What responds; None where the function has taken the request's WebSocket.
Function = Callable[[Environ], Response | Wait | Stream | None]
#: Instead of a method, for the function that takes a WebSocket.
WEBSOCKET = "WEBSOCKET"

_SIGNALS = (signals.request_started, signals.request_finished, signals.request_tearing_down,
            signals.appcontext_pushed, signals.appcontext_popped)  # fmt: skip


def direct(function: Function) -> Callable[[], flask.Response]:
    """Make a view of a function of the environ."""

    @wraps(function)
    def view() -> flask.Response:
        response = function(flask.request.environ)
        # Flask wants a response; after a handshake the browser has had its own.
        return flask.Response() if response is None else response.for_flask()

    view.direct = function  # type: ignore[attr-defined]
    return view


class Direct:
    """WSGI middleware that calls an app's direct views."""

    def __init__(self, app: Flask) -> None:
        self.app = app
        self.wsgi_app = app.wsgi_app
        #: What is called for every request: all empty, as a rule.
        self._hooks = (
            app.before_request_funcs,
            app.after_request_funcs,
            app.teardown_request_funcs,
            app.teardown_appcontext_funcs,
            app.url_value_preprocessors,
            *(signal.receivers for signal in _SIGNALS),
        )

    @classmethod
    def of(cls, app: Any) -> "Direct | None":
        """Return the app's, if nothing stands in front."""
        found = getattr(app, "wsgi_app", None)
        return found if isinstance(found, cls) and found.passes_nothing_by else None

    @property
    def passes_nothing_by(self) -> bool:
        """True unless the app wants to see every request."""
        if any(self._hooks):
            return False
        return type(self.app.session_interface) is SecureCookieSessionInterface

    @cached_property  # when the first request comes, all routes are there
    def functions(self) -> dict[tuple[str, str], Function]:
        """The functions by method and path."""
        found = {}
        for rule in self.app.url_map.iter_rules():
            function = getattr(self.app.view_functions.get(rule.endpoint), "direct", None)
            if function is not None and not (rule.arguments or rule.subdomain or rule.host):
                methods = (
                    {WEBSOCKET} if rule.websocket else {"GET", "HEAD"} & (rule.methods or set())
                )
                found.update({(method, rule.rule): function for method in methods})
        return found

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        function = self.functions.get((environ["REQUEST_METHOD"], environ["PATH_INFO"]))
        if function is None or "wsgi.websocket" in environ or not self.passes_nothing_by:
            return self.wsgi_app(environ, start_response)
        try:
            response = function(environ)
        except ClientDisconnected:  # there is no client to respond to
            raise
        except HTTPException:
            response = None
        return (response or self.wsgi_app)(environ, start_response)
