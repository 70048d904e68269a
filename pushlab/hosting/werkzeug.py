"""WebSockets on Werkzeug's servers: `flask run`, and ours in `threaded_server.py`.

Werkzeug has no WebSockets, but it puts the socket into the environ. Once the 101 is sent on it, the
socket is the app's alone.
"""

import socket
import ssl
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any

from flask import Flask

from pushlab.hosting.access_log import ENTRY, Entry
from pushlab.hosting.metering import EXCHANGE, Exchange
from pushlab.hosting.settings import ServerSettings
from pushlab.hosting.socket_options import configure
from pushlab.hosting.threaded_sockets import (
    SelectorThread,
    ThreadChannel,
    ThreadConnection,
    TLSThreadChannel,
    wait_and_look,
)
from pushlab.websocket import handshake
from pushlab.websocket.middleware import Upgrade, close_all
from pushlab.wsgi.responses import WSGI, error
from pushlab.wsgi.waiting import WAIT

#: The key, in the environ, of what to call when the hub has closed the socket.
ON_RELEASE = "pushlab.on_release"

_SOCKET = "werkzeug.socket"
#: The body that stands for a request that has become a WebSocket.
_UPGRADED: tuple[bytes, ...] = (b"",)

_NO_THREADS = error(
    "501 Not Implemented", "a WebSocket needs a server with threads; leave out --without-threads"
)

# A closed socketpair end. Werkzeug sees EOF on it after we have taken its socket.
_end, _other_end = socket.socketpair()
_other_end.close()
_AT_EOF = _end.detach()  # for as long as the process runs


#: One for all apps of the process, of which tests make many.
_selector_thread = SelectorThread()


class _DetachedSocket:
    """What replaces Werkzeug's socket: a closed connection.

    So Werkzeug ends the request as if the browser had closed, without an error, and without a byte
    or a close on what is still the browser's connection.
    """

    __slots__ = ()

    def fileno(self) -> int:
        return _AT_EOF

    def recv_into(self, *buffer: Any) -> int:
        return 0

    def sendall(self, *data: Any) -> None:
        raise BrokenPipeError

    def shutdown(self, how: int) -> None:
        pass

    def close(self) -> None:
        pass


class _DetachedPlainSocket(_DetachedSocket, socket.socket):
    __slots__ = ()


class _DetachedTLSSocket(_DetachedSocket, ssl.SSLSocket):
    pass


class WerkzeugConnection(ThreadConnection):
    """A connection that takes Werkzeug's socket with the 101."""

    def __init__(self, environ: dict[str, Any], upgrade: "WerkzeugUpgrade", **options: Any) -> None:
        super().__init__(**options)
        self._environ = environ
        self._upgrade = upgrade

    def _open(self) -> tuple[ThreadChannel, bytes]:
        environ = self._environ
        sock, exchange = environ[_SOCKET], environ.get(EXCHANGE)
        sock.settimeout(0)  # with which a peek is a look at the buffer
        try:
            # A client may send frames right behind its request; the reader has them already.
            early = getattr(environ["wsgi.input"], "peek", bytes)()
        except ssl.SSLWantReadError:
            early = b""
        channel: ThreadChannel
        if isinstance(sock, ssl.SSLSocket):
            sock.__class__, channel = _DetachedTLSSocket, TLSThreadChannel(sock, _selector_thread)
        else:
            sock.__class__, channel = _DetachedPlainSocket, ThreadChannel(sock, _selector_thread)
        self._socket = channel
        self._upgrade.conversing.add(self)
        if (entry := environ.get(ENTRY)) is not None:
            entry.status = 101
            channel.send = entry.counting(channel.send)
        early += channel.pending()
        response = handshake.switching_protocols(environ, self.subprotocol)
        if exchange is not None:
            exchange.responds(101)
            exchange.upgraded(channel.abort)
        self._send_all(response)
        if exchange is not None:
            exchange.sent(len(response))
            exchange.report()
            exchange.received(len(early))
            channel.count_into(exchange)
        return channel, early

    def _release(self) -> ThreadChannel:
        channel = super()._release()
        self._upgrade.conversing.discard(self)
        environ = self._environ
        exchange: Exchange | None = environ.get(EXCHANGE)
        on_release: Callable[[], None] | None = environ.get(ON_RELEASE)
        entry: Entry | None = environ.get(ENTRY)

        def release() -> None:
            if entry is not None:
                entry.end(channel.close_code)
            if exchange is not None:
                exchange.closed()
            if on_release is not None:
                on_release()

        if (exchange, on_release, entry) != (None, None, None):
            channel.on_close(release)
        return channel

    def close_socket(self) -> None:
        self._upgrade.conversing.discard(self)
        super().close_socket()


class WerkzeugUpgrade(Upgrade):
    """Middleware for Werkzeug's servers; inactive on any other.

    A request ends at once if the hub takes its socket, also with TLS. A conversation keeps its
    thread.
    """

    def __init__(self, wsgi_app: WSGI, settings: ServerSettings, **options: Any) -> None:
        """The options are those of a Connection."""
        super().__init__(wsgi_app, settings.access_policy())
        self._settings = settings
        self._host = settings.host
        self._options = {**settings.connection_options(), **options}
        #: Connections that are accepted, and whose socket the hub has not taken.
        self.conversing: set[ThreadConnection] = set()

    @classmethod
    def of(cls, app: Flask, settings: ServerSettings | None = None) -> "WerkzeugUpgrade":
        """Return the app's middleware; add it if there is none."""
        if not isinstance(app.wsgi_app, cls):
            app.wsgi_app = cls(app.wsgi_app, settings or ServerSettings())  # type: ignore[method-assign]
        return app.wsgi_app

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        if _SOCKET not in environ or "wsgi.websocket" in environ:
            return self.wsgi_app(environ, start_response)
        if environ["SERVER_NAME"] != self._host:  # `flask run --host` is not one of our options
            settings = replace(self._settings, host=environ["SERVER_NAME"])
            self.access_policy = settings.access_policy()
            self._host = environ["SERVER_NAME"]
        configure(environ[_SOCKET])  # as its listener has been on our own server
        if handshake.is_websocket_upgrade(environ) and not environ["wsgi.multithread"]:
            return _NO_THREADS(environ, start_response)
        environ[WAIT] = partial(wait_and_look, environ[_SOCKET].fileno())
        body = super().__call__(environ, start_response)
        if body is _UPGRADED:
            # Werkzeug logs this status, tries to send it, and finds the connection closed.
            start_response("101 Switching Protocols", [])
        return body

    def connect(self, environ: dict[str, Any]) -> ThreadConnection:
        return WerkzeugConnection(environ, self, **self._options)

    def end(self, connection: Any) -> Iterable[bytes]:
        connection.close_socket()
        return _UPGRADED

    def close(self) -> None:
        """Close all conversations with 1001."""
        close_all(self.conversing.copy())
