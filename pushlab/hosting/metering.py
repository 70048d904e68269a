"""What a server calls when bytes pass its sockets.

The library counts nothing. A program that counts gives its server `meters`. The server then opens
an exchange for each request that is to be counted, and reports the bytes.
"""

from collections.abc import Callable
from typing import Any, Protocol

from pushlab.wsgi.responses import WSGI

Send = Callable[[bytes | memoryview], int]
Receive = Callable[[int], bytes]

#: The key of a request's exchange in the environ.
EXCHANGE = "pushlab.exchange"


class Exchange(Protocol):
    """A request with its response, or the WebSocket it became."""

    @property
    def is_cut(self) -> bool:
        """True if the connection is to be aborted."""

    def responds(self, status: int) -> Any:
        """Note that the response begins now, with this status."""

    def sent(self, size: int) -> None:
        """Count bytes of the response."""

    def received(self, size: int) -> None:
        """Count bytes that came after the request."""

    def report(self) -> None:
        """Record it: the response is sent, or has no end."""

    def upgraded(self, abort: Callable[[], None]) -> None:
        """Note that it became a WebSocket; `abort` ends that."""

    def counting(self, send: Send, receive: Receive) -> tuple[Send, Receive]:
        """Return both functions such that they count what passes."""

    def closed(self) -> None:
        """Note that the exchange no longer has the connection."""


class Meters(Protocol):
    """What opens exchanges."""

    def install(self, app: WSGI) -> WSGI:
        """Return the app in the meters' middleware."""

    def open(self, query: str, *, up: int, abort: Callable[[], None]) -> Exchange | None:
        """Return an exchange if this request is to be counted.

        `up` is the size of the request in bytes; `abort` ends its connection.
        """
