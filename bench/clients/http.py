"""An HTTP client that counts bytes (RFC 9112)."""

import re
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from selectors import EVENT_READ
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.results import SEGMENT

if TYPE_CHECKING:
    from bench.clients.worker import LoadGenerator

#: Packets that it takes to open a TCP connection, and to close it.
OPENING_PACKETS, CLOSING_PACKETS = 3, 4
#: What each chunk begins with (RFC 9112 section 7.1).
_CHUNK = re.compile(rb"([0-9A-Fa-f]+)\r\n")


def any_certificate() -> ssl.SSLContext:
    """Return a context that trusts every server."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


class WrongResponse(Exception):
    """The server broke the protocol; the message says how."""


class Response(NamedTuple):
    """A response, and when it came."""

    status: int
    head: bytes  #: status line and header fields
    body: bytes
    size: int  #: bytes on the wire
    received_at: float = 0.0  #: seconds since the epoch

    def header(self, name: bytes) -> bytes:
        """Return a header's value, b"" if there is none."""
        _, found, rest = self.head.partition(b"\r\n" + name + b": ")
        return rest.partition(b"\r\n")[0] if found else b""


def read_response(data: bytes, *, to: bytes = b"GET") -> Response | None:
    """Return the first response; None if it is incomplete.

    `to` is how the request began. Raises WrongResponse if the response has no length.
    """
    head, blank, rest = data.partition(b"\r\n\r\n")
    if not blank:
        return None
    status, size = int(head[9:12]), 0
    if status not in (101, 204, 304) and not to.startswith(b"HEAD"):
        _, found, length = head.lower().partition(b"\r\ncontent-length:")
        if not found:
            raise WrongResponse(f"a response of no known length: {head!r}")
        size = int(length.partition(b"\r\n")[0])
        if len(rest) < size:
            return None
    return Response(status, head, rest[:size], len(head) + 4 + size)


def read_chunks(data: bytes) -> tuple[bytes, bytes]:
    """Return what is in all complete chunks, and the rest."""
    text = b""
    while (chunk := _CHUNK.match(data)) is not None:
        begin, end = chunk.end(), chunk.end() + int(chunk[1], 16)
        if len(data) < end + 2:
            break
        text += data[begin:end]
        data = data[end + 2 :]
    return text, data


def packets(size: int) -> int:
    """Return the packets that so many bytes take."""
    return -(-size // SEGMENT)


class Connection:
    """A kept-alive connection for one request at a time.

    If the server has closed it while it was idle, the next request opens another.
    """

    __slots__ = ("_env", "_is_new", "_on_response", "_received", "_request", "_socket")

    def __init__(self, env: "LoadGenerator", on_response: Callable[[Response], None]) -> None:
        self._env = env
        self._on_response = on_response
        self._socket: socket.socket | None = None
        self._is_new = False  # opened for the request that has no response yet
        self._received = b""
        self._request = b""  # the one that has no response yet

    @property
    def is_waiting(self) -> bool:
        """Whether a request has no response yet."""
        return bool(self._request)

    def open(self) -> socket.socket:
        """Connect, as a browser has done for the page itself."""
        self._socket = self._env.connect()
        self._env.selector.register(self._socket, EVENT_READ, self._readable)
        self._env.traffic.packets += OPENING_PACKETS
        return self._socket

    def send(self, request: bytes) -> None:
        """Send a request; the one before must have its response."""
        self._request = self._env.vary(request)
        self._env.traffic.requests += 1
        self._send()

    def _send(self) -> None:
        self._is_new = self._socket is None
        sock = self._socket or self.open()
        self._env.traffic.up += len(self._request)
        self._env.traffic.packets += packets(len(self._request))
        try:
            sock.sendall(self._request)
        except (BrokenPipeError, ConnectionResetError):
            self._closed_by_server()

    def close(self) -> None:
        """Close it, whatever is still to come."""
        if self._socket is not None:
            self._env.selector.unregister(self._socket)
            self._socket.close()
            self._socket = None
            self._env.traffic.packets += CLOSING_PACKETS
        self._request = self._received = b""

    def _closed_by_server(self) -> None:
        """Send again what crossed the end of an idle connection."""
        if self._request and (self._received or self._is_new):
            raise WrongResponse("the server closed the connection of a request")
        request = self._request
        self.close()
        self._request = request
        if request:
            self._send()

    def _readable(self) -> None:
        data = b""
        if self._socket is not None:
            with suppress(ConnectionResetError):
                data = self._socket.recv(65536)
        received_at = time.time()
        if not data:
            self._closed_by_server()
            return
        if not self._request:
            raise WrongResponse(f"a response without a request: {data[:80]!r}")
        self._env.traffic.down += len(data)
        self._received += data
        found = read_response(self._received, to=self._request)
        if found is None:
            return
        if len(self._received) > found.size:
            raise WrongResponse(f"more than one response: {self._received[found.size :]!r}")
        self._env.traffic.packets += packets(found.size) + 1  # and its acknowledgement
        response = found._replace(received_at=received_at)
        self._request = self._received = b""
        if response.header(b"Connection").lower() == b"close":
            self.close()
        self._on_response(response)


class BlockingConnection:
    """A connection with blocking reads."""

    def __init__(self, host: str, port: int, *, name: str = "", timeout: float = 10.0) -> None:
        self.host = name or f"{host}:{port}"  #: as in the Host header
        self._socket = socket.create_connection((host, port), timeout)
        self._received = b""

    def close(self) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def receive(self, read: Callable[[bytes], Any]) -> Any:
        """Return the next Response or Frame that `read` finds.

        Raises ConnectionError if the server closes the connection before.
        """
        while (message := read(self._received)) is None:
            if not (data := self._socket.recv(65536)):
                raise ConnectionError("the server closed the connection")
            self._received += data
        self._received = self._received[message.size :]
        return message
