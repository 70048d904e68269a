"""The client: learn of a reading, fetch it, show it."""

import time
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bench.clients.chromium import request
from bench.clients.http import Connection, Response, WrongResponse

if TYPE_CHECKING:
    from bench.clients.worker import LoadGenerator


def sequence(cursor: str) -> int:
    """Return the sequence that a cursor names."""
    return int(cursor.rpartition("-")[2])


class Client:
    """One browser; a subclass per transport.

    Unless it `fetches`, a signal is all that it waits for, and none may come twice. With
    `processing_time` it is a slow reader: it takes that many seconds for each reading before it
    shows it, and does nothing else meanwhile.
    """

    ticks = False  #: asks by itself, once per tick

    def __init__(
        self,
        env: "LoadGenerator",
        *,
        carry: bool,
        fetches: bool = True,
        processing_time: float = 0.0,
    ) -> None:
        self.env = env
        self.carry = carry
        self.fetches = fetches
        self.processing_time = processing_time
        self.cursor = ""  #: of the reading that it has
        self.notified = self.sequence = -1  #: the newest that it knows of, and that it has
        #: When it knew of a reading and when it had it, by the reading's sequence.
        self.times: dict[int, tuple[float, float]] = {}
        self.connection = Connection(env, self.on_response)
        self.is_busy = False  #: with a reading, so that it has no time for anything else
        self._notified_at: dict[int, float] = {}
        self.queue: deque[Mapping[str, Any]] = deque()  #: received while it was busy

    def subscribe(self, after: str) -> None:
        """Begin to wait for what comes after this cursor."""
        raise NotImplementedError

    @property
    def is_subscribed(self) -> bool:
        """True once it will be notified of every change."""
        return True

    def tick(self) -> None:
        """Ask, once a period: only short polling does."""

    def on_response(self, response: Response) -> None:
        """Take the response to a request on its connection."""
        self.on_data(response)

    def resume(self) -> None:
        """Go on once a reading is shown."""

    def close(self) -> None:
        """Close its connections without a close frame."""
        self.connection.close()

    def on_message(self, message: bytes, at: float) -> None:
        """Take a reading, or fetch the one that is signalled."""
        news = self.env.parse(message)
        if self.carry or self.fetches:
            self.notify(news["cursor"], at)
        if self.carry:
            self.receive(news, at)
        elif self.fetches:
            self.fetch()
        else:
            self.cursor, number = news["cursor"], sequence(news["cursor"])
            if number <= self.sequence:
                raise WrongResponse(f"{self.cursor} came after reading {self.sequence}")
            self.sequence = number
            self.times[number] = at, at
            self.resume()

    def notify(self, cursor: str, at: float) -> None:
        """Note that there is this reading."""
        number = sequence(cursor)
        if number < self.notified:
            raise WrongResponse(f"{cursor} came after reading {self.notified}")
        if number > self.notified:
            self.notified = number
            self._notified_at[number] = at

    def fetch(self) -> None:
        """GET /data, unless it is busy or has the newest.

        News that comes while it is fetching leads to one more fetch, not to one each.
        """
        if self.notified > self.sequence and not self.connection.is_waiting and not self.is_busy:
            self.connection.send(request(self.env.host, "/data"))

    def on_data(self, response: Response) -> None:
        """Take the response to GET /data."""
        if response.status != 200:
            raise WrongResponse(f"GET /data: {response.head!r}")
        reading = self.env.parse(response.body)
        self.notify(reading["cursor"], response.received_at)
        self.receive(reading, response.received_at)

    def receive(self, reading: Mapping[str, Any], at: float) -> None:
        """Show a reading, at once or when not busy."""
        if not self.processing_time:
            self._show(reading, at)
            self.resume()
            return
        self.queue.append(reading)
        if not self.is_busy:
            self.is_busy = True
            self.env.call_at(at + self.processing_time, self._processed)

    def _processed(self) -> None:
        now = time.time()
        self._show(self.queue.popleft(), now)
        self.is_busy = bool(self.queue)
        if self.is_busy:
            self.env.call_at(now + self.processing_time, self._processed)
        else:
            self.resume()

    def _show(self, reading: Mapping[str, Any], at: float) -> None:
        number = sequence(reading["cursor"])
        if number <= self.sequence:
            return  # the same once more, which the cursor makes harmless
        notified_at = self._notified_at.pop(number, at)
        self._notified_at = {n: when for n, when in self._notified_at.items() if n > number}
        self.sequence, self.cursor = number, reading["cursor"]
        self.times[number] = notified_at, at
        self.env.changed(number, reading)
