"""A server's subscribers, each frame verified, and its publisher."""

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Protocol

from bench.clients.base import sequence
from bench.clients.http import WrongResponse
from bench.clients.publisher import FrameSending, Posting, Speaking
from bench.clients.worker import Worker

#: Seconds after which a subscriber that has received nothing counts as missing.
DELIVERY_TIMEOUT = 10.0


class Publisher(Protocol):
    """What makes a server broadcast."""

    cursor: str  #: of what it has published last

    def change(self) -> object:
        """Publish, and wait for the response."""

    def close(self) -> None:
        """Close the connection."""


#: How a server is made to broadcast, by name.
PUBLISHERS: dict[str, type[Posting] | type[Speaking] | type[FrameSending]] = {
    "http": Posting,
    "websocket": Speaking,
    "floor": FrameSending,
}


class Subscribers:
    """The subscribers of the server at this port of 127.0.0.1."""

    def __init__(
        self, port: int, publisher: Publisher, worker: Worker, *, timeout: float = DELIVERY_TIMEOUT
    ) -> None:
        self._address = ["127.0.0.1", port]
        self._host = f"127.0.0.1:{port}"
        self._publisher = publisher
        self._worker = worker
        self._timeout = timeout
        self._count = 0

    def join(self, count: int, transport: str = "websocket") -> None:
        """Add subscribers that have the newest reading, for signals only."""
        self._worker.do(
            "open", transport=transport, carry=False, fetches=False, clients=count,
            address=self._address, host=self._host, after=self._publisher.cursor,
        )  # fmt: skip
        self._count += count

    def broadcast(self) -> float:
        """Publish; return the seconds until the last has received.

        Raises WrongResponse unless each receives the cursor that was published, once.
        """
        self._worker.do("begin")
        began = time.time()
        self._publisher.change()
        cursor = self._publisher.cursor
        found = self._worker.do(
            "finish", sequence=sequence(cursor), deadline=began + self._timeout, brief=True
        )
        if lost := found["lost"]:
            raise WrongResponse(
                f"{self._count - lost} of {self._count} received it in {self._timeout:g} s"
            )
        if self._count and found["cursors"] != [cursor]:
            raise WrongResponse(f"published {cursor}, received {found['cursors']}")
        return max(0.0, float(found["last"]) - began)

    def fetch(self, connections: int, requests: int) -> None:
        """GET /data so many times on each connection."""
        self._worker.do(
            "fetch", address=self._address, host=self._host, connections=connections,
            requests=requests,
        )  # fmt: skip


@contextmanager
def subscribers(
    port: int, publisher: str = "http", *, timeout: float = DELIVERY_TIMEOUT
) -> Iterator[Subscribers]:
    """Have a worker and a publisher for a server."""
    with (
        closing(Worker()) as worker,
        closing(PUBLISHERS[publisher]("127.0.0.1", port)) as publishing,
    ):
        yield Subscribers(port, publishing, worker, timeout=timeout)
