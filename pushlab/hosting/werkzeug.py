"""WebSockets on Werkzeug's server: on that of `flask run`, and on ours in `thread_server.py`.

Werkzeug knows nothing of WebSockets, but shows the socket to the app. Once the app has answered
the handshake there, it is the app's alone.
"""

import socket
import ssl
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from lab.meter import EXCHANGE, Exchange
from lab.settings import Settings
from pushlab.hosting.threaded_connection import ThreadConnection
from pushlab.hosting.threaded_sockets import ThreadChannel, TLSThreadChannel, Watch
from pushlab.websocket import handshake
from pushlab.websocket.middleware import WSGI, Upgrade, close_all

#: Where a server leaves what is to be called when the hub has let go of the socket.
RELEASED = "pushlab.released"

_SOCKET = "werkzeug.socket"
_OVER: tuple[bytes, ...] = (b"",)  # what an app returns whose request has become a WebSocket

_NO_THREADS = handshake.reject(
    "501 Not Implemented", "a WebSocket needs a server with threads; leave out --without-threads"
)

#: What those hear who go on using a socket that is no longer theirs: that the peer has left.
_left, _peer = socket.socketpair()
_peer.close()
_LEFT = _left.detach()  # for as long as the process runs


class _Lost:
    """A socket that was taken away from Werkzeug, as Werkzeug sees it: its peer has hung up.

    So Werkzeug ends the request as if the browser had left, without an error, and without a byte or
    a close on what is the browser's connection still.
    """

    __slots__ = ()

    def fileno(self) -> int:
        return _LEFT

    def recv_into(self, *buffer: Any) -> int:
        return 0

    def sendall(self, *data: Any) -> None:
        raise BrokenPipeError

    def shutdown(self, how: int) -> None:
        pass

    def close(self) -> None:
        pass


class _LostPlain(_Lost, socket.socket):
    __slots__ = ()


class _LostTLS(_Lost, ssl.SSLSocket):
    pass


class WerkzeugConnection(ThreadConnection):
    """A connection that takes its socket from Werkzeug when the handshake is answered."""

    def __init__(self, environ: dict[str, Any], upgrade: "WerkzeugUpgrade", **options: Any) -> None:
        super().__init__(**options)
        self._environ = environ
        self._upgrade = upgrade

    def _open(self) -> tuple[ThreadChannel, bytes]:
        environ, watch = self._environ, self._upgrade.watch
        sock, exchange = environ[_SOCKET], environ.get(EXCHANGE)
        sock.settimeout(0)  # with which a peek is a look at the buffer
        try:
            # A client may send frames right behind its request; the reader has them already.
            early = getattr(environ["wsgi.input"], "peek", bytes)()
        except ssl.SSLWantReadError:
            early = b""
        channel: ThreadChannel
        if isinstance(sock, ssl.SSLSocket):
            sock.__class__, channel = _LostTLS, TLSThreadChannel(sock, watch)
        else:
            sock.__class__, channel = _LostPlain, ThreadChannel(sock, watch)
        self._socket = channel
        self._upgrade.conversing.add(self)
        early += channel.pending()
        head = handshake.answer(environ)
        if exchange is not None:
            exchange.answer(101)
            exchange.goes_on(channel.abort)
        self._send_all(head)
        if exchange is not None:
            exchange.sent(len(head))
            exchange.told()
            exchange.meter.count(up=len(early))
            channel.meter(exchange.meter)
        return channel, early

    def _release(self) -> ThreadChannel:
        channel = super()._release()
        self._upgrade.conversing.discard(self)
        environ = self._environ
        exchange: Exchange | None = environ.get(EXCHANGE)
        released: Callable[[], None] | None = environ.get(RELEASED)

        def let_go() -> None:
            if exchange is not None:
                exchange.over()
            if released is not None:
                released()

        if exchange is not None or released is not None:
            channel.on_close(let_go)
        return channel

    def leave(self) -> None:
        self._upgrade.conversing.discard(self)
        super().leave()


class WerkzeugUpgrade(Upgrade):
    """The middleware for Werkzeug's servers; on any other it does nothing.

    A request that the hub takes the socket of ends at once, with TLS, too. One that converses keeps
    its thread.
    """

    def __init__(self, wsgi_app: WSGI, settings: Settings, **options: Any) -> None:
        """The options are those of a Connection."""
        super().__init__(wsgi_app, settings.gate())
        self._settings = settings
        self._host = settings.host
        self._options = {**settings.connection(), **options}
        self.watch = Watch()
        #: Those that have been accepted, and that the hub has not taken.
        self.conversing: set[ThreadConnection] = set()

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        if _SOCKET not in environ or "wsgi.websocket" in environ:
            return self.wsgi_app(environ, start_response)
        if environ["SERVER_NAME"] != self._host:  # `flask run --host` is not one of our options
            self.gate = replace(self._settings, host=environ["SERVER_NAME"]).gate()
            self._host = environ["SERVER_NAME"]
        # Werkzeug writes head and body one after the other. The second would wait for the browser's
        # delayed acknowledgement of the first, 40 ms per request.
        with suppress(OSError):  # a Unix socket has no such option, nor one whose peer has left
            environ[_SOCKET].setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if handshake.is_websocket_upgrade(environ) and not environ["wsgi.multithread"]:
            return _NO_THREADS.answer(environ, start_response)
        body = super().__call__(environ, start_response)
        if body is _OVER:
            # Werkzeug logs this status, tries to send it, and finds that the browser has left.
            start_response("101 Switching Protocols", [])
        return body

    def connect(self, environ: dict[str, Any]) -> ThreadConnection:
        return WerkzeugConnection(environ, self, **self._options)

    def end(self, connection: Any) -> Iterable[bytes]:
        connection.leave()
        return _OVER

    def close(self) -> None:
        """Tell everyone who converses that the server goes away."""
        close_all(self.conversing.copy())
