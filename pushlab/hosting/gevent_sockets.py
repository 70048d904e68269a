"""A push socket on gevent's event loop: what the hub keeps of a browser, plain or over TLS."""

import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import gevent

from lab.meter import Meter

_READ, _WRITE = 1, 2  # libev's and libuv's event masks


class GeventChannel:
    """A socket that gevent's loop watches, with no greenlet waiting for it."""

    __slots__ = ("_release", "_socket", "_watcher", "receive", "send")

    def __init__(self, sock: Any, release: Callable[[], None]) -> None:
        self._socket = sock
        self._release = release
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

    def meter(self, meter: Meter) -> None:
        """Count what passes from now on; who is not counted does not pay for it."""
        self.send, self.receive = meter.counting(self.send, self.receive)

    def finish(self) -> None:
        with suppress(OSError):  # the peer may be faster; reading will tell
            self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        if self._watcher is not None:
            self._watcher.stop()
            self._watcher.close()
            self._watcher = None
            self._socket.close()
            self._release()


class TLSChannel(GeventChannel):
    """The same over TLS, where the bytes on the wire are not ours to write.

    gevent's non-blocking `send` returns 0 where TLS must wait; the same bytes must come again,
    and they do: the hub keeps what was not sent as its outbox.
    """

    __slots__ = ()

    def __init__(self, sock: Any, release: Callable[[], None]) -> None:
        super().__init__(sock, release)
        self.receive = partial(self._receive, sock)

    def finish(self) -> None:
        super().finish()
        # With that TLS has ended. What comes yet is none of our bytes, and not to be counted.
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
