"""Measure what processes bring and Redis costs: `compare.py --workers`.

serve.py runs alone, and with Redis in so many processes; each has a Redis of its own, and they take
turns. CPU is that of the server's processes, not of Redis.
"""

import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from typing import Any, NamedTuple

import click

from bench import command_line
from bench.clients.frames import BlockingWebSocket
from bench.clients.http import BlockingConnection, WrongResponse, read_response
from bench.clients.publisher import VALUE
from bench.fanout.experiments import NOTIFICATIONS, POLL, SOCKET, STREAM
from bench.fanout.subscribers import Subscribers, subscribers
from bench.processes import NotRunning, Process, cpu_of, running
from bench.report.formatting import significant
from bench.report.tables import as_rst
from bench.servers import free_port
from bench.statistics import median, quantile

COMMAND = "python compare.py"
#: Publishes in one sample of what they cost, and of when they arrive.
PUBLISHES, ARRIVALS = 100, 20
#: Seconds until Redis has started.
START_TIMEOUT = 10.0
KINDS = (SOCKET, STREAM, POLL)


class Arrangement(NamedTuple):
    """So many processes, with Redis or without."""

    processes: int
    has_redis: bool

    @property
    def title(self) -> str:
        redis = "with Redis" if self.has_redis else "without Redis"
        return f"{self.processes} process{'es' * (self.processes > 1)} {redis}"


ALONE = Arrangement(1, has_redis=False)
#: Samples by name.
Samples = dict[str, list[float]]


def redis_program() -> str | None:
    """Return the path of Redis or Valkey; None without."""
    return shutil.which("redis-server") or shutil.which("valkey-server")


@contextmanager
def redis() -> Iterator[str]:
    """Run a Redis without a disk; yields its URL."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        command = [redis_program() or "redis-server", "--port", str(port), "--dir", folder]
        command += ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)  # noqa: S603 - Redis
        try:
            deadline = time.monotonic() + START_TIMEOUT
            while not _listens(port):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise NotRunning("Redis did not start")
                time.sleep(0.02)
            yield f"redis://127.0.0.1:{port}"
        finally:
            process.kill()
            process.wait()


def _listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


@contextmanager
def serving(*options: str) -> Iterator[Process]:
    """Run serve.py, on any core."""
    command = [sys.executable, "serve.py", "--port", "0", "--far", "none", "--source", "http"]
    with running([*command, *options], core=None) as process:
        yield process


@contextmanager
def arranged(arrangement: Arrangement) -> Iterator[Process]:
    """Run serve.py in this arrangement."""
    with ExitStack() as stack:
        options = ["--workers", str(arrangement.processes)]
        if arrangement.has_redis:
            options += ["--redis", stack.enter_context(redis())]
        yield stack.enter_context(serving(*options))


# What Redis costs.


class Posts(BlockingConnection):
    """A connection to a server, to publish on."""

    def __init__(self, server: Process) -> None:
        super().__init__("127.0.0.1", server.port)

    def send_all(self, values: Sequence[Mapping[str, Any]]) -> None:
        """Send what publishes these values."""
        requests = []
        for value in values:
            body = json.dumps(value).encode()
            head = f"POST /data HTTP/1.1\r\nHost: {self.host}\r\nContent-Length: {len(body)}"
            requests.append(b"%s\r\n\r\n%s" % (head.encode(), body))
        self.send(b"".join(requests))

    def wait(self, responses: int) -> None:
        """Wait for responses; raises WrongResponse if one is no 201."""
        for _ in range(responses):
            if (status := self.receive(read_response).status) != 201:
                raise WrongResponse(f"POST /data: {status}")

    def publish_in_a_row(self) -> None:
        """Publish PUBLISHES values; the server always has the next one."""
        self.send_all([VALUE] * PUBLISHES)
        self.wait(PUBLISHES)

    def publish_one_by_one(self) -> None:
        """Publish PUBLISHES values; the server waits for each."""
        for _ in range(PUBLISHES):
            self.send_all([VALUE])
            self.wait(1)


def publishing(*, rounds: int) -> dict[str, Samples]:
    """Measure publishes: microseconds of CPU, and milliseconds.

    One process publishes and another one follows; the CPU of the same publish without Redis is
    subtracted from that of the first. Nobody is subscribed. Then a browser is, in the same process
    or in another: milliseconds from the request that publishes to the reading's arrival.
    """
    with ExitStack() as stack:
        url = stack.enter_context(redis())
        alone = stack.enter_context(serving())
        first, second = (stack.enter_context(serving("--redis", url)) for _ in range(2))
        without, shared = (stack.enter_context(closing(Posts(each))) for each in (alone, first))
        cpu: Samples = {}
        for how, its, other in (
            ("in a row", shared.publish_in_a_row, without.publish_in_a_row),
            ("one by one", shared.publish_one_by_one, without.publish_one_by_one),
        ):
            for work in (other, its):
                work()
            publishes = cpu[f"to publish, {how}"] = []
            follows = cpu[f"to follow, {how}"] = []
            for _ in range(rounds):
                before = second.cpu()
                cost = cpu_of(first, its)
                follows.append(round((second.cpu() - before) / PUBLISHES, 1))
                publishes.append(round((cost - cpu_of(alone, other)) / PUBLISHES, 1))
        ways = {
            "without Redis": (alone, alone),
            "in the same process": (first, first),
            "in another process": (first, second),
        }
        arrival = {name: _arrivals(*two, rounds * ARRIVALS) for name, two in ways.items()}
        return {"cpu": cpu, "arrival_ms": arrival}


def _arrivals(publisher: Process, follower: Process, times: int) -> list[float]:
    """Return milliseconds from request to arrival by WebSocket."""
    with (
        closing(BlockingWebSocket("127.0.0.1", follower.port)) as websocket,
        closing(Posts(publisher)) as posts,
    ):
        websocket.open("/update?carry=1")
        websocket.text()
        found = []
        for number in range(times):
            began = time.perf_counter()
            posts.send_all([{**VALUE, "number": number}])
            value = json.loads(websocket.text())["value"]
            found.append(round(1e3 * (time.perf_counter() - began), 3))
            if value.get("number") != number:
                raise WrongResponse(f"published number {number}, received {value}")
            posts.wait(1)
        return found


# What more processes bring.


class Side:
    """A server with subscribers, and what it has used."""

    def __init__(self, server: Process, those: Subscribers, *, rounds: int) -> None:
        self._server = server
        self._those = those
        self.samples: Samples = {"cpu": [], "busiest": [], "last_ms": []}
        cpu_of(server, those.broadcast, 20)
        self._once = median([cpu_of(server, those.broadcast) for _ in range(rounds)])

    def join(self, clients: int, transport: str) -> None:
        self._those.join(clients, transport, carry=True)
        for _ in range(5):
            self._those.broadcast()

    def take_turn(self, times: int) -> None:
        """Broadcast so many times: CPU, and until the last."""
        server, samples = self._server, self.samples
        before, each_before = server.cpu(), server.cpu_of_each()
        samples["last_ms"] += [round(1e3 * self._those.broadcast(), 2) for _ in range(times)]
        used = (server.cpu() - before) / times
        pairs = zip(server.cpu_of_each(), each_before, strict=True)
        samples["busiest"].append(round(max(now - then for now, then in pairs) / times, 1))
        samples["cpu"].append(round((used - self._once) / self._those.count, 3))


def notifications(
    transport: str, arrangements: Sequence[Arrangement], *, clients: int, rounds: int
) -> dict[str, Samples]:
    """Measure changes for subscribers, by arrangement.

    Microseconds of CPU per notification, without what publishing costs without subscribers; those
    of the busiest process per change; and milliseconds to the last subscriber.
    """
    with ExitStack() as stack:
        sides = {}
        for one in arrangements:
            server = stack.enter_context(arranged(one))
            those = stack.enter_context(subscribers(server.port))
            sides[one.title] = Side(server, those, rounds=rounds)
        for side in sides.values():
            side.join(clients, transport)
        for number in range(rounds):  # back and forth, so that a drift cancels
            for side in list(sides.values())[:: 1 if number % 2 == 0 else -1]:
                side.take_turn(max(1, NOTIFICATIONS // clients))
        return {title: side.samples for title, side in sides.items()}


def tables(raw: dict[str, Any]) -> list[str]:
    """Return the tables of what was measured."""
    costs = raw["publishing"]
    rows: list[Sequence[str]] = [("a publish", "median", "95 %", "target")]
    for name, samples in costs["cpu"].items():
        rows.append((f"CPU {name}", *_quantiles(samples, "µs"), "60 µs"))
    for name, samples in costs["arrival_ms"].items():
        target = "3 ms" if name == "in another process" else ""
        rows.append((f"arrives at a browser {name}", *_quantiles(samples, "ms"), target))
    texts = [as_rst(rows)]
    for kind, sides in raw["notifications"].items():
        rows = [(f"{kind}, {raw['clients']:,} browsers", "CPU, µs", "ratio (target: 1.05)",
                 "busiest process, ms a change", "last browser, ms")]  # fmt: skip
        for title, samples in sides.items():
            pairs = zip(samples["cpu"], sides[ALONE.title]["cpu"], strict=True)
            ratio = median([cost / alone for cost, alone in pairs])
            busiest = median(samples["busiest"]) / 1e3
            figures = median(samples["cpu"]), ratio, busiest, median(samples["last_ms"])
            rows.append((title, *map(significant, figures)))
        texts.append(as_rst(rows))
    return texts


def _quantiles(samples: Sequence[float], unit: str) -> Iterator[str]:
    return (f"{significant(quantile(samples, q))} {unit}" for q in (0.5, 0.95))


@click.command(help=(__doc__ or "").partition("\n")[0])
@click.option("--workers", type=command_line.listed(click.IntRange(1)), default="1,2",
    metavar="NUMBERS", help="How many processes share a Redis.")  # fmt: skip
@click.option("--clients", type=click.IntRange(1), default=1000, show_default=True,
    help="Browsers of each transport.")  # fmt: skip
@click.option("--rounds", type=click.IntRange(1), default=15, show_default=True,
    help="Turns of each arrangement.")  # fmt: skip
@command_line.update_docs_option("Write docs/results/workers.json.")
def cluster(workers: Sequence[int], clients: int, rounds: int, *, update_docs: bool) -> None:
    """Measure, print the tables, write the results."""
    if redis_program() is None:
        raise NotRunning("for several processes, install redis-server or valkey-server")
    click.echo("what a publish costs", err=True)
    found: dict[str, Any] = {"clients": clients, "rounds": rounds, "notifications": {}}
    found["publishing"] = publishing(rounds=rounds)
    arrangements = [ALONE, *(Arrangement(number, has_redis=True) for number in workers)]
    for kind in KINDS:
        click.echo(f"{clients:,} × {kind.cost}", err=True)
        found["notifications"][kind.cost] = notifications(
            kind.transport, arrangements, clients=clients, rounds=rounds
        )
    print("\n\n".join(tables(found)))
    if update_docs:
        numbers = ",".join(map(str, workers))
        command_line.publish("workers", f"{COMMAND} --workers {numbers}", found)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark with these arguments."""
    command_line.run(cluster, arguments, COMMAND)


if __name__ == "__main__":
    main()
