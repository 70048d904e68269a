"""WebSockets on uWSGI's gevent loop: what `uwsgi_hosting.py` needs that is another with threads."""

import signal
import socket
from collections.abc import Collection
from contextlib import suppress
from typing import Any

import gevent
import gevent.socket
from gevent import monkey

from pushlab.hosting.gevent_sockets import GeventChannel
from pushlab.hosting.uwsgi_socket import take_socket
from pushlab.websocket import handshake
from pushlab.websocket.connection import SEND_BUFFER, Connection
from pushlab.websocket.frames import CloseReason

# The standard library's socket, not gevent's: its send and recv never switch greenlets.
_PlainSocket: type[socket.socket] = monkey.get_original("socket", "socket")


class UwsgiConnection(Connection):
    """A connection that takes its socket from uWSGI when the handshake is answered."""

    def __init__(self, environ: dict[str, Any], **options: Any) -> None:
        super().__init__(**options)
        self._handshake = handshake.answer(environ)

    def _open(self) -> tuple[Any, bytes]:
        self._socket = gevent.socket.socket(fileno=take_socket())
        with suppress(OSError):  # a Unix socket has no such option
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._send_all(self._handshake)
        return self._socket, b""

    def _release(self) -> GeventChannel:
        sock, self._socket = _PlainSocket(fileno=self._socket.detach()), None
        with suppress(OSError):  # macOS refuses if the browser has just left
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        sock.setblocking(False)
        return GeventChannel(sock, lambda: None)

    def close_going_away(self) -> bool:
        """Close with 1001, without waiting for it."""
        gevent.spawn(self.close, CloseReason.GOING_AWAY)
        return True

    def leave(self) -> None:
        """Close the socket, unless the hub has it."""
        if self._socket is not None:
            self._socket.close()


def after_fork() -> None:
    """Wait on descriptors of our own, if the app was imported in the master process.

    gevent has opened them there, and several workers would take each other's wake-ups.
    """
    gevent.reinit()


def wait_for_signal(signals: Collection[signal.Signals]) -> None:
    """Wait for one of these, which are blocked; in a real thread, or all greenlets would wait."""
    gevent.get_hub().threadpool.apply(signal.sigwait, (signals,))
