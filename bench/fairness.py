"""Measure whether one client holds up others: `python -m bench.fairness`.

While an attacker is at work, another client sends GET /data again and again, and a WebSocket
receives a change every 0.2 seconds. Then the server is told to stop.
"""

import json
import math
import multiprocessing
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing, suppress
from typing import Any, NamedTuple

import click

from bench import command_line
from bench.clients import chromium
from bench.clients.frames import PING, BlockingWebSocket, masked
from bench.clients.http import BlockingConnection, Response, WrongResponse, read_response
from bench.clients.publisher import Posting
from bench.processes import Process
from bench.report.tables import as_rst, shown
from bench.servers import HTTP_SOURCE, SERVERS, missing, started

COMMAND = "python -m bench.fairness"

#: Seconds between two changes.
PACE = 0.2
#: Seconds after which a response, or the server's end, is no longer waited for.
TIMEOUT = 20.0


class Attack(NamedTuple):
    """What one client, source or log does to the others."""

    name: str
    #: Runs in a process of its own until it is ended; gets the port.
    client: Callable[[int], None] | None = None
    #: What standard input gets before each change; None: changes come by POST.
    lines: Callable[[], bytes] | None = None
    #: The log has a line for each request, and nobody reads it.
    unread_log: bool = False

    @property
    def options(self) -> str:
        source = HTTP_SOURCE if self.lines is None else "--source stdin"
        return source + " --log-level info" * self.unread_log


def flood(port: int, first: bytes, repeated: bytes, *, reads: bool, most: float) -> None:
    """Send without waiting for responses, at most so many bytes."""
    while True:  # native threads close after each response
        with suppress(OSError), socket.create_connection(("127.0.0.1", port)) as sock:
            sock.sendall(first)
            sock.setblocking(False)
            sent = 0
            while True:
                readable, writable, _ = select.select(
                    [sock] if reads else [], [sock] if sent < most else [], []
                )
                if readable and not sock.recv(1 << 20):
                    break
                if writable:
                    start = sent % len(repeated)
                    sent += sock.send(repeated[start:])


def pipeline(
    path: str, *, is_known: bool = False, reads: bool = True, most: float = math.inf
) -> Callable[[int], None]:
    """Return a client that pipelines requests for this path."""

    def attack(port: int) -> None:
        known = str(json.loads(get(port).body)["cursor"]) if is_known else ""
        one = chromium.request(f"127.0.0.1:{port}", path, known=known)
        flood(port, b"", one * 100, reads=reads, most=most)

    return attack


def pings(port: int) -> None:
    """Send ping frames on a push WebSocket without an end."""
    opening, _ = chromium.handshake(f"127.0.0.1:{port}", "/update")
    flood(port, opening, masked(PING, b"?") * 1000, reads=True, most=math.inf)


ATTACKS = (
    Attack("none"),
    Attack("GET /data, pipelined", pipeline("/data")),
    Attack("304, pipelined", pipeline("/data", is_known=True)),
    Attack("polls that end at once, pipelined", pipeline("/update?after=other-0")),
    Attack("3 MB of requests, responses never read", pipeline("/data", reads=False, most=3e6)),
    Attack("pings on a WebSocket", pings),
    Attack("32,768 lines at a time", lines=lambda: b"line\n" * 32_768),
    Attack("100,000 lines a second", lines=lambda: b"line\n" * int(100_000 * PACE)),
    Attack("100 KB of no text at a time", lines=lambda: os.urandom(100_000) + b"\n"),
    Attack("a log that nobody reads", pipeline("/data"), unread_log=True),
)


class Measured(NamedTuple):
    """What the others noticed of an attack."""

    server: str
    attack: str
    get_ms: list[float]  #: from each request to its response
    late_ms: list[float]  #: from each change that was made to its arrival
    missed: int  #: changes that did not arrive
    stop_s: float  #: seconds from the signal to the server's end

    @property
    def worst_get(self) -> float:
        return max(self.get_ms)

    @property
    def latest(self) -> float:
        return max(self.late_ms, default=math.inf)


class Figure(NamedTuple):
    """A figure of every attack and server, and its target."""

    title: str
    of: Callable[[Measured], float]
    most: float


FIGURES = (
    Figure("Another client's slowest GET /data, ms", lambda one: one.worst_get, 100),
    Figure("The latest change, ms", lambda one: one.latest, 1000),
    Figure("Changes that did not arrive", lambda one: one.missed, 0),
    Figure("Seconds until the server has stopped", lambda one: one.stop_s, 5),
)


def get(port: int) -> Response:
    """Get /data on a new connection."""
    with closing(BlockingConnection("127.0.0.1", port, timeout=TIMEOUT)) as connection:
        connection.send(chromium.request(connection.host, "/data"))
        response: Response = connection.receive(read_response)
    if response.status != 200:
        raise WrongResponse(f"GET /data got {response.status}")
    return response


class Changes:
    """Changes that are made and seen, in two threads."""

    def __init__(self, port: int, make: Callable[[dict[str, float]], object]) -> None:
        self._make = make
        self._made: list[float] = []
        self._late: dict[float, float] = {}
        self._ended = threading.Event()
        self._websocket = BlockingWebSocket("127.0.0.1", port, timeout=TIMEOUT)
        self._websocket.open("/update?carry=1")
        self._threads = [threading.Thread(target=run) for run in (self._make_all, self._see_all)]
        for thread in self._threads:
            thread.start()

    def _make_all(self) -> None:
        ended = False
        while not ended:
            ended = self._ended.wait(PACE)
            at = round(time.time(), 6)
            self._made.append(at)
            with suppress(OSError, WrongResponse):  # it is missed, then
                self._make({"at": at})

    def _see_all(self) -> None:
        with suppress(OSError, WrongResponse):
            while not (self._ended.is_set() and self._made[-1] in self._late):
                at = json.loads(self._websocket.text())["value"].get("at")
                if at is not None:
                    self._late.setdefault(at, (time.time() - at) * 1000)

    def end(self) -> tuple[list[float], int]:
        """End; return milliseconds of those seen, and the missed."""
        self._ended.set()
        for thread in self._threads:
            thread.join()
        self._websocket.close()
        late = [self._late[at] for at in self._made if at in self._late]
        return late, len(self._made) - len(late)


def measure(server: str, attack: Attack, seconds: float) -> Measured:
    """Attack a server for some seconds, as others use it."""
    with ExitStack() as stack:
        streams: dict[str, Any] = {}
        if attack.lines is not None:
            streams["stdin"], writing = os.pipe()
            stack.callback(os.close, streams["stdin"])
            pipe = stack.enter_context(os.fdopen(writing, "wb", buffering=0))
        if attack.unread_log:
            for descriptor in os.pipe():
                stack.callback(os.close, descriptor)
                streams["stderr"] = descriptor
        process = stack.enter_context(started(server, options=attack.options, **streams))

        make: Callable[[dict[str, float]], object]
        if attack.lines is None:
            publisher = stack.enter_context(closing(Posting("127.0.0.1", process.inner_port)))
            make = publisher.change
        else:
            lines = attack.lines

            def make(value: dict[str, float]) -> None:
                pipe.write(lines() + json.dumps(value).encode() + b"\n")

        if attack.client is not None:  # forks, so before there are threads here
            attacker = multiprocessing.Process(target=attack.client, args=(process.port,))
            attacker.start()
            stack.callback(attacker.join)
            stack.callback(attacker.kill)
        changes = Changes(process.port, make)
        get_ms: list[float] = []
        end = time.monotonic() + seconds
        while (begun := time.monotonic()) < end:
            with suppress(OSError):  # a time-out is as long as it is
                get(process.port)
            get_ms.append((time.monotonic() - begun) * 1000)
            time.sleep(0.01)
        late_ms, missed = changes.end()
        return Measured(server, attack.name, get_ms, late_ms, missed, stop(process))


def stop(process: Process) -> float:
    """Stop a server; return the seconds that it took."""
    begun = time.monotonic()
    os.kill(process.pids[0], signal.SIGTERM)
    while process.is_alive and time.monotonic() < begun + TIMEOUT:
        time.sleep(0.01)
    return time.monotonic() - begun


def tables(raw: dict[str, Any]) -> list[str]:
    """Return a table of attacks and servers for each figure."""
    every = [Measured(**one) for one in raw["measured"]]
    servers = list(dict.fromkeys(one.server for one in every))
    found = {(one.attack, one.server): one for one in every}
    texts = []
    for title, of, most in FIGURES:
        rows: list[list[str]] = [[f"{title} (target: {most:g})", *servers]]
        for attack in dict.fromkeys(one.attack for one in every):
            cells = [found.get((attack, server)) for server in servers]
            rows.append([attack, *(shown(float(of(one)) if one else None) for one in cells)])
        texts.append(as_rst(rows))
    return texts


@click.command(help=(__doc__ or "").partition("\n")[0])
@click.option("--server", "servers", type=command_line.listed(click.Choice(SERVERS)),
    default=",".join(SERVERS), metavar="NAMES", help=f"Some of {', '.join(SERVERS)}.")  # fmt: skip
@click.option("--seconds", type=command_line.between(1, 600), default=3, show_default=True,
    help="How long each attack lasts.")  # fmt: skip
@command_line.update_docs_option("Write docs/results/fairness.json.")
def fairness(servers: Sequence[str], seconds: float, *, update_docs: bool) -> None:
    """Measure, print the tables, write the results."""
    measured = []
    for server in (one for one in servers if not missing(one)):
        for attack in ATTACKS:
            click.echo(f"{server}: {attack.name}", err=True)
            measured.append(measure(server, attack, seconds)._asdict())
    found = {"seconds": seconds, "measured": measured}
    print("\n\n".join(tables(found)))
    if update_docs:
        command_line.publish("fairness", f"{COMMAND} --seconds {seconds:g}", found)


if __name__ == "__main__":
    command_line.run(fairness, None, COMMAND)
