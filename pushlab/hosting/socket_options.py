"""Options of the sockets that our servers accept.

Each function takes a socket object, or its descriptor where a server gives no more.
"""

import os
import socket
from contextlib import closing, suppress
from typing import Any

from pushlab import limits


def configure(sock: Any) -> None:
    """Set the options that accepted sockets inherit from a listener.

    Servers write a response's headers and its body one after the other. Without TCP_NODELAY the
    body waits for the browser's delayed acknowledgement of the headers, 40 ms per request.
    TCP_USER_TIMEOUT says how long the kernel tries to reach a browser whose network is gone; else
    an event stream to it would end after a quarter of an hour.
    """
    _set(sock, (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1), *_user_timeout())


def configure_subscriber(sock: Any) -> None:
    """Set the options of a connection that waits for news.

    SO_SNDBUF bounds the bytes that the kernel holds for it. It may have come before its server's
    listener had the other option: gunicorn and uWSGI listen before they import us.
    """
    _set(sock, (socket.SOL_SOCKET, socket.SO_SNDBUF, limits.SEND_BUFFER), *_user_timeout())


def _user_timeout() -> list[tuple[int, int, int]]:
    if not hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux has it
        return []
    milliseconds = int(limits.ACKNOWLEDGE_TIMEOUT * 1000)
    return [(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)]


def _set(sock: Any, *options: tuple[int, int, int]) -> None:
    # A Unix socket has none of TCP's options, and macOS refuses if the browser has just closed.
    with suppress(OSError):
        if isinstance(sock, int):
            with closing(socket.socket(fileno=os.dup(sock))) as copy:
                _set(copy, *options)
            return
        for option in options:
            sock.setsockopt(*option)
