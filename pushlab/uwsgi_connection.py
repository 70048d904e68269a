"""A WebSocket under uWSGI: the socket is taken from uWSGI, and only our frames are on it.

uWSGI has frames of its own, but it answers pings with empty pongs and a close without its code,
cannot tell text from binary, and keeps a request open for every browser. None of that concerns a
copy of the socket: uWSGI may end its request, and the connection lives on.
"""

import os
import socket
from contextlib import suppress
from typing import Any

import gevent.socket
import uwsgi
from gevent import monkey

from pushlab import handshake
from pushlab.connection import Connection
from pushlab.gevent_channel import GeventChannel

#: Bytes that the kernel may hold for one push socket: a slow browser's backlog is bounded there.
_SEND_BUFFER = 32 * 1024

# The standard library's socket, not gevent's: its send and recv never switch greenlets.
_PlainSocket: type[socket.socket] = monkey.get_original("socket", "socket")

#: What uWSGI gets for a socket that is taken from it.
_NOTHING = os.open(os.devnull, os.O_RDWR)


def take_socket() -> int:
    """Return a descriptor of the current request's connection; from now on it is only ours.

    uWSGI closes its own when the request is over, which would not end the connection. But with
    `http11-socket` it keeps it instead, for a next request, and would read what is meant for us.
    """
    its_own: int = uwsgi.connection_fd()
    ours = os.dup(its_own)
    os.dup2(_NOTHING, its_own, inheritable=False)
    return ours


class UwsgiConnection(Connection):
    """A connection on uWSGI's gevent loop."""

    def __init__(self, environ: dict[str, Any], **options: Any) -> None:
        super().__init__(**options)
        self._handshake = handshake.answer(environ)

    def _open(self) -> tuple[Any, bytes]:
        # What a client sends before it has seen the 101, which it must not (RFC 6455 section 4.1),
        # uWSGI may have read along with the request, and does not give out.
        sock = gevent.socket.socket(fileno=take_socket())
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.sendall(self._handshake)
        except OSError:
            sock.close()
            raise
        return sock, b""

    def _release(self) -> GeventChannel:
        sock, self._socket = _PlainSocket(fileno=self._socket.detach()), None
        with suppress(OSError):  # macOS refuses if the browser has just left
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        sock.setblocking(False)
        return GeventChannel(sock, lambda: None)

    def end(self) -> None:
        """Let go of the socket, unless the hub has it."""
        if self._socket is not None:
            self._socket.close()
