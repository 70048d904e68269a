"""The experiments: how each figure of the fan-out benchmark comes about.

All are made by CPU time, which does not care how busy the machine is, and as ratios to a floor
that is measured in between, because the speed of a core does. Each is a list of samples.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from bench.fanout.crowd import DistantCrowd, crowd
from bench.processes import Process, cores, running
from bench.statistics import median, quantile

#: Browsers that are there before anything is measured, for what is needed once, not once each.
FIRST = 200
#: How many parts the crowd arrives in: each gives one sample of what a handshake costs.
PARTS = 10
#: Notifications in one sample, about: a small crowd is told more often.
NOTIFICATIONS = 2000
#: GET requests in one sample.
FETCHES = 1000


@dataclass(frozen=True)
class Subject:
    """A server to be measured."""

    name: str
    command: Sequence[str]
    #: How it is made to publish, a key of browsers.TRIGGERS.
    trigger: str = "http"
    #: Whether it serves GET /data and the long poll, too.
    http: bool = True
    environment: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Figure:
    """What was measured, of whom, with how many clients, and every sample of it."""

    server: str
    what: str
    clients: int
    unit: str
    samples: list[float]

    def quantile(self, q: float) -> float:
        """Return the value below which this share of the samples lies."""
        return quantile(self.samples, q)

    @property
    def median(self) -> float:
        return median(self.samples)


class Floor:
    """The floor's process, and a crowd of its own that is always as large as the other one."""

    def __init__(self, process: Process, crowd: DistantCrowd) -> None:
        self._process = process
        self._crowd = crowd
        self._size = 0

    def grow(self, size: int) -> None:
        """Have this many sockets; it never has fewer again."""
        self._crowd.join(size - self._size)
        self._size = size

    def cost(self, times: int) -> float:
        """Return the microseconds of CPU that one send costs, where all are told so many times."""
        before = self._process.cpu()
        for _ in range(times):
            self._crowd.tell()
        return (self._process.cpu() - before) / (times * self._size)


@contextmanager
def serving(subject: Subject) -> Iterator[tuple[Process, DistantCrowd]]:
    """Run the server, and have a crowd for it."""
    pair = cores()
    with (
        running(subject.command, environment=subject.environment) as server,
        crowd(server.port, subject.trigger, core=pair[1] if pair else None) as browsers,
    ):
        yield server, browsers


def _publishings(server: Process, browsers: DistantCrowd, *, rounds: int) -> list[float]:
    """Return the microseconds of CPU that publishing costs as long as there is nobody to tell."""
    for _ in range(20):
        browsers.tell()
    costs = []
    for _ in range(rounds):
        before = server.cpu()
        browsers.tell()
        costs.append(server.cpu() - before)
    return costs


def push(subject: Subject, clients: int, floor: Floor, *, rounds: int) -> list[Figure]:
    """Measure open WebSockets: opening them, having them, telling them."""
    times = max(1, NOTIFICATIONS // clients)
    floors, ours, openings, handshakes = [], [], [], []
    seconds: list[float] = []
    floor.grow(clients)
    with serving(subject) as (server, browsers):
        publishings = _publishings(server, browsers, rounds=rounds)
        first = min(FIRST, clients // 5)
        browsers.join(first, browsers.tell()[1])
        newest = [browsers.tell()[1] for _ in range(5)][-1]
        memory, others = server.memory(), clients - first
        parts = min(PARTS, others)
        for part in range(parts):
            size = others * (part + 1) // parts - others * part // parts
            before = server.cpu()
            browsers.join(size, newest)
            handshakes.append((server.cpu() - before) / size)
            openings.append(floor.cost(times))
        for _ in range(3):
            browsers.tell()
        browsers.rest(0.1)  # would hear what is told twice
        memory = server.memory() - memory

        def cost() -> float:
            before = server.cpu()
            seconds.extend(browsers.tell()[0] for _ in range(times))
            return (server.cpu() - before) / (times * clients)

        for _ in range(rounds):  # in this order, so that a drift of the machine's speed cancels
            before = cost()
            floors.append(floor.cost(2 * times))
            ours.append((before + cost()) / 2)
    # What the request that publishes costs is no part of telling; it is the same for one browser
    # and for ten thousand.
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
    subject: Subject, waiting: int, floor: Floor, *, rounds: int, connections: int = 8
) -> list[Figure]:
    """Measure HTTP: GET /data on a few connections, and long polls on many."""
    fetches, cycles = [], []
    floors: list[float] = []
    floor.grow(waiting)
    times = max(1, NOTIFICATIONS // waiting)
    with serving(subject) as (server, browsers):
        browsers.fetch(connections, 5)
        for _ in range(rounds):
            before = server.cpu()
            browsers.fetch(connections, FETCHES // connections)
            fetches.append((server.cpu() - before) / (FETCHES // connections * connections))
            floors.append(floor.cost(times))
        _, newest = browsers.tell()
        browsers.poll(waiting, newest)
        server.cpu()  # which waits until they all wait
        browsers.tell()
        for _ in range(rounds):
            before = server.cpu()
            browsers.tell()  # they hear, and ask again
            cycles.append((server.cpu() - before) / waiting)
            floors.append(floor.cost(times))
    return [
        Figure(subject.name, "floor beside HTTP", waiting, "µs", floors),
        *_in_floors(Figure(subject.name, "GET /data", connections, "µs", fetches), floors[:rounds]),
        *_in_floors(
            Figure(subject.name, "long-poll cycle", waiting, "µs", cycles), floors[rounds:]
        ),
    ]


def streams(subject: Subject, clients: int, floor: Floor, *, rounds: int) -> list[Figure]:
    """Measure server-sent events: telling many streams."""
    times = max(1, NOTIFICATIONS // clients)
    events, floors = [], []
    floor.grow(clients)
    with serving(subject) as (server, browsers):
        once = median(_publishings(server, browsers, rounds=rounds))
        _, newest = browsers.tell()
        browsers.stream(clients, newest)
        server.cpu()  # which waits until they all wait
        browsers.tell()
        for _ in range(rounds):
            before = server.cpu()
            for _ in range(times):
                browsers.tell()
            events.append(((server.cpu() - before) / times - once) / clients)
            floors.append(floor.cost(times))
    return [*_in_floors(Figure(subject.name, "event", clients, "µs", events), floors)]


def _in_floors(figure: Figure, floors: Sequence[float]) -> tuple[Figure, Figure]:
    """Return the figure, and with it the same as ratios to the floor measured next to it."""
    ratios = [cost / floor for cost, floor in zip(figure.samples, floors, strict=True)]
    return figure, replace(figure, what=f"{figure.what} / floor", unit="×", samples=ratios)


def held(subject: Subject, clients: int, *, rounds: int) -> list[Figure]:
    """Measure how long it takes to tell the most that one process can hold."""
    with serving(subject) as (_, browsers):
        _, newest = browsers.tell()
        browsers.join(clients, newest)
        seconds = [browsers.tell()[0] for _ in range(rounds)]
    return [
        Figure(
            subject.name, "last received, most sockets", clients, "ms", [1e3 * s for s in seconds]
        )
    ]
