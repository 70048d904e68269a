"""Clients that get one response before any request is parsed."""

import socket
from contextlib import suppress
from typing import Any

from pushlab import counts
from pushlab.wsgi.responses import raw_error

#: Bytes that are read at once of a client that is rejected.
_PIECE = 16 * 1024


def is_plain_http(sock: Any, kind: Any) -> bool:
    """Tell whether a client speaks plain HTTP; then respond.

    For a port with TLS. `kind` is the class whose methods are called: those of a TLS socket would
    encrypt. Raises OSError.
    """
    # A TLS handshake begins with 0x16, a request with its method.
    if not kind.recv(sock, 1, socket.MSG_PEEK).isalpha():
        return False
    _respond_last(sock, kind, raw_error("400 Bad Request", "this port speaks https"))
    return True


def reject_busy(sock: Any, *, request_came: bool = False) -> None:
    """Send 503, and wait for the client's close.

    The socket's timeout limits each wait. Raises OSError, also where the client has closed.
    """
    counts.refuse(503)
    # Closing before the request has come would reset the connection, and the response could be
    # lost. So wait for the request.
    if not request_came:
        with suppress(OSError):
            sock.recv(_PIECE)
    _respond_last(sock, type(sock), service_unavailable())


def service_unavailable() -> bytes:
    """Return what every client beyond the connection limit receives."""
    return raw_error("503 Service Unavailable", "this server is full; try again later")


def _respond_last(sock: Any, kind: Any, response: bytes) -> None:
    kind.sendall(sock, response)
    kind.shutdown(sock, socket.SHUT_WR)
    kind.recv(sock, _PIECE)  # closing before it is read would reset the connection
