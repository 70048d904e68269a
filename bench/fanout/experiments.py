"""The experiments behind each figure of the fan-out benchmark.

Each figure is a list of samples. CPU is taken from the kernel, so other load adds little to it. It
is also given as a ratio to a floor that is measured in between, because a core's speed changes.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from bench.fanout.subscribers import Subscribers, subscribers
from bench.processes import Process, running
from bench.statistics import median, quantile

#: Subscribers that come before memory is measured, for what is needed once, not once each.
FIRST = 200
#: Parts in which subscribers come: each gives one sample of what a handshake costs.
PARTS = 10
#: Notifications in one sample, about: with few subscribers, it has more broadcasts.
NOTIFICATIONS = 2000
#: GET requests in one sample.
FETCHES = 1000


@dataclass(frozen=True)
class Subject:
    """A server to be measured."""

    name: str
    command: Sequence[str]
    publisher: str = "http"  #: how it is made to broadcast, a key of PUBLISHERS
    http: bool = True  #: whether it also serves GET /data and the long poll
    environment: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Figure:
    """A figure of a server, with every sample."""

    server: str
    what: str
    clients: int
    unit: str
    samples: list[float]

    def quantile(self, q: float) -> float:
        """Return the quantile q of the samples."""
        return quantile(self.samples, q)

    @property
    def median(self) -> float:
        return median(self.samples)


class Floor:
    """The floor, with as many subscribers as the server."""

    def __init__(self, process: Process, subscribers: Subscribers) -> None:
        self._process = process
        self._subscribers = subscribers
        self._size = 0

    def grow(self, size: int) -> None:
        """Have this many subscribers; it never has fewer again."""
        self._subscribers.join(size - self._size, "frames")
        self._size = size

    def cost(self, times: int) -> float:
        """Return the microseconds of CPU of one send."""
        before = self._process.cpu()
        for _ in range(times):
            self._subscribers.broadcast()
        return (self._process.cpu() - before) / (times * self._size)


@contextmanager
def serving(subject: Subject) -> Iterator[tuple[Process, Subscribers]]:
    """Run the server, with subscribers."""
    with (
        running(subject.command, environment=subject.environment) as server,
        subscribers(server.port, subject.publisher) as those,
    ):
        yield server, those


def _publish_costs(server: Process, subscribers: Subscribers, *, rounds: int) -> list[float]:
    """Return the microseconds of CPU of publishing without subscribers."""
    for _ in range(20):
        subscribers.broadcast()
    costs = []
    for _ in range(rounds):
        before = server.cpu()
        subscribers.broadcast()
        costs.append(server.cpu() - before)
    return costs


def push(subject: Subject, clients: int, floor: Floor, *, rounds: int) -> list[Figure]:
    """Measure WebSockets: their handshakes, their memory, broadcasts to them."""
    times = max(1, NOTIFICATIONS // clients)
    floors, ours, openings, handshakes = [], [], [], []
    seconds: list[float] = []
    floor.grow(clients)
    with serving(subject) as (server, subscribers):
        publishings = _publish_costs(server, subscribers, rounds=rounds)
        first = min(FIRST, clients // 5)
        subscribers.join(first)
        for _ in range(5):
            subscribers.broadcast()
        memory, others = server.memory(), clients - first
        parts = min(PARTS, others)
        for part in range(parts):
            size = others * (part + 1) // parts - others * part // parts
            before = server.cpu()
            subscribers.join(size)
            handshakes.append((server.cpu() - before) / size)
            openings.append(floor.cost(times))
        for _ in range(3):
            subscribers.broadcast()
        time.sleep(0.1)  # what came twice would fail the next broadcast
        memory = server.memory() - memory

        def cost() -> float:
            before = server.cpu()
            seconds.extend(subscribers.broadcast() for _ in range(times))
            return (server.cpu() - before) / (times * clients)

        for _ in range(rounds):  # in this order, so that a drift of the machine's speed cancels
            before = cost()
            floors.append(floor.cost(2 * times))
            ours.append((before + cost()) / 2)
    # The request that publishes is not part of a notification: it costs the same for one
    # subscriber and for ten thousand.
    once = median(publishings) / clients
    return [
        Figure(subject.name, "floor", clients, "µs", floors),
        Figure(subject.name, "publishing", clients, "µs", publishings),
        Figure(subject.name, "change", clients, "µs", ours),
        *_in_floors(
            Figure(subject.name, "notification", clients, "µs", [cost - once for cost in ours]),
            floors,
        ),
        *_in_floors(Figure(subject.name, "handshake", clients, "µs", handshakes), openings),
        Figure(subject.name, "memory", clients, "bytes", [memory / others]),
        Figure(subject.name, "last received", clients, "ms", [1e3 * s for s in seconds]),
    ]


def requests(
    subject: Subject, long_polls: int, floor: Floor, *, rounds: int, connections: int = 8
) -> list[Figure]:
    """Measure GET /data on few connections, long polls on many."""
    fetches, cycles = [], []
    floors: list[float] = []
    floor.grow(long_polls)
    times = max(1, NOTIFICATIONS // long_polls)
    with serving(subject) as (server, subscribers):
        subscribers.fetch(connections, 5)
        for _ in range(rounds):
            before = server.cpu()
            subscribers.fetch(connections, FETCHES // connections)
            fetches.append((server.cpu() - before) / (FETCHES // connections * connections))
            floors.append(floor.cost(times))
        subscribers.broadcast()
        subscribers.join(long_polls, "longpoll")
        server.cpu()  # which waits until all of them wait
        subscribers.broadcast()
        for _ in range(rounds):
            before = server.cpu()
            subscribers.broadcast()  # they receive it, and poll again
            cycles.append((server.cpu() - before) / long_polls)
            floors.append(floor.cost(times))
    return [
        Figure(subject.name, "floor beside HTTP", long_polls, "µs", floors),
        *_in_floors(Figure(subject.name, "GET /data", connections, "µs", fetches), floors[:rounds]),
        *_in_floors(
            Figure(subject.name, "long-poll cycle", long_polls, "µs", cycles), floors[rounds:]
        ),
    ]


def streams(subject: Subject, clients: int, floor: Floor, *, rounds: int) -> list[Figure]:
    """Measure server-sent events: broadcasts to many streams."""
    times = max(1, NOTIFICATIONS // clients)
    events, floors = [], []
    floor.grow(clients)
    with serving(subject) as (server, subscribers):
        once = median(_publish_costs(server, subscribers, rounds=rounds))
        subscribers.broadcast()
        subscribers.join(clients, "sse")
        server.cpu()  # which waits until all of them wait
        subscribers.broadcast()
        for _ in range(rounds):
            before = server.cpu()
            for _ in range(times):
                subscribers.broadcast()
            events.append(((server.cpu() - before) / times - once) / clients)
            floors.append(floor.cost(times))
    return [*_in_floors(Figure(subject.name, "event", clients, "µs", events), floors)]


def _in_floors(figure: Figure, floors: Sequence[float]) -> tuple[Figure, Figure]:
    """Return the figure, and the same as ratios to floors."""
    ratios = [cost / floor for cost, floor in zip(figure.samples, floors, strict=True)]
    return figure, replace(figure, what=f"{figure.what} / floor", unit="×", samples=ratios)


def held(subject: Subject, clients: int, *, rounds: int) -> list[Figure]:
    """Measure the time to the last of the most subscribers."""
    with serving(subject) as (_, subscribers):
        subscribers.broadcast()
        subscribers.join(clients)
        ms = [1e3 * subscribers.broadcast() for _ in range(rounds)]
    return [Figure(subject.name, "last received, most sockets", clients, "ms", ms)]
