"""What event streams and WebSockets have in common: a connection that stays open."""

from bench.clients.base import Client
from bench.clients.http import CLOSING_PACKETS, OPENING_PACKETS, packets


class Staying(Client):
    """A browser that is told over one, and fetches over its line what is only signalled."""

    def open(self, asked: bytes) -> None:
        """Connect and send this request; what comes then is read by `_readable`."""
        if not self.carry:
            self.line.open()
        self._received = b""
        self._open = False
        self._socket = self.around.connect()
        self.around.watch(self._socket, self._readable)
        self._socket.sendall(asked)
        traffic = self.around.traffic
        traffic.requests += 1
        traffic.up += len(asked)
        traffic.packets += OPENING_PACKETS + packets(len(asked)) + 1

    @property
    def is_listening(self) -> bool:
        return self._open

    def idle(self) -> None:
        """Fetch what it heard of meanwhile."""
        if not self.carry:
            self.fetch_news()

    def leave(self) -> None:
        super().leave()
        self.around.unwatch(self._socket)
        self._socket.close()
        self.around.traffic.packets += CLOSING_PACKETS

    def _readable(self) -> None:
        """Take what there is to read."""
        raise NotImplementedError
