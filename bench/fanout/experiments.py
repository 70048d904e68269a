"""The experiments behind each figure of the fan-out benchmark.

Each figure is a list of samples. CPU is taken from the kernel, so other load adds little to it. It
is also given as a ratio to a floor that is measured in between, because a core's speed changes.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from bench.fanout.floor import Floor
from bench.fanout.subscribers import Subscribers, subscribers
from bench.processes import Process, cpu_of, running
from bench.statistics import median, quantile

#: Subscribers that come before memory is measured, for what is needed once, not once each.
FIRST = 200
#: Parts in which subscribers come: each gives one sample of what a handshake costs.
PARTS = 10
#: Notifications in one sample, about: with few subscribers, it has more broadcasts.
NOTIFICATIONS = 2000
#: GET requests in one sample, and the connections that they come on.
FETCHES, CONNECTIONS = 1000, 8


@dataclass(frozen=True)
class Subject:
    """A server to be measured."""

    name: str
    command: Sequence[str]
    publisher: str = "http"  #: how it is made to broadcast, a key of PUBLISHERS
    http: bool = True  #: whether it also serves GET /data and the long poll
    packages: Sequence[str] = ()  #: to be installed before
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

    def in_floors(self, floors: Sequence[float]) -> tuple["Figure", "Figure"]:
        """Return the figure, and the same as ratios to floors."""
        ratios = [cost / floor for cost, floor in zip(self.samples, floors, strict=True)]
        return self, replace(self, what=f"{self.what} / floor", unit="×", samples=ratios)


@contextmanager
def serving(subject: Subject) -> Iterator[tuple[Process, Subscribers]]:
    """Run the server, with subscribers."""
    with (
        running(subject.command, environment=subject.environment) as server,
        subscribers(server.port, subject.publisher) as those,
    ):
        yield server, those


def _publishing(server: Process, subscribers: Subscribers, rounds: int) -> list[float]:
    """Return the microseconds of CPU of publishing without subscribers."""
    cpu_of(server, subscribers.broadcast, 20)
    return [cpu_of(server, subscribers.broadcast) for _ in range(rounds)]


def _in_turns(
    cost: Callable[[], float], floor: Floor, clients: int, rounds: int
) -> tuple[list[float], list[float]]:
    """Return samples of a cost, and of the floor."""
    pairs = [(cost(), floor.cost(_broadcasts(clients))) for _ in range(rounds)]
    return [cost for cost, _ in pairs], [of_floor for _, of_floor in pairs]


def _broadcasts(clients: int) -> int:
    return max(1, NOTIFICATIONS // clients)


def push(subject: Subject, clients: int, floor: Floor, *, rounds: int) -> list[Figure]:
    """Measure WebSockets: their handshakes, their memory, broadcasts to them."""
    times = _broadcasts(clients)
    floors, ours, ms = [], [], []
    floor.grow(clients)
    with serving(subject) as (server, subscribers):
        publishings = _publishing(server, subscribers, rounds)
        first = min(FIRST, clients // 5)
        subscribers.join(first)
        cpu_of(server, subscribers.broadcast, 5)
        memory, others = server.memory(), clients - first
        parts = min(PARTS, others)
        sizes = iter([others * (n + 1) // parts - others * n // parts for n in range(parts)])

        def handshake() -> float:
            size = next(sizes)
            return cpu_of(server, lambda: subscribers.join(size)) / size

        handshakes, openings = _in_turns(handshake, floor, clients, parts)
        cpu_of(server, subscribers.broadcast, 3)
        time.sleep(0.1)  # what came twice would fail the next broadcast
        memory = server.memory() - memory

        def cost() -> float:
            return cpu_of(server, lambda: ms.append(1e3 * subscribers.broadcast()), times) / clients

        for _ in range(rounds):  # in this order, so that a drift of the machine's speed cancels
            before = cost()
            floors.append(floor.cost(2 * times))
            ours.append((before + cost()) / 2)
    # The request that publishes is not part of a notification: it costs the same for one
    # subscriber and for ten thousand.
    once = median(publishings) / clients

    def figure(what: str, samples: list[float], unit: str = "µs") -> Figure:
        return Figure(subject.name, what, clients, unit, samples)

    return [
        figure("floor", floors),
        figure("publishing", publishings),
        figure("change", ours),
        *figure("notification", [cost - once for cost in ours]).in_floors(floors),
        *figure("handshake", handshakes).in_floors(openings),
        figure("memory", [memory / others], "bytes"),
        figure("last received", ms, "ms"),
    ]


def requests(subject: Subject, clients: int, floor: Floor, *, rounds: int) -> list[Figure]:
    """Measure GET /data on few connections, long polls on many."""
    each = FETCHES // CONNECTIONS
    floor.grow(clients)
    with serving(subject) as (server, subscribers):
        subscribers.join(CONNECTIONS, "fetch")
        subscribers.fetch(5)

        def fetch() -> float:
            return cpu_of(server, lambda: subscribers.fetch(each)) / (each * CONNECTIONS)

        fetches, beside = _in_turns(fetch, floor, clients, rounds)
        subscribers.close()
        cycles, floors = _waiting(server, subscribers, "longpoll", clients, floor, rounds)
    return [
        Figure(subject.name, "floor beside HTTP", clients, "µs", beside + floors),
        *Figure(subject.name, "GET /data", CONNECTIONS, "µs", fetches).in_floors(beside),
        *Figure(subject.name, "long-poll cycle", clients, "µs", cycles).in_floors(floors),
    ]


def streams(subject: Subject, clients: int, floor: Floor, *, rounds: int) -> list[Figure]:
    """Measure server-sent events: broadcasts to many streams."""
    floor.grow(clients)
    with serving(subject) as (server, subscribers):
        once = median(_publishing(server, subscribers, rounds)) / clients
        costs, floors = _waiting(server, subscribers, "sse", clients, floor, rounds)
    events = [cost - once for cost in costs]
    return [*Figure(subject.name, "event", clients, "µs", events).in_floors(floors)]


def _waiting(
    server: Process,
    subscribers: Subscribers,
    transport: str,
    clients: int,
    floor: Floor,
    rounds: int,
) -> tuple[list[float], list[float]]:
    """Return what a broadcast costs per client, and floors.

    Publishing is included, and that those who poll do so again.
    """
    subscribers.broadcast()
    subscribers.join(clients, transport)
    server.cpu()  # which waits until all of them wait
    subscribers.broadcast()
    times = _broadcasts(clients)

    def cost() -> float:
        return cpu_of(server, subscribers.broadcast, times) / clients

    return _in_turns(cost, floor, clients, rounds)


def most(subject: Subject, clients: int, *, rounds: int = 10) -> list[Figure]:
    """Measure the time to the last of the most subscribers."""
    with serving(subject) as (_, subscribers):
        subscribers.broadcast()
        subscribers.join(clients)
        ms = [1e3 * subscribers.broadcast() for _ in range(rounds)]
    return [Figure(subject.name, "last received, most sockets", clients, "ms", ms)]
