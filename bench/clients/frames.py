"""A client's WebSocket frames (RFC 6455 section 5.2)."""

from typing import NamedTuple

from bench.clients.chromium import handshake
from bench.clients.http import BlockingConnection, WrongResponse, read_response

TEXT, CLOSE, PING, PONG = 1, 8, 9, 10


class Frame(NamedTuple):
    """A frame of a server: never masked, never fragmented."""

    opcode: int
    payload: bytes
    size: int  #: bytes on the wire


def read_frame(data: bytes) -> Frame | None:
    """Return the first frame; None if it is incomplete.

    Raises WrongResponse for frames that no server here sends: fragments, and 64 KiB or more.
    """
    if len(data) < 2:
        return None
    begin, size = 2, data[1]
    if size == 126:
        begin, size = 4, int.from_bytes(data[2:4], "big")
    if data[1] > 126 or not data[0] & 0x80:
        raise WrongResponse(f"an unexpected frame: {data[:4]!r}")
    if len(data) < begin + size:
        return None
    return Frame(data[0] & 0x0F, data[begin : begin + size], begin + size)


def masked(opcode: int, payload: bytes) -> bytes:
    """Return a client's frame for at most 125 bytes.

    It is masked with zeros, which leaves the payload as it is.
    """
    return bytes([0x80 | opcode, 0x80 | len(payload), 0, 0, 0, 0]) + payload


class BlockingWebSocket(BlockingConnection):
    """A WebSocket on which one waits for each message."""

    def open(self, path: str) -> None:
        """Send the handshake; raises WrongResponse if it is refused."""
        request, accept = handshake(self.host, path)
        self.send(request)
        response = self.receive(read_response)
        if response.status != 101 or accept not in response.head:
            raise WrongResponse(f"{path} is not a WebSocket: {response.head!r}")

    def text(self) -> bytes:
        """Return the next text message; pings get pongs meanwhile."""
        while (frame := self.receive(read_frame)).opcode != TEXT:
            if frame.opcode != PING:
                raise WrongResponse(f"an unexpected frame: {frame}")
            self.send(masked(PONG, frame.payload))
        return bytes(frame.payload)
