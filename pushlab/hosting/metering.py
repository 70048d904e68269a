"""The seam for a program that counts bytes: what a server calls when they pass its sockets.

The library counts nothing. A server that was given `meters` opens an exchange for each request that
they want counted, and reports its bytes.
"""

from collections.abc import Callable
from typing import Any, Protocol

from pushlab.wsgi.responses import WSGI

Send = Callable[[bytes | memoryview], int]
Receive = Callable[[int], bytes]

#: Where a server leaves the exchange of a request in the environ.
EXCHANGE = "pushlab.exchange"


class Exchange(Protocol):
    """A request and its response, or the WebSocket that it became."""

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
        """Record the exchange: its response is sent, or has no end."""

    def upgraded(self, abort: Callable[[], None]) -> None:
        """Note that the connection is a WebSocket, and how to abort it."""

    def counting(self, send: Send, receive: Receive) -> tuple[Send, Receive]:
        """Return both functions such that they count what passes."""

    def closed(self) -> None:
        """Note that the exchange no longer has the connection."""


class Meters(Protocol):
    """What opens exchanges."""

    def install(self, app: WSGI) -> WSGI:
        """Note that the server counts; return the app with the meters' middleware."""

    def open(self, query: str, *, up: int, abort: Callable[[], None]) -> Exchange | None:
        """Return an exchange if the request's query string asks for one.

        `up` is the size of the request in bytes; `abort` ends its connection.
        """
