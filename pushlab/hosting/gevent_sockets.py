"""WebSockets on gevent: a connection, and the hub's channel."""

import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import gevent
import gevent.socket
from gevent import monkey

from pushlab.feed import Feed, Reading
from pushlab.hosting.metering import Exchange
from pushlab.hosting.socket_options import configure_subscriber
from pushlab.websocket.connection import Connection

_READ, _WRITE = 1, 2  # libev's and libuv's event masks

# The standard library's socket, not gevent's: its send and recv never switch greenlets.
PlainSocket: type[socket.socket] = monkey.get_original("socket", "socket")


def abort(sock: Any) -> None:
    """Shut a socket down, TLS or not; wake waiting greenlets."""
    kind = gevent.socket.socket if isinstance(sock, gevent.socket.socket) else PlainSocket
    with suppress(OSError):  # the other end may be faster
        kind.shutdown(sock, socket.SHUT_RDWR)


def wait_until_gone(
    waiting: dict[int, Any], sock: Any, feed: Feed, after: str | None, *, timeout: float
) -> Reading | None:
    """Wait for news, among the `waiting` of a server.

    Raises ConnectionClosed when the server finds out that the client is gone.
    """
    configure_subscriber(sock)
    number = sock.fileno()
    waiting[number] = gevent.getcurrent()
    try:
        return feed.wait(after, timeout=timeout)
    finally:
        waiting.pop(number, None)


class GeventChannel:
    """A socket that gevent's loop watches, without a greenlet."""

    __slots__ = ("_on_close", "_socket", "_watcher", "receive", "send")

    def __init__(self, sock: Any, on_close: Callable[[], None]) -> None:
        self._socket = sock
        self._on_close = on_close
        self._watcher: Any = None
        self.send: Callable[[bytes | memoryview], int] = sock.send
        self.receive: Callable[[int], bytes] = sock.recv

    def watch(self, callback: Callable[[Any], None], argument: Any, *, writing: bool) -> None:
        if self._watcher is not None:
            self._watcher.stop()
            self._watcher.close()
        events = _WRITE if writing else _READ
        self._watcher = gevent.get_hub().loop.io(self._socket.fileno(), events)
        self._watcher.start(callback, argument)

    def count_into(self, exchange: Exchange) -> None:
        """Count the bytes of this channel from now on."""
        self.send, self.receive = exchange.counting(self.send, self.receive)

    def shutdown_write(self) -> None:
        with suppress(OSError):  # the browser may be faster; reading will tell
            self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        if self._watcher is not None:
            self._watcher.stop()
            self._watcher.close()
            self._watcher = None
            self._socket.close()
            self._on_close()


class TLSChannel(GeventChannel):
    """The same over TLS.

    gevent's non-blocking `send` returns 0 where TLS must wait. The same bytes must then come again:
    the hub keeps them as unsent.
    """

    __slots__ = ()

    def __init__(self, sock: Any, on_close: Callable[[], None]) -> None:
        super().__init__(sock, on_close)
        self.receive = partial(self._receive, sock)

    def shutdown_write(self) -> None:
        super().shutdown_write()
        # With that TLS has ended. What still comes is not to be counted.
        self.receive = self._socket.recv

    @staticmethod
    def _receive(sock: Any, size: int) -> bytes:
        # Bytes that TLS has decrypted and not handed out do not make the socket readable.
        data: bytes = b""
        try:
            data = sock.recv(size)
            while data and (left := sock.pending()):
                data += sock.recv(left)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as error:
            if not data:
                raise BlockingIOError from error
        return data


class GeventConnection(Connection):
    """A connection on the socket of a handler, until detached."""

    def __init__(self, handler: Any, **options: Any) -> None:
        super().__init__(**options)
        self._handler = handler

    def _open(self) -> tuple[Any, bytes]:
        self._handler.switch_protocols(self.subprotocol)
        sock = self._handler.socket
        # A client may send frames right behind its request; the reader has them already. With
        # the socket set not to wait, a peek is a look at the buffer.
        sock.settimeout(0)
        try:
            early = self._handler.rfile.peek()
        except ssl.SSLWantReadError:
            early = b""
        if self._handler.exchange is not None:
            self._handler.exchange.received(len(early))
        return sock, early

    def _release(self) -> GeventChannel:
        handler, self._handler = self._handler, None
        sock, self._socket = self._socket, None
        handler.socket = None  # the handler shall not close it
        release, exchange = handler.server.release, handler.exchange
        if exchange is not None:
            release_server = release  # and not the handler, which would stay in memory

            def release() -> None:
                exchange.closed()
                release_server()

        configure_subscriber(sock)
        if hasattr(sock, "pending"):
            # The server closes a TLS socket when its greenlet ends; that only takes effect
            # when the last file made from it is closed, too.
            rfile = handler.rfile

            def release_tls() -> None:
                release()
                rfile.close()

            channel: GeventChannel = TLSChannel(sock, release_tls)
        else:
            sock = PlainSocket(fileno=sock.detach())
            sock.setblocking(False)
            channel = GeventChannel(sock, release)
        if exchange is not None:
            channel.count_into(exchange)
            exchange.upgraded(partial(abort, sock))
        return channel
