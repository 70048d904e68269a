"""Manners: what the apps here owe whoever visits, a strict policy and errors in one form."""

import re
from typing import Any

from flask import Flask, Response, abort, jsonify, request
from flask.json.provider import DefaultJSONProvider
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import HTTPException
from werkzeug.routing.exceptions import WebsocketMismatch

from pushlab.websocket.handshake import origin_allowed

#: The largest body that a request may have, in bytes, where an app says nothing else.
MAX_BODY = 16 * 1024


class _Json(DefaultJSONProvider):
    """Flask's JSON, of which nothing is more than a bad request."""

    def loads(self, s: str | bytes, **options: Any) -> Any:
        try:
            return super().loads(s, **options)
        except RecursionError as error:
            raise ValueError("it is nested too deep") from error


def configure(app: Flask) -> Flask:
    """Return the app with a policy on every page, errors as JSON, and limits on what it takes."""
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY
    app.json = _Json(app)
    app.register_error_handler(HTTPException, error_as_json)

    @app.before_request
    def refuse_other_sites() -> None:
        # Browsers let any page send a form anywhere, but say whose page it is.
        if request.method == "POST" and not origin_allowed(request.environ, ()):
            abort(403, "Origin: pages from elsewhere may not post here")

    @app.after_request
    def add_policy(answer: Response) -> Response:
        if answer.mimetype == "text/html":
            answer.headers["Content-Security-Policy"] = content_security_policy(request.host)
            answer.headers["Cache-Control"] = "no-cache"
        return answer

    return app


def error_as_json(error: HTTPException) -> ResponseReturnValue:
    """Answer every error with `{"error": "..."}`; a WebSocket where there is none is a 404."""
    code, message = error.code or 500, error.description
    if "wsgi.websocket" in request.environ and error is request.routing_exception:
        code, message = 404, f"there is no WebSocket at {request.path}"
    elif isinstance(error, WebsocketMismatch):
        message = f"{request.path} is a WebSocket"
    answer = jsonify(error=message)
    answer.status_code = code
    # What HTTP demands beside the status: Allow with 405, Location with a redirect...
    for name, value in error.get_headers(request.environ):
        if name not in ("Content-Type", "Content-Length"):
            answer.headers[name] = value
    return answer


def content_security_policy(host: str) -> str:
    """Allow what this server serves, nothing else, not even inline.

    The WebSocket is named because Safari does not count it as 'self'.
    """
    own = f" ws://{host} wss://{host}" if re.fullmatch(r"[\w.:\[\]-]+", host, re.ASCII) else ""
    return (
        f"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        f"connect-src 'self'{own}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
