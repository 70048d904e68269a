"""What a port with TLS does before the handshake."""

import socket
from typing import Any

from pushlab.wsgi.responses import raw_error


def is_plain_http(sock: Any, kind: Any) -> bool:
    """Tell whether the client speaks plain HTTP; then respond.

    `kind` is the class whose methods are called: those of a TLS socket would encrypt. Raises
    OSError.
    """
    # A TLS handshake begins with 0x16, a request with its method.
    if not kind.recv(sock, 1, socket.MSG_PEEK).isalpha():
        return False
    kind.sendall(sock, raw_error("400 Bad Request", "this port speaks https"))
    kind.shutdown(sock, socket.SHUT_WR)
    kind.recv(sock, 16 * 1024)  # closing before it is read would reset the connection
    return True
