"""Server-sent events, an endless response (WHATWG HTML section 9.2)."""

from bench.clients.chromium import EVENT_SOURCE, request
from bench.clients.http import WrongResponse, packets, read_chunks
from bench.clients.streaming import Streaming


class EventStream(Streaming):
    """The headless half of pushlab/transports/sse.py."""

    def subscribe(self, after: str) -> None:
        """Open the stream."""
        self.cursor = after
        self._text = b""
        self._head = b""
        self._is_chunked = False
        path = f"/update?carry={self.carry:d}&after={after}"
        self.open(request(self.env.host, path, template=EVENT_SOURCE))

    def read(self, data: bytes, at: float) -> None:
        self.env.traffic.down += len(data)
        self._received += data
        if not self._head:
            head, blank, rest = self._received.partition(b"\r\n\r\n")
            if not blank:
                return
            if not head.startswith(b"HTTP/1.1 200 ") or b"text/event-stream" not in head:
                raise WrongResponse(f"GET /update: {head!r}")
            self._head, self._received = head, rest
            self._is_chunked = b"chunked" in head.lower()
            self.env.traffic.packets += packets(len(head))
        if self._is_chunked:
            text, self._received = read_chunks(self._received)
        else:
            text, self._received = self._received, b""
        *events, self._text = (self._text + text).split(b"\n\n")
        for event in events:
            self._take(event, at)

    def _take(self, event: bytes, at: float) -> None:
        traffic, size = self.env.traffic, len(event) + 2
        if self._is_chunked:  # each event comes as a chunk
            size += len(f"{size:x}") + 4
        if event.startswith(b":"):  # a comment, which keeps the connection alive
            traffic.down -= size
            traffic.keepalive += size
            return
        traffic.packets += packets(size) + 1
        self._is_open = True  # it begins with `retry:`
        _, found, message = event.partition(b"\ndata: ")
        if found:
            self.on_push(message, at)


CLIENT = EventStream
