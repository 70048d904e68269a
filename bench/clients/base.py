"""What all headless clients do alike: to know of a reading, to fetch it, to show it."""

import json
import time
from collections import deque
from typing import Any

from bench.bytes_on_wire import WrongResponse
from bench.clients.http import Answer, Environment, Line, request


def sequence(cursor: str) -> int:
    """Return which reading of its epoch a cursor names."""
    return int(cursor.rpartition("-")[2])


class Client:
    """One browser. A subclass per transport says how it hears of news.

    With `handling` it is slow: it takes that many seconds for each reading before it shows it, and
    has no time for another meanwhile.
    """

    def __init__(self, around: Environment, *, carry: bool, processing_time: float = 0.0) -> None:
        self.around = around
        self.carry = carry
        self.processing_time = processing_time
        self.cursor = ""  #: of the reading that it has
        self.known = self.sequence = -1  #: the newest reading of which it knows, and which it has
        #: When it knew of a reading and when it had it, by the reading's sequence.
        self.news: dict[int, tuple[float, float]] = {}
        self.trace: list[tuple[str, float | None, float, int, int]] | None = None
        self.line = Line(around, self.answered)
        self._known_at: dict[int, float] = {}
        self._queue: deque[dict[str, Any]] = deque()  # arrived, but it had no time for them
        self._busy = False

    # What a transport does in its own way.

    def listen(self, after: str) -> None:
        """Begin to listen, as one who has the reading `after`."""
        raise NotImplementedError

    @property
    def is_listening(self) -> bool:
        """True as soon as it will hear of what changes from now on."""
        return True

    def tick(self) -> None:
        """Do what is to be done once a period: only short polling has one."""

    def answered(self, answer: Answer) -> None:
        """Take the answer to a request of its own line."""
        self.fetched(answer)

    def idle(self) -> None:
        """Go on: what it heard of last is on the screen."""

    def leave(self) -> None:
        """Go away, without a word."""
        self.line.close()

    # What they all do.

    def told(self, message: bytes, at: float) -> None:
        """Take news: a reading, or a signal that makes it fetch one."""
        news = json.loads(message)
        self.knows(news["cursor"], at)
        if self.carry:
            self.take(news, at)
        else:
            self.fetch_news()

    def knows(self, cursor: str, at: float) -> None:
        """Note that there is this reading."""
        number = sequence(cursor)
        if number < self.known:
            raise WrongResponse(f"told of {cursor} after reading {self.known}")
        if number > self.known:
            self.known = number
            self._known_at[number] = at

    def fetch_news(self) -> None:
        """GET /data, unless it has the newest it knows of, or has no time.

        News that comes while it is fetching leads to one more fetch, not to a pile.
        """
        if self.known > self.sequence and not self.line.is_waiting and not self._busy:
            self.line.ask(request(self.around.host, "/data"))

    def fetched(self, answer: Answer) -> None:
        """Take the answer of /data."""
        self.note("fetch", answer)
        if answer.status != 200:
            raise WrongResponse(f"GET /data: {answer.head!r}")
        reading = json.loads(answer.body)
        self.knows(reading["cursor"], answer.received_at)
        self.take(reading, answer.received_at)

    def take(self, reading: dict[str, Any], at: float) -> None:
        """Show a reading, at once or when there is time for it."""
        if self.processing_time:
            self._queue.append(reading)
            if not self._busy:
                self._busy = True
                self.around.call_at(at + self.processing_time, self._handled)
            return
        self._show(reading, at)
        self.idle()

    def _handled(self) -> None:
        now = time.time()
        self._show(self._queue.popleft(), now)
        if self._queue:
            self.around.call_at(now + self.processing_time, self._handled)
        else:
            self._busy = False
            self.idle()

    @property
    def is_busy(self) -> bool:
        """True while it has no time for anything else."""
        return self._busy

    @property
    def waiting(self) -> int:
        """How many readings have arrived for which it had no time yet."""
        return len(self._queue)

    def _show(self, reading: dict[str, Any], at: float) -> None:
        number = sequence(reading["cursor"])
        if number <= self.sequence:
            return  # the same once more, which the cursor makes harmless
        known_at = self._known_at.pop(number, at)
        self._known_at = {n: when for n, when in self._known_at.items() if n > number}
        self.sequence, self.cursor = number, reading["cursor"]
        self.news[number] = known_at, at
        self.around.changed(number, reading["changed_at"], reading["value"])

    def note(self, kind: str, answer: Answer) -> None:
        """Remember a request and its answer for the picture of an update."""
        if self.trace is not None:
            self.trace.append(
                (kind, answer.asked_at, answer.received_at, answer.up, answer.down)
            )  # fmt: skip
