"""HTTP and WebSocket clients that send exact bytes."""

import base64
import json
import os
import socket
import ssl
import struct
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from http.client import HTTPConnection, HTTPSConnection
from itertools import count
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import websocket
from websockets.sync.client import ClientConnection, connect

#: Seconds that anything may take before it counts as hanging, however busy the machine.
HANG_TIMEOUT = 60.0

Headers = Mapping[str, str]
Changes = Mapping[str, str | None]
Wrap = Callable[[socket.socket], socket.socket]


class Response(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Http:
    """Requests, each on a connection of its own."""

    def __init__(self, host: str, port: int, *, tls: ssl.SSLContext | None = None) -> None:
        self.host, self.port, self.tls = host, port, tls

    def request(
        self, method: str, path: str, body: bytes | None = None, *, headers: Headers | None = None
    ) -> Response:
        connection = (
            HTTPSConnection(self.host, self.port, timeout=HANG_TIMEOUT, context=self.tls)
            if self.tls
            else HTTPConnection(self.host, self.port, timeout=HANG_TIMEOUT)
        )
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return Response(response.status, dict(response.headers), response.read())
        finally:
            connection.close()

    def get(self, path: str, *, headers: Headers | None = None) -> Response:
        return self.request("GET", path, headers=headers)

    def post(self, path: str, value: Any, *, headers: Headers | None = None) -> Response:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        return self.request("POST", path, body, headers=headers)


def read_all(sock: socket.socket) -> bytes:
    """Read to the end of the connection, or its reset."""
    received = b""
    with suppress(ConnectionError):
        while piece := sock.recv(65536):
            received += piece
    return received


def exchange(port: int, request: bytes) -> bytes:
    """Send these bytes on a new connection; return the response."""
    with socket.create_connection(("127.0.0.1", port), HANG_TIMEOUT) as sock:
        with suppress(ConnectionError):
            sock.sendall(request)
            sock.shutdown(socket.SHUT_WR)
        return read_all(sock)


_Client = TypeVar("_Client", bound="Closing")


def open_websocket(url: str, **options: Any) -> AbstractContextManager[ClientConnection]:
    """Connect with the `websockets` library.

    It sends no pings: they would cut off a server that is stopped or busy, and they draw random
    numbers, which disturbs Hypothesis. It queues any number of messages: if it stopped reading,
    it would not reply to the server's pings either.
    """
    settings = {
        "open_timeout": HANG_TIMEOUT, "close_timeout": HANG_TIMEOUT,
        "ping_interval": None, "max_queue": None,
    }  # fmt: skip
    connection: Any = connect(url, **{**settings, **options})  # its types differ between releases
    opened: AbstractContextManager[ClientConnection] = connection
    return opened


class Closing:
    """Closes at the end of a `with` block."""

    def close(self) -> None:
        raise NotImplementedError

    def __enter__(self: _Client) -> _Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


#: Headers of an upgrade request (RFC 6455 section 4.1).
UPGRADE = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": base64.b64encode(bytes(16)).decode(),
    "Sec-WebSocket-Version": "13",
}

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


def frame(
    opcode: int, payload: bytes = b"", *, fin: bool = True, masked: bool = True, reserved: int = 0,
    length: int | None = None,
) -> bytes:  # fmt: skip
    """Return a client frame; `length` declares another length."""
    size = len(payload) if length is None else length
    head = bytes([fin << 7 | reserved << 4 | opcode])
    mask_bit = masked << 7
    if size < 126:
        head += bytes([mask_bit | size])
    elif size < 65536:
        head += struct.pack("!BH", mask_bit | 126, size)
    else:
        head += struct.pack("!BQ", mask_bit | 127, size)
    if not masked:
        return head + payload
    key = os.urandom(4)
    mask = (key * (len(payload) // 4 + 1))[: len(payload)]
    both = int.from_bytes(payload, "big") ^ int.from_bytes(mask, "big")
    return head + key + both.to_bytes(len(payload), "big")


def close_frame(code: int, reason: bytes = b"") -> bytes:
    return frame(CLOSE, struct.pack("!H", code) + reason)


def handshake(path: str, host: str = "127.0.0.1", changes: Changes = MappingProxyType({})) -> bytes:
    """Return an upgrade request; `changes` replaces headers, None omits them.

    The names `method` and `version` change the request line.
    """
    headers: dict[str, str | None] = {"Host": host, **UPGRADE, **changes}
    method, version = headers.pop("method", "GET"), headers.pop("version", "HTTP/1.1")
    lines = [f"{name}: {value}" for name, value in headers.items() if value is not None]
    return "\r\n".join([f"{method} {path} {version}", *lines, "", ""]).encode()


#: The value of SO_LINGER with which a close sends a reset.
RESET = struct.pack("ii", 1, 0)


class RawSocket(Closing):
    """A WebSocket client that sends bytes and reads frames."""

    def __init__(
        self, port: int, path: str = "/update", *, early: bytes = b"", receive_buffer: int = 0,
        changes: Changes = MappingProxyType({}), wrap: Wrap = lambda plain: plain,
    ) -> None:  # fmt: skip
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(HANG_TIMEOUT)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.connect(("127.0.0.1", port))
        self.socket = wrap(self.socket)
        self.socket.sendall(handshake(path, f"127.0.0.1:{port}", changes) + early)
        self._reader = self.socket.makefile("rb")
        self.status = int(self._reader.readline().split()[1])
        self.headers: dict[str, str] = {}
        while line := self._reader.readline().strip().decode():
            name, _, value = line.partition(": ")
            self.headers[name] = value

    @property
    def body(self) -> bytes:
        """The body of a response that is not a 101."""
        return self._reader.read(int(self.headers["Content-Length"]))

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def frame(self) -> tuple[int, bytes] | None:
        """Read one frame: opcode and payload; None at the end."""
        head = self._reader.read(2)
        if len(head) < 2:
            return None
        assert head[0] & 0xF0 == 0x80, "every frame of ours is whole, with no reserved bit"
        assert head[1] < 128, "a server does not mask"
        size: int = head[1]
        if size == 126:
            (size,) = struct.unpack("!H", self._reader.read(2))
        elif size == 127:
            (size,) = struct.unpack("!Q", self._reader.read(8))
        return head[0] & 15, self._reader.read(size)

    def read_until(self, expected: tuple[int, bytes]) -> None:
        """Read on to this frame."""
        while (got := self.frame()) != expected:
            assert got is not None, "the stream ended"

    def ping(self, payload: bytes = b"still there") -> None:
        """Send a ping, and read on to its pong."""
        self.send(frame(PING, payload))
        self.read_until((PONG, payload))

    def json(self) -> Any:
        """Read the next text frame's JSON; reply to pings before."""
        while (got := self.frame()) is not None:
            opcode, payload = got
            if opcode == TEXT:
                return json.loads(payload)
            assert opcode == PING, got
            self.send(frame(PONG, payload))
        raise AssertionError("the stream ended")

    def read_to_cursor(self, cursor: str) -> None:
        """Read on to the message with this cursor."""
        while self.json()["cursor"] != cursor:
            pass

    def last_frame(self) -> tuple[int, bytes]:
        """Read to the end; return the last frame."""
        last = 0, b""
        while (got := self.frame()) is not None:
            last = got
        return last

    def close_payload(self) -> bytes:
        """Reply to pings and to the close frame; return its payload."""
        while (got := self.frame()) is not None and got[0] != CLOSE:
            if got[0] == PING:
                self.send(frame(PONG, got[1]))
        assert got is not None, "the stream ended without a close frame"
        with suppress(OSError):  # on a busy machine the reply may come too late
            self.send(frame(CLOSE, got[1]))
            assert self._reader.read() == b"", "nothing may follow a close frame"
        return got[1]

    def close_code(self) -> int | None:
        """Do as `close_payload`; return the code, or None."""
        payload = self.close_payload()
        return struct.unpack("!H", payload[:2])[0] if payload else None

    def close(self) -> None:
        self._reader.close()
        self.socket.close()

    def reset(self) -> None:
        """Close with a reset, as a crashed machine does."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.close()


class _Counting:
    """Counts the bytes that a socket sends and receives."""

    sent = 0
    received = 0

    def sendall(self, data: Any, *more: Any) -> None:
        super().sendall(data, *more)  # type: ignore[misc]
        self.sent += len(data)

    def recv_into(self, *buffer: Any) -> int:
        size: int = super().recv_into(*buffer)  # type: ignore[misc]
        self.received += size
        return size


class CountingSocket(_Counting, socket.socket):
    """A socket that counts its bytes, also through `makefile`."""

    @classmethod
    def of(cls, plain: socket.socket) -> "CountingSocket":
        """Take over the connection of `plain`."""
        timeout = plain.gettimeout()
        counting = cls(fileno=plain.detach())
        counting.settimeout(timeout)
        return counting


class CountingTLS(_Counting, ssl.SSLSocket):
    """The same within TLS; set as a context's `sslsocket_class`."""


class Wire(Closing):
    """An HTTP connection that sends the given bytes, and counts."""

    def __init__(
        self, port: int, *, wrap: Callable[[socket.socket], Any] = CountingSocket.of
    ) -> None:
        self.socket = wrap(socket.create_connection(("127.0.0.1", port), HANG_TIMEOUT))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = self.socket.makefile("rb")

    @property
    def sent(self) -> int:
        return int(self.socket.sent)

    @property
    def received(self) -> int:
        return int(self.socket.received)

    def request(self, request: bytes) -> Response:
        """Send a request and read its response."""
        self.socket.sendall(request)
        return self.response(to=request.partition(b" ")[0])

    def response(self, *, to: bytes = b"GET") -> Response:
        """Read the next response; to a HEAD without a body."""
        status, headers = self.head()
        if to == b"HEAD" or status in (204, 304):
            return Response(status, headers, b"")
        size = int(headers["Content-Length"])
        body = self._reader.read(size)
        assert len(body) == size, "the response ended too early"
        return Response(status, headers, body)

    def head(self) -> tuple[int, dict[str, str]]:
        """Read a response's status and its headers, in their order."""
        line = self._reader.readline()
        assert line.startswith(b"HTTP/1.1 "), line
        headers = {}
        while field := self._reader.readline().strip().decode():
            name, _, value = field.partition(": ")
            assert name not in headers, f"{name} twice"
            headers[name] = value
        return int(line.split()[1]), headers

    def until(self, end: bytes) -> bytes:
        """Read byte by byte up to and including `end`."""
        read = b""
        while not read.endswith(end):
            byte = self._reader.read(1)
            assert byte, f"the stream ended after {read!r}"
            read += byte
        return read

    def rest(self) -> bytes:
        """Read to the end, which may be a reset."""
        rest = b""
        with suppress(ConnectionError):
            while piece := self._reader.read(1):
                rest += piece
        return rest

    def close(self) -> None:
        self._reader.close()
        self.socket.close()


class LabPage(Closing):
    """A page's connection to the instruments at /lab."""

    _clock_ids = count(1_000_001)  # larger than any that a test sends

    def __init__(self, ws: str, **options: Any) -> None:
        self._connect(f"{ws}/lab", options)
        #: Every message so far.
        self.received: list[dict[str, Any]] = []
        #: By lane, the exchanges that were reported.
        self.exchanges: dict[str, list[Any]] = {}
        self._watched: list[str] = []

    def _connect(self, url: str, options: dict[str, Any]) -> None:
        self._opened = open_websocket(url, **options)
        self.socket = self._opened.__enter__()

    def _receive(self) -> str | bytes:
        return self.socket.recv(HANG_TIMEOUT)

    def do(self, control: str, **parameters: Any) -> None:
        self.send(json.dumps({"do": control, **parameters}))

    def send(self, message: str | bytes) -> None:
        self.socket.send(message)

    def next(self) -> dict[str, Any]:
        """Wait for the next message of any kind."""
        message: dict[str, Any] = json.loads(self._receive())
        self.received.append(message)
        for lane, sums in message.get("meters", {}).items():
            self.exchanges.setdefault(lane, []).extend(sums["exchanges"])
        return message

    def wait_for(self, name: str, accept: Callable[[Any], bool] = lambda value: True) -> Any:
        """Wait for a message of this name; return its value."""
        deadline = time.monotonic() + HANG_TIMEOUT
        while name not in (message := self.next()) or not accept(message[name]):
            assert time.monotonic() < deadline, f"{name} did not come; the last was: {message}"
        return message[name]

    def clock(self) -> float:
        """Return the server's time; earlier messages have been received then."""
        return float(self.replies()[-1]["clock"]["at"])

    def replies(self, *messages: str | bytes) -> list[dict[str, Any]]:
        """Send these and a clock request; return all replies."""
        sent, before = next(self._clock_ids), len(self.received)
        for message in messages:
            self.send(message)
        self.do("clock", sent=sent)
        self.wait_for("clock", lambda clock: clock["sent"] == sent)
        return self.received[before:]

    def errors(self, *messages: str | bytes) -> list[str]:
        """Send the messages; return the errors that come back."""
        return [each["error"] for each in self.replies(*messages) if "error" in each]

    def sums(self, lane: str) -> dict[str, Any]:
        """Return what this lane has cost up to now."""
        self.clock()
        self._watched = list(dict.fromkeys([*self._watched, lane]))
        self.do("watch", lanes=self._watched)
        meters = self.wait_for("meters", lambda meters: lane in meters)
        return {name: meters[lane][name] for name in ("requests", "empty", "up", "down")}

    def close(self) -> None:
        self._opened.__exit__(None, None, None)


class LabPageOverTLS(LabPage):
    """The same over TLS."""

    # One thread: `websockets` has two at its SSL object, which Python 3.11 does not lock.

    def _connect(self, url: str, options: dict[str, Any]) -> None:
        self._tls = websocket.create_connection(url, timeout=HANG_TIMEOUT, sslopt=options)

    def _receive(self) -> str | bytes:
        received: str | bytes = self._tls.recv()
        return received

    def send(self, message: str | bytes) -> None:
        self._tls.send(message)

    def close(self) -> None:
        self._tls.close()
