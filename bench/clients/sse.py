"""Server-sent events, an endless response (WHATWG HTML section 9.2)."""

from bench.clients.chromium import EVENT_SOURCE, request
from bench.clients.http import read_chunks
from bench.clients.streaming import Streaming


class EventStream(Streaming):
    """The headless half of pushlab/transports/sse.py."""

    def subscribe(self, after: str) -> None:
        """Open the stream."""
        self.cursor = after
        self._text = b""
        self._is_chunked = False
        path = f"/update?carry={self.carry:d}&after={after}"
        self.open(request(self.env.host, path, template=EVENT_SOURCE))

    def accepts(self, head: bytes) -> bool:
        self._is_chunked = b"chunked" in head.lower()
        return head.startswith(b"HTTP/1.1 200 ") and b"text/event-stream" in head

    def read(self, at: float) -> None:
        text, rest = self._received, b""
        if self._is_chunked:
            text, rest = read_chunks(text)
        *events, self._text = (self._text + text).split(b"\n\n")
        self._received = rest
        for event in events:
            size = len(event) + 2
            if self._is_chunked:  # each event comes as a chunk
                size += len(f"{size:x}") + 4
            if event.startswith(b":"):  # a comment, which keeps the connection alive
                self.env.traffic.keepalive += size
                continue
            self._is_open = True  # it begins with `retry:`
            _, found, message = event.partition(b"\ndata: ")
            if found:
                self.on_push(message, at, size=size)
            else:
                self.count(size)


CLIENT = EventStream
