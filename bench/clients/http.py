"""A browser's connection for requests and answers, one at a time, that counts what passes it."""

import socket
import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

from bench.bytes_on_wire import AGENT, FETCH, WrongResponse
from bench.results import SEGMENT, Traffic

#: Packets that it takes to open a TCP connection, and to close it.
OPENING_PACKETS, CLOSING_PACKETS = 3, 4


class Environment(Protocol):
    """What a browser finds around it: the audience."""

    traffic: Traffic  #: of everybody together
    host: str  #: as in the header

    def connect(self) -> socket.socket:
        """Return a new connection to the server."""

    def watch(self, sock: socket.socket, readable: Callable[[], None]) -> None:
        """Call this whenever there is something to read."""

    def unwatch(self, sock: socket.socket) -> None:
        """Watch it no more."""

    def changed(self, number: int, changed_at: float, value: Mapping[str, Any]) -> None:
        """Hear when a reading changed, by the server's clock, and what it said."""

    def call_at(self, when: float, callback: Callable[[], None]) -> None:
        """Call this at that time of the clock, in seconds since the epoch."""


def packets(size: int) -> int:
    """Return how many packets it takes to send so many bytes."""
    return -(-size // SEGMENT)


@lru_cache(maxsize=1000)  # everybody asks the same
def request(host: str, path: str, *, method: str = "GET", known: str = "") -> bytes:
    """Return a request as Chromium's fetch() sends it, of one who has the reading `known`."""
    etag = f'If-None-Match: "{known}"\r\n' if known else ""
    return FETCH.format(method=method, path=path, host=host, agent=AGENT, etag=etag).encode()


class Answer(NamedTuple):
    """What a request was answered with."""

    status: int
    head: bytes
    body: bytes
    asked_at: float  #: seconds since the epoch, as the next
    received_at: float
    up: int  #: bytes of the request
    down: int  #: bytes of the answer

    def header(self, name: bytes) -> bytes:
        """Return a header's value, b"" if there is none."""
        _, found, rest = self.head.partition(b"\r\n" + name + b": ")
        return rest.partition(b"\r\n")[0] if found else b""


class Line:
    """A connection that is kept alive; where the server ends it, the next request opens another."""

    __slots__ = ("_answered", "_around", "_asked_at", "_fresh", "_rest", "_sent", "_socket")

    def __init__(self, around: Environment, answered: Callable[[Answer], None]) -> None:
        self._around = around
        self._answered = answered
        self._socket: socket.socket | None = None
        self._fresh = False  # opened for the request that has no answer yet
        self._rest = b""
        self._sent = b""  # the request that has no answer yet
        self._asked_at = 0.0

    @property
    def is_waiting(self) -> bool:
        """True while a request has no answer."""
        return bool(self._sent)

    @property
    def _connected(self) -> socket.socket:
        if self._socket is None:
            raise AssertionError("not connected")
        return self._socket

    def open(self) -> None:
        """Connect, as a browser has for the page itself."""
        self._socket = self._around.connect()
        self._around.watch(self._socket, self._readable)
        self._around.traffic.packets += OPENING_PACKETS

    def ask(self, request: bytes) -> None:
        """Send a request."""
        if self._sent:
            raise AssertionError("one request at a time")
        self._sent, self._asked_at = request, time.time()
        self._around.traffic.requests += 1
        self._send()

    def _send(self) -> None:
        self._fresh = self._socket is None
        if self._fresh:
            self.open()
        traffic, size = self._around.traffic, len(self._sent)
        traffic.up += size
        traffic.packets += packets(size)
        try:
            self._connected.sendall(self._sent)
        except (BrokenPipeError, ConnectionResetError):
            self._hung_up()

    def close(self) -> None:
        """Hang up, whatever is still to come."""
        if self._socket is not None:
            self._around.unwatch(self._socket)
            self._socket.close()
            self._socket = None
            self._around.traffic.packets += CLOSING_PACKETS
        self._sent = self._rest = b""

    def _hung_up(self) -> None:
        """Send the request anew if it crossed the end of a connection that had been idle."""
        if self._sent and (self._rest or self._fresh):
            raise WrongResponse("the server hung up on a request")
        unanswered = self._sent
        self.close()
        if unanswered:
            self._sent = unanswered
            self._send()

    def _readable(self) -> None:
        try:
            data = self._connected.recv(65536)
        except ConnectionResetError:
            data = b""
        received_at = time.time()
        if not data:
            self._hung_up()
            return
        if not self._sent:
            raise WrongResponse(f"an answer to no question: {data[:80]!r}")
        self._around.traffic.down += len(data)
        data = self._rest + data
        head, blank, body = data.partition(b"\r\n\r\n")
        if not blank:
            self._rest = data
            return
        status = int(head[9:12])
        size = 0
        if not self._sent.startswith(b"HEAD ") and status not in (204, 304):
            _, found, length = head.partition(b"\r\nContent-Length: ")
            if not found:
                raise WrongResponse(f"an answer of no known length: {head!r}")
            size = int(length.partition(b"\r\n")[0])
        if len(body) < size:
            self._rest = data
            return
        if len(body) > size:
            raise WrongResponse(f"more than was asked for: {body[size:]!r}")
        self._around.traffic.packets += packets(len(data)) + 1  # and its acknowledgement
        answer = Answer(
            status, head, body, self._asked_at, received_at, len(self._sent), len(data)
        )  # fmt: skip
        self._sent = self._rest = b""
        if answer.header(b"Connection").lower() == b"close":
            self.close()
        self._answered(answer)
