"""WebSockets on uWSGI's threads: what `uwsgi_hosting.py` needs that is another with gevent."""

import signal
import socket
from collections.abc import Collection
from contextlib import suppress
from typing import Any

from pushlab.hosting.threaded_connection import ThreadConnection
from pushlab.hosting.threaded_sockets import ThreadChannel, Watch
from pushlab.hosting.uwsgi_socket import take_socket
from pushlab.websocket import handshake

_watch = Watch()


class UwsgiConnection(ThreadConnection):
    """A connection that takes its socket from uWSGI when the handshake is answered."""

    def __init__(self, environ: dict[str, Any], **options: Any) -> None:
        super().__init__(**options)
        self._handshake = handshake.answer(environ)

    def _open(self) -> tuple[ThreadChannel, bytes]:
        sock = socket.socket(fileno=take_socket())
        self._socket = ThreadChannel(sock, _watch)
        with suppress(OSError):  # a Unix socket has no such option
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._send_all(self._handshake)
        return self._socket, b""


def after_fork() -> None:
    """Do nothing: no thread of ours runs before the first request."""


def wait_for_signal(signals: Collection[signal.Signals]) -> None:
    """Wait for one of these, which are blocked."""
    signal.sigwait(signals)
