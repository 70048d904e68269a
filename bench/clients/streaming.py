"""What event streams and WebSockets have in common."""

import time
from selectors import EVENT_READ

from bench.clients.base import Client
from bench.clients.http import CLOSING_PACKETS, OPENING_PACKETS, WrongResponse, packets


class Streaming(Client):
    """A client with a connection that stays open.

    It has another to fetch data from, where news only signals.
    """

    def open(self, request: bytes) -> None:
        """Connect and send this request."""
        if not self.carry and self.fetches:
            self.connection.open()
        self._received = self._head = b""
        self._is_open = False
        self._socket = self.env.connect()
        self.env.selector.register(self._socket, EVENT_READ, self._readable)
        self._socket.sendall(request)
        traffic = self.env.traffic
        traffic.requests += bool(request)
        traffic.up += len(request)
        traffic.packets += OPENING_PACKETS + packets(len(request)) + 1

    @property
    def is_subscribed(self) -> bool:
        return self._is_open

    def resume(self) -> None:
        """Fetch the news that came meanwhile."""
        if not self.carry and self.fetches:
            self.fetch()

    def close(self) -> None:
        super().close()
        self.env.selector.unregister(self._socket)
        self._socket.close()
        self.env.traffic.packets += CLOSING_PACKETS

    def _readable(self) -> None:
        data = self._socket.recv(65536)
        at = time.time()
        if not data:
            raise WrongResponse("the server closed a connection that was to stay open")
        self._received += data
        if not self._head:
            head, blank, rest = self._received.partition(b"\r\n\r\n")
            if not blank:
                return
            if not self.accepts(head):
                raise WrongResponse(f"GET /update: {head!r}")
            self._head, self._received = head, rest
            self.env.traffic.down += len(head) + 4
            self.env.traffic.packets += packets(len(head) + 4)
        self.read(at)

    def accepts(self, head: bytes) -> bool:
        """Tell whether this is the head of the right response."""
        raise NotImplementedError

    def read(self, at: float) -> None:
        """Take what has been received, which may end anywhere."""
        raise NotImplementedError

    def on_push(self, message: bytes, at: float, *, size: int) -> None:
        """Take a message, and count the bytes that it took."""
        self.count(size)
        self.env.traffic.messages += 1
        self.on_message(message, at)

    def count(self, size: int) -> None:
        """Count a frame or event, and its acknowledgement."""
        self.env.traffic.down += size
        self.env.traffic.packets += packets(size) + 1
