"""What the tests talk to a server with, where a library would hide what is tested."""

import base64
import json
import os
import socket
import struct
from collections.abc import Callable, Mapping
from contextlib import suppress
from http.client import HTTPConnection
from types import MappingProxyType
from typing import Any, NamedTuple


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Http:
    """One request per connection, nothing hidden."""

    def __init__(self, host: str, port: int) -> None:
        self.host, self.port = host, port

    def request(
        self, method: str, path: str, body: bytes | None = None,
        *, timeout: float = 15, headers: Mapping[str, str] | None = None,
    ) -> Answer:  # fmt: skip
        connection = HTTPConnection(self.host, self.port, timeout=timeout)
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
