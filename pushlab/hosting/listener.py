"""The listening socket of a server, and its connection limit."""

import errno
import logging
import math
import socket
import time
from contextlib import suppress

from pushlab import limits
from pushlab.hosting import StartupError
from pushlab.hosting.socket_options import configure

try:
    import resource
except ImportError:
    resource = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)


def listen(host: str, port: int, *, reuse_port: bool = False) -> socket.socket:
    """Return a listening socket; port 0 takes a free one.

    With `reuse_port` other processes may listen there, too. Raises StartupError.
    """
    try:
        family, *_, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.create_server(
            address[:2], family=family, backlog=limits.BACKLOG, reuse_port=reuse_port
        )
    except UnicodeError as error:
        raise StartupError(f"Cannot listen on {host}: that is no host name.") from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            message = f"Port {port} is in use. Choose another with --port; 0 takes any free one."
        else:
            message = f"Cannot listen on {host} port {port}: {error.strerror}"
        raise StartupError(message) from error
    configure(listener)
    return listener


class AcceptErrors:
    """Logs why connections cannot be accepted, in one line.

    A server that has run out of descriptors tries again ten times a second.
    """

    #: Seconds until it tries again.
    PAUSE = 0.1

    def __init__(self) -> None:
        self._silent_until = -math.inf

    def log(self, error: OSError) -> None:
        """Log a warning, unless the last was logged just now."""
        now = time.monotonic()
        if now >= self._silent_until:
            self._silent_until = now + limits.ACCEPT_WARNING
            logger.warning("cannot accept connections: %s", error)


def max_connections(wanted: int | None) -> int:
    """Return the connection limit; raise the system's limit on files."""
    return min(
        wanted or limits.UNLIMITED, max(1, raise_descriptor_limit() - limits.SPARE_DESCRIPTORS)
    )


def raise_descriptor_limit() -> int:
    """Raise this process's limit on descriptors; return the limit."""
    if resource is None:
        return limits.UNLIMITED  # Windows has no such limit
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(soft, limits.UNLIMITED) if hard == resource.RLIM_INFINITY else hard
    with suppress(ValueError, OSError):  # some systems promise more than they give
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
