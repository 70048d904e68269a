"""WebSocket: frames on a connection that stays open (RFC 6455)."""

from bench.clients.chromium import handshake
from bench.clients.frames import PING, PONG, TEXT, masked, read_frame
from bench.clients.http import WrongResponse, packets
from bench.clients.streaming import Streaming


class WebSocket(Streaming):
    """The headless half of pushlab/transports/websocket.py."""

    def subscribe(self, after: str) -> None:
        """Send the handshake."""
        self.cursor = after
        request, self._accept = handshake(
            self.env.host, f"/update?carry={self.carry:d}&after={after}"
        )
        self.open(request)

    def read(self, data: bytes, at: float) -> None:
        traffic = self.env.traffic
        self._received += data
        if not self._is_open:
            head, blank, rest = self._received.partition(b"\r\n\r\n")
            if not blank:
                return
            if not head.startswith(b"HTTP/1.1 101 ") or self._accept not in head:
                raise WrongResponse(f"GET /update: {head!r}")
            traffic.down += len(head) + 4
            traffic.packets += packets(len(head) + 4)
            self._is_open, self._received = True, rest
        while (frame := read_frame(self._received)) is not None:
            opcode, payload, size = frame
            self._received = self._received[size:]
            if opcode == PING:
                pong = masked(PONG, payload)
                self._socket.sendall(pong)
                traffic.keepalive += size + len(pong)
            elif opcode == TEXT:
                traffic.down += size
                traffic.packets += packets(size) + 1  # and its acknowledgement
                self.on_push(payload, at)
            else:
                raise WrongResponse(f"an unexpected frame: {opcode:#x} {payload!r}")


CLIENT = WebSocket


class Frames(WebSocket):
    """The same without a handshake, for the floor."""

    def subscribe(self, after: str) -> None:
        self.cursor = after
        self.open(b"")
        self._is_open = True
