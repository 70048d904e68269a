"""The experiments behind each figure of the fan-out benchmark.

Each figure is a list of samples. CPU is taken from the kernel, so other load adds little to it. It
is also given as a ratio to a floor that is measured in between, because a core's speed changes.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

from bench.clients.chromium import request
from bench.clients.http import BlockingConnection, read_response
from bench.fanout.floor import Floor
from bench.fanout.subscribers import Subscribers, subscribers
from bench.processes import Process, cpu_of, running
from bench.statistics import median, quantile

#: Clients that come before memory is measured, for what is needed once, not once each.
FIRST = 200
#: Seconds that these are there, for what a server does once a second: its first time-out, and ping.
FIRST_SECONDS = 1.5
#: Parts in which clients come: each gives one sample of what opening costs.
PARTS = 10
#: Notifications, or requests, in one sample, about: with few clients, it has more rounds of them.
NOTIFICATIONS = 2000


@dataclass(frozen=True)
class Subject:
    """A server to be measured."""

    name: str
    command: Sequence[str]
    publisher: str = "http"  #: how it is made to broadcast, a key of PUBLISHERS
    http: bool = True  #: whether it also serves GET /data, long polls and event streams
    packages: Sequence[str] = ()  #: to be installed before
    environment: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    is_varied: bool = False  #: no two requests to it are alike
    is_tls: bool = False


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


@dataclass(frozen=True)
class Kind:
    """A kind of client, and the names of its figures."""

    transport: str  #: a key of CLIENTS
    opening: str
    cost: str  #: of a change, or a request, for each client
    one: str  #: the client


GET = Kind("fetch", "opening a connection, with a GET", "GET /data", "idle connection")
POLL = Kind("longpoll", "opening a long poll", "long-poll cycle", "waiting poll")
STREAM = Kind("sse", "opening a stream", "event", "stream")
SOCKET = Kind("websocket", "opening a WebSocket", "notification", "push socket")
KINDS = (GET, POLL, STREAM, SOCKET)


@contextmanager
def serving(subject: Subject) -> Iterator[tuple[Process, Subscribers]]:
    """Run the server, with subscribers."""
    options = {"is_varied": subject.is_varied, "is_tls": subject.is_tls}
    with (
        running(subject.command, environment=subject.environment) as server,
        subscribers(server.port, subject.publisher, **options) as those,
    ):
        yield server, those


def _in_turns(
    cost: Callable[[], float], floor: Floor, times: int, rounds: int
) -> tuple[list[float], list[float]]:
    """Return samples of a cost, and of the floor."""
    costs, floors = [], []
    for _ in range(rounds):  # in this order, so that a drift of the machine's speed cancels
        before = cost()
        floors.append(floor.cost(2 * times))
        costs.append((before + cost()) / 2)
    return costs, floors


def waiting(
    subject: Subject, kind: Kind, clients: int, floor: Floor, *, rounds: int
) -> list[Figure]:
    """Measure clients that wait: how they come, their memory, changes."""
    times = max(1, NOTIFICATIONS // clients)
    floor.grow(clients)
    ms: list[float] = []
    with serving(subject) as (server, subscribers):
        cpu_of(server, subscribers.broadcast, 20)
        publishings = [cpu_of(server, subscribers.broadcast) for _ in range(rounds)]
        first = min(FIRST, clients // 5)
        subscribers.join(first, kind.transport)

        def act() -> None:
            if kind is GET:
                subscribers.fetch(1)
            else:
                ms.append(1e3 * subscribers.broadcast())

        cpu_of(server, act, 5)
        time.sleep(FIRST_SECONDS)
        before, others = server.memory(), clients - first
        parts = min(PARTS, others)
        openings, beside = [], []
        for n in range(parts):
            size = others * (n + 1) // parts - others * n // parts
            join = partial(subscribers.join, size, kind.transport)
            openings.append(cpu_of(server, join) / size)
            beside.append(floor.cost(times))
        # Before any change, which could leave something behind for each client.
        memory = server.memory() - before
        cpu_of(server, act, 3)
        time.sleep(0.1)  # what came twice would fail the next change
        ms.clear()

        def cost() -> float:
            return cpu_of(server, act, times) / clients

        costs, floors = _in_turns(cost, floor, times, rounds)
        later = server.memory() - before
    # The request that publishes is not part of a notification: it costs the same for one
    # subscriber and for ten thousand.
    once = 0.0 if kind is GET else median(publishings) / clients

    def figure(what: str, samples: list[float], unit: str = "µs") -> Figure:
        return Figure(subject.name, what, clients, unit, samples)

    return [
        *figure(kind.opening, openings).in_floors(beside),
        *figure(kind.cost, [cost - once for cost in costs]).in_floors(floors),
        figure(f"memory per {kind.one}", [memory / others], "bytes"),
        figure(f"memory per {kind.one}, after the changes", [later / others], "bytes"),
        *([figure(f"last {kind.one}", ms, "ms")] if ms else []),
        *([figure("floor", floors), figure("publishing", publishings)] if kind is SOCKET else []),
    ]


def over_tls(subject: Subject, clients: int) -> list[Figure]:
    """Measure the memory of clients over TLS."""
    found = []
    for kind in KINDS:
        with serving(subject) as (server, subscribers):
            first = min(FIRST, clients // 5)
            cpu_of(server, partial(subscribers.join, first, kind.transport))
            broadcast = partial(subscribers.broadcast, asking=kind is GET)
            cpu_of(server, broadcast, 3)
            before, others = server.memory(), clients - first
            cpu_of(server, partial(subscribers.join, others, kind.transport))
            memory = (server.memory() - before) / others
            broadcast()
        what = f"memory per {kind.one}, over TLS"
        found.append(Figure(subject.name, what, clients, "bytes", [memory]))
    return found


#: Of `most`: all of these, and of each as many.
MIX = "all four"


def most(subject: Subject, clients: int, *, rounds: int = 10) -> list[Figure]:
    """Measure the time to the last of the most clients."""
    found = []
    for kinds in (*((kind,) for kind in KINDS[1:]), KINDS):
        with serving(subject) as (_, subscribers):
            subscribers.broadcast()
            for kind in kinds:
                subscribers.join(clients // len(kinds), kind.transport)
            ms = [1e3 * subscribers.broadcast(asking=GET in kinds) for _ in range(rounds)]
        what = f"last of the most, {MIX if len(kinds) > 1 else kinds[0].one}"
        found.append(Figure(subject.name, what, clients, "ms", ms))
    return found


def peak(subject: Subject, clients: int, *, rounds: int) -> list[Figure]:
    """Measure another client's GETs while many polls get a response."""
    with serving(subject) as (server, subscribers):
        subscribers.join(clients, POLL.transport)
        subscribers.broadcast()
        server.cpu()
        quiet = _slowest(server, server.memory, rounds)
        busy = _slowest(server, subscribers.broadcast, rounds)
    return [
        Figure(subject.name, "slowest GET of another client, no change", clients, "ms", quiet),
        Figure(subject.name, "slowest GET of another client, change", clients, "ms", busy),
    ]


def _slowest(server: Process, work: Callable[[], object], rounds: int) -> list[float]:
    """Return the milliseconds of the slowest GET during each work."""
    found: list[float] = []
    is_finished = threading.Event()

    def ask() -> None:
        with closing(BlockingConnection("127.0.0.1", server.port)) as connection:
            asked = request(connection.host, "/data")
            while not is_finished.wait(0.0005):
                began = time.perf_counter()
                connection.send(asked)
                connection.receive(read_response)
                found[-1] = max(found[-1], 1e3 * (time.perf_counter() - began))

    with ThreadPoolExecutor() as pool:
        found.append(0.0)
        asking = pool.submit(ask)
        try:
            for _ in range(rounds):
                found.append(0.0)
                work()
                time.sleep(0.2)  # in which those that poll do so again
        finally:
            is_finished.set()
        asking.result()
    return found[1:]
