"""Server-sent events: an answer that never ends, read piece by piece (WHATWG HTML section 9.2)."""

import re
import time

from bench.bytes_on_wire import AGENT, EVENT_SOURCE, WrongResponse
from bench.clients.http import packets
from bench.clients.streaming import Staying

#: What each chunk of an answer without a length begins with (RFC 9112 section 7.1).
_CHUNK = re.compile(rb"([0-9A-Fa-f]+)\r\n")


class EventStream(Staying):
    """The headless half of pushlab/transports/sse.py."""

    def listen(self, after: str) -> None:
        """Open the stream, and a line to fetch data by where events only signal."""
        self.cursor = after
        self._text = b""
        self._head: bytes | None = None
        self._chunked = False
        path = f"/update?carry={self.carry:d}&after={after}"
        self.open(EVENT_SOURCE.format(path=path, host=self.around.host, agent=AGENT).encode())

    def _readable(self) -> None:
        data = self._socket.recv(65536)
        at = time.time()
        if not data:
            raise WrongResponse("the server ended an event stream")
        self.around.traffic.down += len(data)
        self._received += data
        if self._head is None:
            head, blank, rest = self._received.partition(b"\r\n\r\n")
            if not blank:
                return
            if not head.startswith(b"HTTP/1.1 200 ") or b"text/event-stream" not in head:
                raise WrongResponse(f"GET /update: {head!r}")
            self._head, self._received = head, rest
            self._chunked = b"chunked" in head.lower()
            self.around.traffic.packets += packets(len(head))
        self._dechunk()
        *events, self._text = self._text.split(b"\n\n")
        for event in events:
            self._take(event, at)

    def _dechunk(self) -> None:
        if not self._chunked:
            self._text, self._received = self._text + self._received, b""
            return
        while (chunk := _CHUNK.match(self._received)) is not None:
            begin, end = chunk.end(), chunk.end() + int(chunk[1], 16)
            if len(self._received) < end + 2:
                return
            self._text += self._received[begin:end]
            self._received = self._received[end + 2 :]

    def _take(self, event: bytes, at: float) -> None:
        traffic, size = self.around.traffic, len(event) + 2
        if self._chunked:  # each event comes as a chunk
            size += len(f"{size:x}") + 4
        if event.startswith(b":"):  # a comment, so that the line is not silent
            traffic.down -= size
            traffic.keepalive += size
            return
        traffic.packets += packets(size) + 1
        self._open = True  # it begins with `retry:`
        _, found, message = event.partition(b"\ndata: ")
        if found:
            traffic.messages += 1
            if self.trace is not None:
                self.trace.append(("event", None, at, 0, size))
            self.told(message, at)
