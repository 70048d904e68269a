"""A server's subscribers, each frame verified, and its publisher."""

import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

from bench.clients.base import sequence
from bench.clients.http import WrongResponse
from bench.clients.publisher import FrameSending, PostingAnywhere, Speaking
from bench.clients.worker import Worker

#: Seconds after which a subscriber that has received nothing counts as missing.
DELIVERY_TIMEOUT = 60.0

#: How a server is made to broadcast, by name.
PUBLISHERS: dict[str, type[PostingAnywhere] | type[Speaking] | type[FrameSending]] = {
    "http": PostingAnywhere,
    "websocket": Speaking,
    "floor": FrameSending,
}


@dataclass
class Subscribers:
    """The subscribers of the server at this port of 127.0.0.1."""

    _port: int
    _publisher: PostingAnywhere | Speaking | FrameSending
    _worker: Worker
    _timeout: float
    _options: Mapping[str, bool]
    count: int = 0

    def join(self, count: int, transport: str = "websocket", *, carry: bool = False) -> None:
        """Add subscribers that have the newest reading.

        Unless they `carry`, they wait for signals only.
        """
        self._worker.do(
            "open", transport=transport, carry=carry, fetches=False, clients=count,
            address=["127.0.0.1", self._port], host=f"127.0.0.1:{self._port}",
            after=self._publisher.cursor, **self._options,
        )  # fmt: skip
        self.count += count

    def close(self) -> None:
        """Disconnect all subscribers."""
        self._worker.do("close")
        self.count = 0

    def broadcast(self, *, asking: bool = False) -> float:
        """Publish; return the seconds until the last has received.

        If `asking`, those of "fetch" GET /data meanwhile. Raises WrongResponse unless each receives
        the cursor that was published, once.
        """
        began = time.time()
        self._worker.do("begin", begin_at=began, ticks=int(asking), period=1e-6 * asking)
        self._publisher.change()
        return max(0.0, self._last_received(began) - began)

    def fetch(self, requests: int) -> None:
        """GET /data so many times on each connection of "fetch".

        Raises WrongResponse unless the last responses are the newest reading.
        """
        began = time.time()
        self._worker.do("begin", begin_at=began, ticks=requests, period=1e-6)
        self._last_received(began)

    def _last_received(self, began: float) -> float:
        cursor, deadline = self._publisher.cursor, began + self._timeout
        found = self._worker.do("finish", sequence=sequence(cursor), deadline=deadline, brief=True)
        if lost := found["lost"]:
            raise WrongResponse(
                f"{self.count - lost} of {self.count} received it in {self._timeout:g} s"
            )
        if self.count and found["cursors"] != [cursor]:
            raise WrongResponse(f"published {cursor}, received {found['cursors']}")
        return float(found["last"])


@contextmanager
def subscribers(
    port: int,
    publisher: str = "http",
    *,
    inner_port: int = 0,
    timeout: float = DELIVERY_TIMEOUT,
    is_varied: bool = False,
    is_tls: bool = False,
) -> Iterator[Subscribers]:
    """Have a worker, and a publisher.

    If `is_varied`, no two HTTP requests of the subscribers are alike.
    """
    only_tls: dict[str, Any] = {"is_tls": True} if is_tls else {}
    publishing = PUBLISHERS[publisher]("127.0.0.1", inner_port or port, **only_tls)
    options = {"is_varied": is_varied, "is_tls": is_tls}
    with closing(publishing), closing(Worker()) as worker:
        yield Subscribers(port, publishing, worker, timeout, options)
