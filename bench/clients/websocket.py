"""WebSocket: frames on a connection that stays open (RFC 6455)."""

import re

from bench.clients.chromium import handshake
from bench.clients.frames import PING, PONG, TEXT, masked, read_frame
from bench.clients.http import WrongResponse
from bench.clients.streaming import Streaming


class WebSocket(Streaming):
    """The headless half of pushlab/transports/websocket.py."""

    def subscribe(self, after: str) -> None:
        """Send the handshake."""
        self.cursor = after
        path = f"/update?carry={self.carry:d}&after={after}"
        request, self._accept = handshake(self.env.host, path)
        if not self.fetches and not self.carry:
            # Of the fan-out: a server that compresses would do other work than one that does not.
            request = re.sub(rb"Sec-WebSocket-Extensions: [^\r]*\r\n", b"", request)
        self.open(request)

    def accepts(self, head: bytes) -> bool:
        self._is_open = head.startswith(b"HTTP/1.1 101 ") and self._accept in head
        return self._is_open

    def read(self, at: float) -> None:
        while (frame := read_frame(self._received)) is not None:
            opcode, payload, size = frame
            self._received = self._received[size:]
            if opcode == PING:
                pong = masked(PONG, payload)
                self._socket.sendall(pong)
                self.env.traffic.keepalive += size + len(pong)
            elif opcode == TEXT:
                self.on_push(payload, at, size=size)
            else:
                raise WrongResponse(f"an unexpected frame: {opcode:#x} {payload!r}")


CLIENT = WebSocket


class Frames(WebSocket):
    """The same without a handshake, for the floor."""

    def subscribe(self, after: str) -> None:
        self.cursor = after
        self.open(b"")
        self._head, self._is_open = b"none", True
