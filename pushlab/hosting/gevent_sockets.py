"""Sockets on gevent's loop: the hub's channel, and abort."""

import _socket
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import gevent
import gevent.lock
import gevent.socket

from pushlab import feed
from pushlab.feed import Position, Reading
from pushlab.hosting.socket_options import configure_subscriber
from pushlab.websocket.connection import Connection

READ, WRITE = 1, 2  # libev's and libuv's event masks

# What the standard library's socket is made of. Its send and recv never switch greenlets, and of a
# waiting connection it is half as large.
PlainSocket = _socket.socket


def plain(sock: Any) -> PlainSocket:
    """Return a gevent socket's connection for the event loop."""
    found = PlainSocket(sock.family, sock.type, sock.proto, sock.detach())
    found.setblocking(False)
    return found


def for_greenlets(sock: PlainSocket) -> Any:
    """Return a plain socket's connection for greenlets."""
    return gevent.socket.socket(sock.family, sock.type, sock.proto, fileno=sock.detach())


def abort(sock: Any) -> None:
    """Shut a socket down, TLS or not; wake waiting greenlets."""
    kind = gevent.socket.socket if isinstance(sock, gevent.socket.socket) else PlainSocket
    with suppress(OSError):  # the other end may be faster
        kind.shutdown(sock, socket.SHUT_RDWR)


def wait_until_gone(
    waiting: dict[int, Any], sock: Any, positions: Sequence[Position], **options: Any
) -> list[Reading]:
    """Wait for news, among the `waiting` of a server.

    The options are those of `feed.wait`. Raises ConnectionClosed when the server finds out that
    the client is gone.
    """
    configure_subscriber(sock)
    number = sock.fileno()
    waiting[number] = gevent.getcurrent()
    try:
        return feed.wait(positions, **options)
    finally:
        waiting.pop(number, None)


class GeventChannel:
    """A socket that gevent's loop watches, without a greenlet."""

    __slots__ = ("_socket", "_watcher", "close_code", "send")

    def __init__(self, sock: Any) -> None:
        self.close_code: int | None = None
        self._watcher: Any = None
        self._own(sock)

    def _own(self, sock: Any) -> None:
        self._socket = sock
        self.send: Callable[[bytes | memoryview], int] = sock.send

    def receive(self, size: int) -> bytes:
        data: bytes = self._socket.recv(size)
        return data

    def watch(self, callback: Callable[[Any], None], argument: Any, *, writing: bool) -> None:
        events = WRITE if writing else READ
        watcher = self._watcher
        if watcher is not None and watcher.events != events:
            self._unwatch()
            watcher = None
        if watcher is None:
            watcher = self._watcher = gevent.get_hub().loop.io(self._socket.fileno(), events)
        elif watcher.active:
            watcher.stop()
        watcher.start(callback, argument)

    def shutdown_write(self) -> None:
        with suppress(OSError):  # the browser may be faster; reading will tell
            self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        if self._socket is None:
            return
        self._unwatch()
        self._socket.close()
        self._socket = None

    def _unwatch(self) -> None:
        if self._watcher is not None:
            self._watcher.stop()
            self._watcher.close()
            self._watcher = None


class StockConnection(Connection):
    """Takes over what gevent-websocket's own handler has opened.

    That one has sent the 101. Its connection has no limits, closes without a code, and mixes the
    frames of two senders.
    """

    def __init__(self, stock: Any) -> None:
        super().__init__()
        self._handler = stock.handler
        # The program that has made the server need not have patched Python.
        self._sending = gevent.lock.Semaphore()
        stock.closed = True  # or it would send a close frame of its own

    def _open(self) -> tuple[Any, bytes]:
        sock, early = self._handler.socket, b""
        sock.settimeout(0)  # with which a peek is a look at the buffer
        with suppress(BlockingIOError):
            early = self._handler.rfile.peek()
        return sock, early

    def _yield(self) -> None:
        gevent.sleep(0)
