"""WebSocket: one connection that stays open, on which the server speaks (RFC 6455)."""

import base64
import os
import time

from bench.bytes_on_wire import AGENT, HANDSHAKE, WrongResponse, masked
from bench.clients.http import packets
from bench.clients.streaming import Staying

TEXT, CLOSE, PING, PONG = 1, 8, 9, 10


class WebSocket(Staying):
    """The headless half of pushlab/transports/websocket.py."""

    def listen(self, after: str) -> None:
        """Shake hands, and have a line to fetch data by where frames only signal."""
        self.cursor = after
        asked = HANDSHAKE.format(
            path=f"/update?carry={self.carry:d}&after={after}", host=self.around.host,
            agent=AGENT, key=base64.b64encode(os.urandom(16)).decode(),
        )  # fmt: skip
        self.open(asked.encode())

    def _readable(self) -> None:
        data = self._socket.recv(65536)
        at = time.time()
        if not data:
            raise WrongResponse("the server closed a WebSocket without a word")
        self._received += data
        if not self._open:
            head, blank, rest = self._received.partition(b"\r\n\r\n")
            if not blank:
                return
            if not head.startswith(b"HTTP/1.1 101 "):
                raise WrongResponse(f"GET /update: {head!r}")
            size = len(head) + 4
            self.around.traffic.down += size
            self.around.traffic.packets += packets(size)
            self._open, self._received = True, rest
        while (frame := self._frame()) is not None:
            self._take(*frame, at)

    def _frame(self) -> tuple[int, bytes, int] | None:
        """Return the next frame's opcode, its payload and its size on the wire."""
        data = self._received
        if len(data) < 2:
            return None
        begin, size = 2, data[1]
        if size == 126:
            begin, size = 4, int.from_bytes(data[2:4], "big")
        if size > 65535 or data[1] == 127 or not data[0] & 0x80:
            raise WrongResponse(f"an unexpected frame: {data[:4]!r}")
        if len(data) < begin + size:
            return None
        self._received = data[begin + size :]
        return data[0] & 0x0F, data[begin : begin + size], begin + size

    def _take(self, opcode: int, payload: bytes, size: int, at: float) -> None:
        traffic = self.around.traffic
        if opcode == PING:
            pong = masked(PONG, payload)
            self._socket.sendall(pong)
            traffic.keepalive += size + len(pong)
        elif opcode == TEXT:
            traffic.messages += 1
            traffic.down += size
            traffic.packets += packets(size) + 1  # and its acknowledgement
            if self.trace is not None:
                self.trace.append(("frame", None, at, 0, size))
            self.told(payload, at)
        else:
            raise WrongResponse(f"an unexpected frame: {opcode:#x} {payload!r}")
