"""From a request to `environ["wsgi.websocket"]`, on every server.

Every server calls `run_websocket_app` with an application and a connection. `Upgrade` is WSGI
middleware for servers without WebSockets that let the application have the socket; gevent's handler
does the same by itself.
"""

import logging
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, NamedTuple, Protocol

from werkzeug.exceptions import NotImplemented as NotImplementedResponse

from pushlab import counts, limits
from pushlab.websocket import handshake
from pushlab.websocket.connection import Connection, ConnectionClosed
from pushlab.websocket.frames import CloseReason

logger = logging.getLogger(__name__)

Environ = dict[str, Any]
WSGI = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]


class NoWebSocket(NotImplementedResponse):
    """The 501 for a server that cannot open WebSockets."""

    description = (
        'there is no environ["wsgi.websocket"]: this server has no WebSockets; start the app with '
        "pushlab.hosting.gevent_server.run(app), gunicorn -k pushlab.hosting.gunicorn.Worker, or "
        "flask run after pushlab.hosting.werkzeug.WerkzeugUpgrade.of(app)"
    )


def connection_of(environ: Environ) -> Connection:
    """Return the request's WebSocket, `environ["wsgi.websocket"]`.

    Raises NoWebSocket, an HTTP error, if the server has not opened one.
    """
    connection = environ.get("wsgi.websocket")
    if connection is None:
        logger.error("%s", NoWebSocket.description)
        raise NoWebSocket
    found: Connection = connection
    return found


class HTTPResponse(NamedTuple):
    """An application's response instead of a 101."""

    status: str
    headers: list[tuple[str, str]]
    body: Iterable[bytes]


def run_websocket_app(
    application: WSGI, environ: Environ, connection: Connection
) -> HTTPResponse | None:
    """Let the application use the connection, then end it.

    The connection goes on if the hub has taken its socket. Returns the application's response if
    it refused before the 101 was out; the server sends it. An exception of the application is
    raised as long as the server can respond with 500; later it is logged, and the connection
    closed with 1011.
    """
    environ["wsgi.websocket"] = connection
    connection.subprotocols = handshake.offered_subprotocols(environ)
    status: str = "200 OK"
    headers: list[tuple[str, str]] = []
    body: Iterable[bytes] = ()

    def start_response(its_status: str, its_headers: Any, exc_info: Any = None) -> Any:
        nonlocal status, headers
        status, headers = its_status, its_headers
        return lambda data: None

    try:
        with suppress(ConnectionClosed):  # a route ends with it when the browser is gone
            body = application(environ, start_response)
    except Exception:
        if not connection.accepted:
            environ.pop("wsgi.websocket")  # its presence would spoil the error page
            raise
        status = "500"
        logger.exception("a WebSocket route failed")
    code = int(status.split()[0])
    if not connection.accepted and code >= 300:
        environ.pop("wsgi.websocket")
        return HTTPResponse(status, headers, body)
    try:
        if not connection.detached:
            with suppress(ConnectionClosed):
                connection.accept()
            connection.close_and_wait(
                CloseReason.INTERNAL_ERROR if code >= 500 else CloseReason.NORMAL_CLOSURE
            )
    finally:
        getattr(body, "close", lambda: None)()
    return None


class Closable(Protocol):
    """A connection that a stopping server can close."""

    def close_going_away(self) -> bool:
        """Send 1001 without waiting; False if that must be retried."""


def close_all(connections: Iterable[Closable]) -> None:
    """Close all of them with 1001, within CLOSE_ALL_TIMEOUT.

    Connections that are still opening, or whose send lock is held, are retried until the deadline,
    then skipped.
    """
    deadline = time.monotonic() + limits.CLOSE_ALL_TIMEOUT
    pending = [each for each in connections if not each.close_going_away()]
    while pending and time.monotonic() < deadline:
        time.sleep(0.005)
        pending = [each for each in pending if not each.close_going_away()]


class AccessPolicy(Protocol):
    """What decides which requests reach the application."""

    def check(self, environ: Environ) -> Any:
        """Return the response that rejects the request, or None.

        It is a WSGI application with a `code`.
        """


class Upgrade:
    """WSGI middleware that checks access and opens WebSockets."""

    def __init__(self, wsgi_app: WSGI, access_policy: AccessPolicy) -> None:
        self.wsgi_app = wsgi_app
        self.access_policy = access_policy

    def connect(self, environ: Environ) -> Connection:
        """Return the connection that this request is to become."""
        raise NotImplementedError

    def end(self, connection: Connection) -> Iterable[bytes]:
        """End the request without a response."""
        raise NotImplementedError

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        rejection = self.access_policy.check(environ)
        if rejection is not None:
            counts.refuse(rejection.code)
            body: Iterable[bytes] = rejection(environ, start_response)
            return body
        if not handshake.is_websocket_upgrade(environ):
            return self.wsgi_app(environ, start_response)
        connection = self.connect(environ)
        response = run_websocket_app(self.wsgi_app, environ, connection)
        if response is None:
            return self.end(connection)
        start_response(response.status, response.headers)
        return response.body
