"""The experiments: how each figure of the fan-out benchmark comes about.

All are made by CPU time, which does not care how busy the machine is, and as ratios to a floor
that is measured in between, because the speed of a core does. Each is a list of samples.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from pushlab.measure.crowd import DistantCrowd, crowd
from pushlab.measure.processes import Process, cores, running

#: Browsers that come and go before anything is measured.
WARM = 200
#: How many parts the crowd arrives in: each gives one sample of what a handshake costs.
PARTS = 10
#: Notifications in one sample, about: a small crowd is told more often.
NOTIFICATIONS = 2000


@dataclass(frozen=True)
class Subject:
    """A server to be measured."""

    name: str
    command: Sequence[str]
    #: How it is made to publish, a key of crowd.TRIGGERS.
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

    def quantile(self, share: float) -> float:
        """Return the value below which this share of the samples lies."""
        ordered = sorted(self.samples)
        place = share * (len(ordered) - 1)
        low = ordered[int(place)]
        return low + (ordered[min(int(place) + 1, len(ordered) - 1)] - low) * (place % 1)

    @property
    def median(self) -> float:
        return self.quantile(0.5)


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
        """Return the microseconds of CPU that this many tellings cost."""
        before = self._process.cpu()
        for _ in range(times):
            self._crowd.tell()
        return self._process.cpu() - before


@contextmanager
def serving(subject: Subject) -> Iterator[tuple[Process, DistantCrowd]]:
    """Run the server, have a crowd visit it once, and let that go home."""
    pair = cores()
    with (
        running(subject.command, environment=subject.environment) as server,
        crowd(server.port, subject.trigger, core=pair[1] if pair else None) as browsers,
    ):
        _, newest = browsers.tell()
        browsers.join(WARM, newest)
        for _ in range(5):
            browsers.tell()
        browsers.leave()
        yield server, browsers


def push(subject: Subject, clients: int, floor: Floor, *, rounds: int) -> list[Figure]:
    """Measure open WebSockets: opening them, having them, telling them."""
    times = max(1, NOTIFICATIONS // clients)
    handshakes, floors, ours, ratios = [], [], [], []
    seconds: list[float] = []
    floor.grow(clients)
    with serving(subject) as (server, browsers):
        _, newest = browsers.tell()
        begin, memory = server.cpu(), server.memory()
        sizes = [clients * (i + 1) // PARTS - clients * i // PARTS for i in range(PARTS)]
        for size in sizes:
            browsers.join(size, newest)
            handshakes.append(((end := server.cpu()) - begin) / size)
            begin = end
        for _ in range(3):
            browsers.tell()
        browsers.rest(0.1)  # would hear what is told twice
        memory = server.memory() - memory

        def cost() -> float:
            before = server.cpu()
            seconds.extend(browsers.tell()[0] for _ in range(times))
            return server.cpu() - before

        for _ in range(rounds):  # in this order, so that a drift of the machine's speed cancels
            ours.append(cost())
            floors.append(floor.cost(2 * times))
            ours[-1] += cost()
            ratios.append(ours[-1] / floors[-1])

    def figure(what: str, unit: str, samples: list[float]) -> Figure:
        return Figure(subject.name, what, clients, unit, samples)

    told = 2 * times * clients
    return [
        figure("floor", "µs", [cost / told for cost in floors]),
        figure("notification", "µs", [cost / told for cost in ours]),
        figure("notification / floor", "×", ratios),
        figure("memory", "bytes", [memory / clients]),
        figure("handshake", "µs", handshakes),
        figure("last told", "ms", [1e3 * s for s in seconds]),
    ]


def requests(
    subject: Subject, waiting: int, *, rounds: int, connections: int = 8, each: int = 125
) -> list[Figure]:
    """Measure HTTP: GET /data on a few connections, and long polls on many."""
    fetches, cycles = [], []
    with serving(subject) as (server, browsers):
        browsers.fetch(connections, 5)
        for _ in range(rounds):
            before = server.cpu()
            browsers.fetch(connections, each)
            fetches.append((server.cpu() - before) / (connections * each))
        _, newest = browsers.tell()
        browsers.poll(waiting, newest)
        server.cpu()  # which waits until they all wait
        browsers.tell()
        for _ in range(rounds):
            before = server.cpu()
            browsers.tell()  # they hear, and ask again
            cycles.append((server.cpu() - before) / waiting)
    return [
        Figure(subject.name, "GET /data", connections, "µs", fetches),
        Figure(subject.name, "long-poll cycle", waiting, "µs", cycles),
    ]


def held(subject: Subject, clients: int, *, rounds: int) -> list[Figure]:
    """Measure how long it takes to tell the most that one process can hold."""
    with serving(subject) as (_, browsers):
        _, newest = browsers.tell()
        browsers.join(clients, newest)
        seconds = [browsers.tell()[0] for _ in range(rounds)]
    return [
        Figure(subject.name, "last told of the most", clients, "ms", [1e3 * s for s in seconds])
    ]
