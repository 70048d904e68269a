"""What the tests talk to a server with, where a library would hide what is tested."""

import base64
import json
import os
import socket
import ssl
import struct
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from http.client import HTTPConnection, HTTPSConnection
from itertools import count
from types import MappingProxyType
from typing import Any, NamedTuple

import websocket
from websockets.sync.client import ClientConnection, connect


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Http:
    """One request per connection, nothing hidden."""

    def __init__(self, host: str, port: int, *, tls: ssl.SSLContext | None = None) -> None:
        self.host, self.port, self.tls = host, port, tls

    def request(
        self, method: str, path: str, body: bytes | None = None,
        *, timeout: float = 15, headers: Mapping[str, str] | None = None,
    ) -> Answer:  # fmt: skip
        connection = (
            HTTPSConnection(self.host, self.port, timeout=timeout, context=self.tls)
            if self.tls
            else HTTPConnection(self.host, self.port, timeout=timeout)
        )
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return Answer(response.status, dict(response.headers), response.read())
        finally:
            connection.close()

    def get(self, path: str, *, headers: Mapping[str, str] | None = None) -> Answer:
        return self.request("GET", path, headers=headers)

    def post(self, path: str, value: Any, *, headers: Mapping[str, str] | None = None) -> Answer:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        return self.request("POST", path, body, headers=headers)


#: What a request for a WebSocket must say.
UPGRADE = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": base64.b64encode(bytes(16)).decode(),
    "Sec-WebSocket-Version": "13",
}

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


def frame(
    opcode: int, payload: bytes = b"", *, fin: bool = True, masked: bool = True, reserved: int = 0,
    length: int | None = None,
) -> bytes:  # fmt: skip
    """One frame as a client sends it, or as it must not; `length` declares another length."""
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
    return head + key + bytes(byte ^ key[i % 4] for i, byte in enumerate(payload))


def handshake(path: str, host: str, changes: Mapping[str, str | None]) -> bytes:
    """An upgrade request; `changes` replaces headers, or with None leaves them out.

    The names `method` and `version` change the request line.
    """
    headers: dict[str, str | None] = {"Host": host, **UPGRADE, **changes}
    method, version = headers.pop("method", "GET"), headers.pop("version", "HTTP/1.1")
    lines = [f"{name}: {value}" for name, value in headers.items() if value is not None]
    return "\r\n".join([f"{method} {path} {version}", *lines, "", ""]).encode()


class RawSocket:
    """A WebSocket client that sends exactly what it is told, and reads frame by frame."""

    def __init__(
        self, port: int, path: str = "/update", *, early: bytes = b"", receive_buffer: int = 0,
        changes: Mapping[str, str | None] = MappingProxyType({}),
        wrap: Callable[[socket.socket], socket.socket] = lambda plain: plain,
    ) -> None:  # fmt: skip
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(15)
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
        """The body of an answer that is not a 101."""
        return self._reader.read(int(self.headers["Content-Length"]))

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def frame(self) -> tuple[int, bytes] | None:
        """Read one frame: opcode and payload; None at the end of the stream."""
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

    def json(self) -> Any:
        """Read one text frame's JSON; answer pings on the way."""
        while (got := self.frame()) is not None:
            opcode, payload = got
            if opcode == TEXT:
                return json.loads(payload)
            assert opcode == PING, got
            self.send(frame(PONG, payload))
        raise AssertionError("the stream ended")

    def close_code(self) -> int | None:
        """Read on to the close frame, answer it, read to the end; None if it has no code."""
        while (got := self.frame()) is not None and got[0] != CLOSE:
            pass
        assert got is not None, "the stream ended without a close frame"
        with suppress(OSError):  # the server may have left
            self.send(frame(CLOSE, got[1]))
        assert self._reader.read() == b"", "nothing may follow a close frame"
        return struct.unpack("!H", got[1][:2])[0] if got[1] else None

    def close(self) -> None:
        self._reader.close()
        self.socket.close()

    def __enter__(self) -> "RawSocket":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Counting:
    """Counts what a socket sends and receives."""

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
    """A socket that counts what its client writes, and reads through `makefile`."""

    @classmethod
    def of(cls, plain: socket.socket) -> "CountingSocket":
        """Go on counting where `plain` is."""
        timeout = plain.gettimeout()
        counting = cls(fileno=plain.detach())
        counting.settimeout(timeout)
        return counting


class CountingTLS(_Counting, ssl.SSLSocket):
    """The same within TLS; set as a context's `sslsocket_class`."""


class Wire:
    """A connection for HTTP on which exactly the bytes pass that a test wants; it counts them."""

    def __init__(
        self, port: int, *, wrap: Callable[[socket.socket], Any] = CountingSocket.of
    ) -> None:
        self.socket = wrap(socket.create_connection(("127.0.0.1", port), 15))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = self.socket.makefile("rb")

    @property
    def sent(self) -> int:
        return int(self.socket.sent)

    @property
    def received(self) -> int:
        return int(self.socket.received)

    def ask(self, request: bytes) -> Answer:
        """Send a request and read its answer."""
        self.socket.sendall(request)
        return self.answer(to=request.partition(b" ")[0])

    def answer(self, *, to: bytes = b"GET") -> Answer:
        """Read the next answer; that to a HEAD has no body."""
        status, headers = self.head()
        if to == b"HEAD" or status in (204, 304):
            return Answer(status, headers, b"")
        size = int(headers["Content-Length"])
        body = self._reader.read(size)
        assert len(body) == size, "the answer ended too early"
        return Answer(status, headers, body)

    def head(self) -> tuple[int, dict[str, str]]:
        """Read the head of an answer: its status and its headers, in their order."""
        line = self._reader.readline()
        assert line.startswith(b"HTTP/1.1 "), line
        headers = {}
        while field := self._reader.readline().strip().decode():
            name, _, value = field.partition(": ")
            assert name not in headers, f"{name} twice"
            headers[name] = value
        return int(line.split()[1]), headers

    def until(self, end: bytes) -> bytes:
        """Read on until this comes, byte by byte."""
        read = b""
        while not read.endswith(end):
            byte = self._reader.read(1)
            assert byte, f"the stream ended after {read!r}"
            read += byte
        return read

    def rest(self) -> bytes:
        """Read to the end, which may come as a reset."""
        rest = b""
        with suppress(ConnectionError):
            while piece := self._reader.read(1):
                rest += piece
        return rest

    def close(self) -> None:
        self._reader.close()
        self.socket.close()

    def __enter__(self) -> "Wire":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class LabPage:
    """A page's instruments: what the server says at /lab, message by message."""

    _asked = count(1_000_001)  # not to be taken for what a test asks

    def __init__(self, ws: str, **options: Any) -> None:
        self._connect(f"{ws}/lab", options)
        #: Every message so far.
        self.heard: list[dict[str, Any]] = []
        #: By lane, the exchanges that were told.
        self.exchanges: dict[str, list[Any]] = {}
        self._watched: list[str] = []

    def _connect(self, url: str, options: dict[str, Any]) -> None:
        # The types of websockets differ between the releases for Python 3.10 and for later ones.
        self._opened = connect(url, **options)
        entered: Any = self._opened.__enter__()
        self.socket: ClientConnection = entered

    def _receive(self) -> str | bytes:
        return self.socket.recv(10)

    def do(self, control: str, **wish: Any) -> None:
        self.say(json.dumps({"do": control, **wish}))

    def say(self, message: str | bytes) -> None:
        self.socket.send(message)

    def next(self) -> dict[str, Any]:
        """Wait for the next message, whatever it is."""
        message: dict[str, Any] = json.loads(self._receive())
        self.heard.append(message)
        for lane, sums in message.get("meters", {}).items():
            self.exchanges.setdefault(lane, []).extend(sums["exchanges"])
        return message

    def hear(self, name: str, is_it: Callable[[Any], bool] = lambda said: True) -> Any:
        """Wait for a message of this name, if need be for the right one; return what it says."""
        deadline = time.monotonic() + 10
        while name not in (message := self.next()) or not is_it(message[name]):
            assert time.monotonic() < deadline, f"waited in vain; the last heard: {message}"
        return message[name]

    def clock(self) -> float:
        """Ask for the server's time: what is heard after this was said after this."""
        return float(self.answers()[-1]["clock"]["at"])

    def answers(self, *messages: str | bytes) -> list[dict[str, Any]]:
        """Say all this and then ask for the time; return what is heard up to that."""
        sent, before = next(self._asked), len(self.heard)
        for message in messages:
            self.say(message)
        self.do("clock", sent=sent)
        self.hear("clock", lambda clock: clock["sent"] == sent)
        return self.heard[before:]

    def sums(self, lane: str) -> dict[str, Any]:
        """Ask what this lane has cost up to now."""
        self.clock()
        self._watched = list(dict.fromkeys([*self._watched, lane]))
        self.do("watch", lanes=self._watched)
        meters = self.hear("meters", lambda meters: lane in meters)
        return {name: meters[lane][name] for name in ("requests", "empty", "up", "down")}

    def close(self) -> None:
        self._opened.__exit__(None, None, None)

    def __enter__(self) -> "LabPage":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class LabPageOverTLS(LabPage):
    """The same over TLS."""

    # One thread: `websockets` has two at its SSL object, which Python 3.11 does not lock.

    def _connect(self, url: str, options: dict[str, Any]) -> None:
        self._tls = websocket.create_connection(url, timeout=10, sslopt=options)

    def _receive(self) -> str | bytes:
        received: str | bytes = self._tls.recv()
        return received

    def say(self, message: str | bytes) -> None:
        self._tls.send(message)

    def close(self) -> None:
        self._tls.close()
