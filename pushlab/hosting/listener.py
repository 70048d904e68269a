"""Listening: the socket that a server accepts its clients from, and how many it may have."""

import errno
import socket
import sys
from contextlib import suppress

try:
    import resource
except ImportError:
    resource = None  # type: ignore[assignment]

#: What counts as no limit.
MANY = 100_000


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; port 0 takes a free one. Exits with one line if it cannot.

    Servers write an answer's headers and its body one after the other. Without TCP_NODELAY the
    second waits for the browser's delayed acknowledgement of the first, 40 ms per request;
    accepted sockets inherit the option.
    """
    try:
        family, *_, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.create_server(address[:2], family=family, backlog=1024)
    except UnicodeError:
        sys.exit(f"Cannot listen on {host}: that is no host name.")
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            sys.exit(f"Port {port} is in use. Choose another with --port; 0 takes any free one.")
        sys.exit(f"Cannot listen on {host} port {port}: {error.strerror}")
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def raise_descriptor_limit() -> int:
    """Let this process open what it may, often more than at first; return how many that are."""
    if resource is None:
        return MANY  # Windows has no such limit
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(soft, MANY) if hard == resource.RLIM_INFINITY else hard
    with suppress(ValueError, OSError):  # some systems promise more than they give
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
