"""Meters: what each lane of each page costs, counted where the bytes pass the socket.

A page puts `lane=NAME` into the query of every request that one of its lanes makes. The server,
who alone sees whole requests and answers, opens an Exchange for it and counts; what it puts in
front of the app adds the times to the answer (`Metering`), and the lab tells the page the sums.
"""

import json
import re
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

#: Where a server leaves the Exchange of a request for the app.
EXCHANGE = "pushlab.exchange"
#: Lanes whose meters are kept although nobody watches them and no connection is open; beyond it,
#: those that were quiet for the longest are forgotten.
MAX_LANES = 1000
#: Finished exchanges that are kept per lane until the lab has told them.
MAX_RECORDS = 200
#: Seconds for which a lane that was cut is hung up on when it comes again.
CUT = 2.0

_LANE = re.compile(r"[0-9A-Za-z]{1,16}(?:-[0-9A-Za-z]{1,16}){0,2}")
_IN_QUERY = re.compile(r"(?:^|&)lane=([^&]*)")

Send = Callable[[bytes | memoryview], int]
Receive = Callable[[int], bytes]
WSGI = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def is_lane(name: object) -> bool:
    """Tell whether this has the form of a lane's name, such as `k3j5-websocket`."""
    return isinstance(name, str) and _LANE.fullmatch(name) is not None


class Record(NamedTuple):
    """An exchange that is over: what its strokes in the diagram look like."""

    number: int  #: the how manyeth of its lane that was over
    asked_at: float  #: seconds since the epoch, server clock
    held: float  #: seconds from the request to the answer
    status: int
    up: int  #: bytes of the request
    down: int  #: bytes of the answer, or of its head if it has no end


class Meter:
    """What one lane has cost so far."""

    def __init__(self) -> None:
        self.requests = 0  #: requests that were answered
        self.empty = 0  #: of these, answered with "nothing new": 204 or 304
        self.up = 0  #: bytes from the browser: requests and frames
        self.down = 0  #: bytes to the browser: answers and frames
        self.records: deque[Record] = deque(maxlen=MAX_RECORDS)
        self.watchers = 0  #: pages that are told of it
        self._told = 0
        self._lock = threading.Lock()
        self._lines: dict[object, Callable[[], None]] = {}
        self._cut_until = 0.0

    @property
    def is_cut(self) -> bool:
        """True while the lane is to be hung up on."""
        return time.monotonic() < self._cut_until

    @property
    def is_needed(self) -> bool:
        """True while somebody watches it or a connection counts into it."""
        return bool(self.watchers or self._lines)

    def attach(self, exchange: object, abort: Callable[[], None]) -> None:
        """Take note of an open connection, and of how to drop it."""
        with self._lock:
            self._lines[exchange] = abort

    def detach(self, exchange: object) -> None:
        """Forget the connection."""
        with self._lock:
            self._lines.pop(exchange, None)

    def cut(self) -> None:
        """Drop the lane's connections, without a word, and those that come in the next CUT s."""
        self._cut_until = time.monotonic() + CUT
        with self._lock:
            lines = tuple(self._lines.values())
        for abort in lines:
            abort()

    def count(self, *, up: int = 0, down: int = 0) -> None:
        """Add bytes that have passed the socket."""
        with self._lock:
            self.up += up
            self.down += down

    def counting(self, send: Send, receive: Receive) -> tuple[Send, Receive]:
        """Return both ways of a socket, such that all that passes them is counted."""

        def counting_send(data: bytes | memoryview) -> int:
            sent = send(data)
            self.count(down=sent)
            return sent

        def counting_receive(size: int) -> bytes:
            data = receive(size)
            self.count(up=len(data))
            return data

        return counting_send, counting_receive

    def answered(self, status: int) -> None:
        """Count an answer."""
        with self._lock:
            self.requests += 1
            self.empty += status in (204, 304)

    def record(self, *exchange: Any) -> None:
        """Keep an exchange that is over until the lab has told it."""
        with self._lock:  # or a page that has heard of number 7 might never hear of number 6
            self._told += 1
            self.records.append(Record(self._told, *exchange))

    def records_after(self, number: int) -> list[Record]:
        """Return the exchanges that were over after the one of this number."""
        with self._lock:  # a deque must not change while it is read
            return [record for record in self.records if record.number > number]


class Exchange:
    """One request of a lane and its answer, or the WebSocket that it became."""

    def __init__(self, meter: Meter, *, up: int, abort: Callable[[], None]) -> None:
        self.meter = meter
        self.asked_at = time.time()
        self._begun = time.monotonic()  # which nobody sets back
        self._status = 0
        self._held = 0.0
        self._is_answered = self._is_told = False
        self._up = up
        self._down = 0
        meter.count(up=up)
        meter.attach(self, abort)

    def answer(self, status: int) -> str:
        """Note that the answer begins now; return its `Server-Timing` header's value.

        `in` is when the request was there, in milliseconds since the epoch; `held` is how many
        milliseconds later the answer left.
        """
        self._status = status
        self._held = time.monotonic() - self._begun
        return f"in;dur={self.asked_at * 1000:.1f}, held;dur={self._held * 1000:.1f}"

    def sent(self, size: int) -> None:
        """Count bytes of the answer; the first make it an answered request."""
        self.meter.count(down=size)
        self._down += size
        if not self._is_answered:
            self._is_answered = True
            self.meter.answered(self._status)

    def told(self) -> None:
        """Have the lab tell of this exchange, once: it is over, or has no end."""
        if self._is_answered and self._status and not self._is_told:
            self._is_told = True
            self.meter.record(self.asked_at, self._held, self._status, self._up, self._down)

    def goes_on(self, abort: Callable[[], None]) -> None:
        """Drop the connection by this from now on, as it is no longer one of HTTP."""
        self.meter.attach(self, abort)
        if self.meter.is_cut:  # maybe just now, by what no longer takes effect
            abort()

    def over(self) -> None:
        """Note that the connection is no longer the lane's."""
        self.told()
        self.meter.detach(self)


class Meters:
    """The meters of all lanes; a lane's begins when it is first heard of."""

    def __init__(self) -> None:
        #: Whether the server counts at all: it says so.
        self.are_counting = False
        self._meters: OrderedDict[str, Meter] = OrderedDict()
        self._lock = threading.Lock()

    def __getitem__(self, lane: str) -> Meter:
        with self._lock:
            return self._get(lane)

    def watch(self, lane: str) -> Meter:
        """Return the lane's meter, with a watcher more."""
        with self._lock:
            meter = self._get(lane)
            meter.watchers += 1
            return meter

    def unwatch(self, meter: Meter) -> None:
        """Note that the meter has a watcher less."""
        with self._lock:
            meter.watchers -= 1

    def _get(self, lane: str) -> Meter:
        meter = self._meters.get(lane)
        if meter is None:
            if len(self._meters) >= MAX_LANES:
                idle = (name for name, other in self._meters.items() if not other.is_needed)
                self._meters.pop(next(idle, ""), None)
            meter = self._meters[lane] = Meter()
        self._meters.move_to_end(lane)
        return meter

    def for_query(self, query: str) -> Meter | None:
        """Return the meter of the lane that a query string names, if it names one."""
        if "lane=" not in query:
            return None
        lanes = _IN_QUERY.findall(query)
        return self[lanes[0]] if len(lanes) == 1 and is_lane(lanes[0]) else None


class Metering:
    """WSGI middleware that tells the browser when the server had its request and answered it.

    The header is `Server-Timing` (W3C), which the browser's own tools show, too. Only requests
    that name a lane get one; a malformed name is refused with a 400.
    """

    def __init__(self, wsgi_app: WSGI) -> None:
        self.wsgi_app = wsgi_app

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        lanes = "lane=" in environ["QUERY_STRING"] and _IN_QUERY.findall(environ["QUERY_STRING"])
        if not lanes:
            return self.wsgi_app(environ, start_response)
        if len(lanes) > 1 or not is_lane(lanes[0]):
            body = json.dumps({"error": "lane: not one name like k3j5-websocket"}).encode()
            headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
            start_response("400 BAD REQUEST", headers)
            return [body] if environ["REQUEST_METHOD"] != "HEAD" else []
        exchange: Exchange | None = environ.get(EXCHANGE)
        if exchange is None:
            return self.wsgi_app(environ, start_response)

        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            timing = ("Server-Timing", exchange.answer(int(status.split()[0])))
            return start_response(status, [*headers, timing], exc_info)

        return self.wsgi_app(environ, start)
