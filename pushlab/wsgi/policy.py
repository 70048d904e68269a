"""A strict policy: CSP, JSON errors, body limits."""

import re
from typing import Any

from flask import Flask, Response, abort, jsonify, request
from flask.json.provider import DefaultJSONProvider
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import ClientDisconnected, HTTPException
from werkzeug.routing.exceptions import WebsocketMismatch

from pushlab import counts, limits
from pushlab.wsgi import json_text
from pushlab.wsgi.access import origin_allowed


class _Json(DefaultJSONProvider):
    """Flask's JSON, strict; whatever is wrong is a ValueError."""

    def loads(self, s: str | bytes, **_: Any) -> Any:
        return json_text.loads(s)


def configure(app: Flask) -> Flask:
    """Give the app the policy, and return it."""
    app.config["MAX_CONTENT_LENGTH"] = limits.MAX_BODY
    app.json = _Json(app)
    app.register_error_handler(HTTPException, error_as_json)

    @app.before_request
    def reject_other_sites() -> None:
        # Browsers let any page send a form anywhere, but name its origin.
        if request.method == "POST" and not origin_allowed(request.environ, ()):
            abort(403, "Origin: pages from elsewhere may not post here")

    @app.after_request
    def add_policy(response: Response) -> Response:
        if response.mimetype == "text/html":
            response.headers["Content-Security-Policy"] = content_security_policy(request.host)
            response.headers["Cache-Control"] = "no-cache"
        return response

    return app


def error_as_json(error: HTTPException) -> ResponseReturnValue:
    """Return `{"error": "..."}` for every error.

    A WebSocket request for a path that has none is a 404.
    """
    code, message = error.code or 500, error.description
    if "wsgi.websocket" in request.environ and error is request.routing_exception:
        code, message = 404, f"there is no WebSocket at {request.path}"
    elif isinstance(error, WebsocketMismatch):
        message = f"{request.path} is a WebSocket"
    if not isinstance(error, ClientDisconnected):  # it has closed, or was refused by the hub
        counts.refuse(code)
    response = jsonify(error=message)
    response.status_code = code
    # What HTTP demands beside the status: Allow with 405, Location with a redirect...
    for name, value in error.get_headers(request.environ):
        if name not in ("Content-Type", "Content-Length"):
            response.headers[name] = value
    return response


def content_security_policy(host: str) -> str:
    """Return a Content-Security-Policy that allows only this server's files.

    Nothing inline is allowed. The WebSocket is named because Safari does not count it as 'self'.
    """
    own = f" ws://{host} wss://{host}" if re.fullmatch(r"[\w.:\[\]-]+", host, re.ASCII) else ""
    return (
        f"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        f"connect-src 'self'{own}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
