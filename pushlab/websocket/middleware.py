"""Upgrade: how a request becomes a WebSocket that the app finds in `environ["wsgi.websocket"]`.

`converse` is what every server does with an app and a connection. `Upgrade` is WSGI middleware for
servers that know nothing of WebSockets and leave the socket to the app; gevent's handler does the
same where it handles requests.
"""

import logging
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, NamedTuple, Protocol

from pushlab.websocket import handshake
from pushlab.websocket.connection import Connection, ConnectionClosed
from pushlab.websocket.frames import CloseReason

logger = logging.getLogger(__name__)

#: Seconds in which everybody is told that the server goes away, where telling does not wait.
CLOSE_ALL_TIMEOUT = 1.0

WSGI = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class Answer(NamedTuple):
    """What an app answers in HTTP, as WSGI has it."""

    status: str
    headers: list[tuple[str, str]]
    body: Iterable[bytes]


def converse(application: WSGI, environ: dict[str, Any], connection: Connection) -> Answer | None:
    """Let the app use the connection, and end it unless the hub has it.

    Returns the app's answer if that is to be sent instead: if it refused before the 101 was out.
    An error of the app's is raised as long as it can be answered with a 500, else logged, and the
    connection closed with 1011.
    """
    environ["wsgi.websocket"] = connection
    status: str = "200 OK"
    headers: list[tuple[str, str]] = []
    body: Iterable[bytes] = ()

    def start_response(its_status: str, its_headers: Any, exc_info: Any = None) -> Any:
        nonlocal status, headers
        status, headers = its_status, its_headers
        return lambda data: None

    try:
        with suppress(ConnectionClosed):  # that is how a route learns that the browser left
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
        return Answer(status, headers, body)
    try:
        if not connection.detached:
            with suppress(ConnectionClosed):
                connection.accept()
            connection.finish(
                CloseReason.INTERNAL_ERROR if code >= 500 else CloseReason.NORMAL_CLOSURE
            )
    finally:
        getattr(body, "close", lambda: None)()
    return None


class Closable(Protocol):
    """A connection that can be told that the server goes away."""

    def close_going_away(self) -> bool:
        """Close with 1001, without waiting; False if that cannot be done just now."""


def close_all(connections: Iterable[Closable]) -> None:
    """Tell all of them that the server goes away, within GOODBYE_TIMEOUT.

    Who has only just been let in, or is sent something, is told a moment later; who is stuck in
    that is left without a goodbye.
    """
    deadline = time.monotonic() + CLOSE_ALL_TIMEOUT
    left = [connection for connection in connections if not connection.close_going_away()]
    while left and time.monotonic() < deadline:
        time.sleep(0.005)
        left = [connection for connection in left if not connection.close_going_away()]


class Upgrade:
    """WSGI middleware that checks who comes, and gives the app its WebSockets."""

    def __init__(self, wsgi_app: WSGI, gate: handshake.AccessPolicy) -> None:
        self.wsgi_app = wsgi_app
        self.gate = gate

    def connect(self, environ: dict[str, Any]) -> Connection:
        """Return the connection that this request is to become."""
        raise NotImplementedError

    def end(self, connection: Connection) -> Iterable[bytes]:
        """End the request without a word: the socket is closed, or the hub's."""
        raise NotImplementedError

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        refusal = self.gate.refusal(environ)
        if refusal is not None:
            return refusal.answer(environ, start_response)
        if not handshake.is_websocket_upgrade(environ):
            return self.wsgi_app(environ, start_response)
        connection = self.connect(environ)
        answer = converse(self.wsgi_app, environ, connection)
        if answer is None:
            return self.end(connection)
        start_response(answer.status, answer.headers)
        return answer.body
