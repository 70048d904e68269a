"""Meters: each lane's bytes and requests, counted at the socket.

A page puts `lane=NAME` into the query of every request of a lane. The server, which alone sees
whole requests and responses, opens an Exchange for it and counts. The middleware in front of the
app adds the times to the response, and the lab sends the sums to the page.
"""

import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from pushlab.hosting.metering import EXCHANGE, Receive, Send
from pushlab.wsgi.responses import WSGI, Environ, error

#: Lanes whose meters are kept although no page watches them and no connection is open. Beyond it,
#: those that were quiet for the longest are forgotten.
MAX_LANES = 1200
#: Finished exchanges that are kept per lane until the lab has sent them.
MAX_RECORDS = 200
#: Seconds for which the connections of a lane that was cut are aborted.
CUT = 2.0

_LANE = re.compile(r"[0-9A-Za-z]{1,16}(?:-[0-9A-Za-z]{1,16}){0,2}")
_IN_QUERY = re.compile(r"(?:^|&)lane=([^&]*)")


def _lanes(query: str) -> list[str]:
    return _IN_QUERY.findall(query) if "lane=" in query else []


def is_lane(name: object) -> bool:
    """Tell whether this is a lane's name, such as `k3j5-websocket`."""
    return isinstance(name, str) and _LANE.fullmatch(name) is not None


class Record(NamedTuple):
    """A finished exchange, as the page's diagram draws it."""

    number: int  #: sequence number of this exchange within its lane, from 1
    asked_at: float  #: seconds since the epoch, server clock
    held: float  #: seconds from the request to the response
    status: int
    up: int  #: bytes of the request
    down: int  #: bytes of the response, or of its headers if it has no end


class Meter:
    """What one lane has cost so far."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self.now = now  #: the clock of the readings
        self.requests = 0  #: requests that got a response
        self.empty = 0  #: of these, with nothing new: 204 or 304
        self.up = 0  #: bytes from the browser: requests and frames
        self.down = 0  #: bytes to the browser: responses and frames
        self.records: deque[Record] = deque(maxlen=MAX_RECORDS)
        self.watchers = 0  #: pages that show it
        self._recorded = 0
        self._lock = threading.Lock()
        self._connections: dict[object, Callable[[], None]] = {}
        self._cut_until = 0.0

    @property
    def is_cut(self) -> bool:
        """True while the lane's connections are to be aborted."""
        return time.monotonic() < self._cut_until

    @property
    def is_needed(self) -> bool:
        return bool(self.watchers or self._connections)

    def attach(self, exchange: object, abort: Callable[[], None]) -> None:
        """Note an open connection, and how to abort it."""
        with self._lock:
            self._connections[exchange] = abort

    def detach(self, exchange: object) -> None:
        with self._lock:
            self._connections.pop(exchange, None)

    def cut(self) -> None:
        """Abort the lane's connections, now and for CUT seconds."""
        self._cut_until = time.monotonic() + CUT
        with self._lock:
            aborts = tuple(self._connections.values())
        for abort in aborts:
            abort()

    def count(self, *, up: int = 0, down: int = 0, status: int | None = None) -> None:
        """Add bytes that have passed; with a status, a response."""
        with self._lock:
            self.up += up
            self.down += down
            self.requests += status is not None
            self.empty += status in (204, 304)

    def record(self, *exchange: Any) -> None:
        """Keep a finished exchange until the lab has sent it."""
        with self._lock:  # or a page could get number 7 before 6, and never 6
            self._recorded += 1
            self.records.append(Record(self._recorded, *exchange))

    def records_after(self, number: int) -> list[Record]:
        """Return the exchanges that finished after this number."""
        with self._lock:  # a deque must not change while it is read
            return [record for record in self.records if record.number > number]


class Exchange:
    """A lane's request and its response, or its WebSocket."""

    def __init__(self, meter: Meter, *, up: int, abort: Callable[[], None]) -> None:
        self.meter = meter
        self.asked_at = meter.now()
        self._begun = time.monotonic()  # never set back, unlike the time of day
        self._status = 0
        self._held = 0.0
        self._has_response = self._is_reported = False
        self._up = up
        self._down = 0
        meter.count(up=up)
        meter.attach(self, abort)

    @property
    def is_cut(self) -> bool:
        return self.meter.is_cut

    def responds(self, status: int) -> str:
        """Note that the response begins; return its `Server-Timing` value.

        `in` is when the request was there, in milliseconds since the epoch; `held` is how many
        milliseconds later the response left.
        """
        self._status = status
        self._held = time.monotonic() - self._begun
        return f"in;dur={self.asked_at * 1000:.1f}, held;dur={self._held * 1000:.1f}"

    def sent(self, size: int) -> None:
        """Count bytes of the response; the first count the request."""
        self.meter.count(down=size, status=None if self._has_response else self._status)
        self._down += size
        self._has_response = True

    def received(self, size: int) -> None:
        """Count bytes that came after the request."""
        self.meter.count(up=size)

    def counting(self, send: Send, receive: Receive) -> tuple[Send, Receive]:
        """Return both functions of the socket such that they count."""

        def counting_send(data: bytes | memoryview) -> int:
            sent = send(data)
            self.meter.count(down=sent)
            return sent

        def counting_receive(size: int) -> bytes:
            data = receive(size)
            self.meter.count(up=len(data))
            return data

        return counting_send, counting_receive

    def report(self) -> None:
        """Record the exchange once, finished or without an end."""
        if self._has_response and self._status and not self._is_reported:
            self._is_reported = True
            self.meter.record(self.asked_at, self._held, self._status, self._up, self._down)

    def upgraded(self, abort: Callable[[], None]) -> None:
        """Note that the connection became a WebSocket."""
        self.meter.attach(self, abort)
        if self.meter.is_cut:  # perhaps just now, when the function before had no effect any more
            abort()

    def closed(self) -> None:
        """Note that the connection is no longer the lane's."""
        self.report()
        self.meter.detach(self)


class Meters:
    """The meters of all lanes, each made when first needed."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        #: Whether the server counts at all: it calls `install`.
        self.are_counting = False
        self._meters: dict[str, Meter] = {}  # the one that was needed last is the last
        self._lock = threading.Lock()

    def get(self, lane: str, *, watchers: int = 0) -> Meter:
        """Return the lane's meter, with so many watchers more."""
        with self._lock:
            meter = self._meters.pop(lane, None)
            if meter is None:
                if len(self._meters) >= MAX_LANES:
                    idle = (name for name, other in self._meters.items() if not other.is_needed)
                    self._meters.pop(next(idle, ""), None)
                meter = Meter(self._now)
            self._meters[lane] = meter
            meter.watchers += watchers
            return meter

    def open(self, query: str, *, up: int, abort: Callable[[], None]) -> Exchange | None:
        """Return an exchange if the query string names one lane.

        `up` is the size of the request in bytes; `abort` ends its connection.
        """
        match _lanes(query):
            case [lane] if is_lane(lane):
                return Exchange(self.get(lane), up=up, abort=abort)
        return None

    def install(self, app: WSGI) -> WSGI:
        """Begin to count; return the app with the middleware."""
        self.are_counting = True
        return Metering(app)


class Metering:
    """WSGI middleware that adds `Server-Timing` to responses.

    The header is the W3C's; the browser's own tools show it, too. Only requests that name a lane
    get one. A malformed name gets a 400.
    """

    def __init__(self, wsgi_app: WSGI) -> None:
        self.wsgi_app = wsgi_app

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        lanes = _lanes(environ["QUERY_STRING"])
        if len(lanes) > 1 or not all(map(is_lane, lanes)):
            problem = error("400 Bad Request", "lane: not one name like k3j5-websocket")
            return problem(environ, start_response)
        exchange: Exchange | None = environ.get(EXCHANGE)
        if exchange is None or not lanes:
            return self.wsgi_app(environ, start_response)

        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            timing = ("Server-Timing", exchange.responds(int(status.split()[0])))
            return start_response(status, [*headers, timing], exc_info)

        return self.wsgi_app(environ, start)
