"""What event streams and WebSockets have in common."""

import time
from abc import abstractmethod

from bench.clients.base import Client
from bench.clients.http import CLOSING_PACKETS, OPENING_PACKETS, WrongResponse, packets


class Streaming(Client):
    """A client with a connection that stays open.

    It has another to fetch data from, where news only signals.
    """

    def open(self, request: bytes) -> None:
        """Connect and send this request; `read` takes what comes then."""
        if not self.carry and self.fetches:
            self.connection.open()
        self._received = b""
        self._is_open = False
        self._socket = self.env.connect()
        self.env.watch(self._socket, self._readable)
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
        self.env.unwatch(self._socket)
        self._socket.close()
        self.env.traffic.packets += CLOSING_PACKETS

    def _readable(self) -> None:
        data = self._socket.recv(65536)
        at = time.time()
        if not data:
            raise WrongResponse("the server closed a connection that was to stay open")
        self.read(data, at)

    @abstractmethod
    def read(self, data: bytes, at: float) -> None:
        """Take data, which may end anywhere."""

    def on_push(self, message: bytes, at: float) -> None:
        """Take a message."""
        self.env.traffic.messages += 1
        self.on_message(message, at)
