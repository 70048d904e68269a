"""Server-sent events, headless."""

import json
from typing import Any

from tests.clients import HANG_TIMEOUT
from tests.conftest import Server
from tests.transports.base import query


class EventStream:
    """Parses a stream (WHATWG HTML section 9.2.6)."""

    def __init__(
        self, server: Server, *, after: str | None = None, carry: bool = False,
        last_event_id: str | None = None,
    ) -> None:  # fmt: skip
        last = [] if last_event_id is None else [f"Last-Event-ID: {last_event_id}"]
        self.socket = server.send_get(query(carry, after), "Accept: text/event-stream", *last)
        self._received = b""
        self._text = b""
        self._chunked = False
        self.head = self._until(b"\r\n\r\n")
        assert self.head.startswith(b"HTTP/1.1 200 ")
        assert b"Content-Type: text/event-stream; charset=utf-8\r\n" in self.head
        assert b"Cache-Control: no-store\r\n" in self.head
        self._chunked = b"chunked" in self.head  # or it goes on to the end of the connection
        assert self.event() == [("retry", "1000")]

    def _until(self, end: bytes) -> bytes:
        while end not in self._received:
            data = self.socket.recv(65536)
            assert data, "the stream ended"
            self._received += data
        found, _, self._received = self._received.partition(end)
        return found + end

    def event(self) -> list[tuple[str, str]]:
        """Return the next event's fields; raise EOFError at the end."""
        while b"\n\n" not in self._text:
            if not self._chunked:
                more, self._received = self._received or self.socket.recv(65536), b""
                if not more:
                    raise EOFError
                self._text += more
                continue
            size = int(self._until(b"\r\n"), 16)
            if not size:
                raise EOFError
            while len(self._received) < size + 2:
                self._received += self.socket.recv(65536)
            self._text += self._received[:size]
            self._received = self._received[size + 2 :]
        lines, _, self._text = self._text.partition(b"\n\n")
        fields = [line.decode().partition(": ") for line in lines.split(b"\n")]
        return [(name, value) for name, _, value in fields]

    def receive(self, *, timeout: float = HANG_TIMEOUT) -> Any:
        self.socket.settimeout(timeout)
        (name, cursor), (other, data) = self.event()
        assert (name, other) == ("id", "data")
        assert json.loads(data)["cursor"] == cursor
        return json.loads(data)

    def close(self) -> None:
        self.socket.close()


CLIENT = EventStream
