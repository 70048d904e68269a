"""Measure a class on this machine: `python -m bench.classroom`.

Opens pages as browsers do, without a browser: each has the WebSocket of the instruments, which
watches its lanes and is asked for the time, and the lanes that a page starts with. Every second
page is far away, behind the relay. Then the teacher starts an experiment for all.
"""

import asyncio
import json
import re
import subprocess
import sys
import textwrap
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from http.client import HTTPConnection
from typing import Any

import click
import psutil

from bench import command_line
from bench.clients.chromium import handshake
from bench.clients.frames import CLOSE, PING, PONG, TEXT, masked, read_frame
from bench.processes import ROOT, NotRunning, on_core
from bench.report.tables import as_rst
from bench.servers import free_port
from bench.statistics import quantile
from pushlab.transports import TRANSPORTS

COMMAND = "python -m bench.classroom"
#: Seconds between two changes, two polls, two questions about the time, two reports of medians.
PACE, POLL_PERIOD, CLOCK_PERIOD, MEDIANS_PERIOD = 1.0, 0.5, 2.0, 3.0
#: Milliseconds of the round trip of pages that are far away.
FAR = 200
#: Seconds in which the pages come, one after the other.
ARRIVAL = 10.0
#: Seconds after which a page that has not got something counts as refused.
TIMEOUT = 60.0


class Refused(Exception):
    """The server refused or dropped a page."""


class Page:
    """A page: its connections, and how late changes came."""

    def __init__(self, number: int, port: int, late: dict[str, list[float]]) -> None:
        self._port = port
        self._name = f"b{number}"
        self._late = late
        self._lanes = [each.name for each in TRANSPORTS.values() if each.autostart]
        self._writers: list[asyncio.StreamWriter] = []
        self.experiment_at: asyncio.Future[float] = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        """Be there until it is cancelled; raises Refused."""
        lanes = {"poll": self._poll, "longpoll": self._long_poll, "websocket": self._websocket}
        try:
            await asyncio.gather(self._instruments(), *(lanes[name]() for name in self._lanes))
        except (OSError, EOFError) as error:
            raise Refused(f"{self._name}: {error!r}") from error

    def close(self) -> None:
        """Close all connections."""
        for writer in self._writers:
            writer.transport.abort()

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers.append(writer)
        return reader, writer

    async def _instruments(self) -> None:
        reader, writer = await self._upgraded("/lab")
        watched = [f"{self._name}-{lane}" for lane in self._lanes]
        _send(writer, do="watch", lanes=watched)
        talking = asyncio.ensure_future(self._talk(writer))
        try:
            async for message in self._messages(reader, writer):
                if message.get("experiment") and not self.experiment_at.done():
                    self.experiment_at.set_result(time.time())
        finally:
            talking.cancel()

    async def _talk(self, writer: asyncio.StreamWriter) -> None:
        """Ask for the time, and report medians."""
        reported = 0.0
        while True:
            _send(writer, do="clock", sent=time.time())
            if time.monotonic() > reported + MEDIANS_PERIOD:
                reported = time.monotonic()
                _send(writer, do="medians", lanes=dict.fromkeys(self._lanes, 12.34))
            await asyncio.sleep(CLOCK_PERIOD)

    async def _websocket(self) -> None:
        reader, writer = await self._upgraded(self._path("/update", "websocket"))
        async for message in self._messages(reader, writer):
            self._received("websocket", message)

    async def _long_poll(self) -> None:
        reader, writer = await self._open()
        after = ""
        while True:
            status, body = await self._get(
                reader, writer, self._path("/update", "longpoll") + after
            )
            if status == 200:
                message = json.loads(body)
                after = f"&after={message['cursor']}"
                self._received("longpoll", message)

    async def _poll(self) -> None:
        reader, writer = await self._open()
        known = ""
        while True:
            path = self._path("/data", "poll")
            condition = f'If-None-Match: "{known}"\r\n' if known else ""
            status, body = await self._get(reader, writer, path, condition)
            if status == 200:
                message = json.loads(body)
                known = message["cursor"]
                self._received("poll", message)
            await asyncio.sleep(POLL_PERIOD)

    def _path(self, path: str, lane: str) -> str:
        return f"{path}?carry=1&lane={self._name}-{lane}"

    def _received(self, lane: str, reading: dict[str, Any]) -> None:
        self._late[lane].append((time.time() - reading["changed_at"]) * 1000)

    async def _get(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        path: str,
        condition: str = "",
    ) -> tuple[int, bytes]:
        host = f"Host: 127.0.0.1:{self._port}\r\n"
        writer.write(f"GET {path} HTTP/1.1\r\n{host}{condition}\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        status = int(head.split()[1])
        if status >= 400:
            raise Refused(f"{path}: {status}")
        size = re.search(rb"(?i)content-length: (\d+)", head)
        return status, await reader.readexactly(int(size[1])) if size else b""

    async def _upgraded(self, path: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await self._open()
        request, accept = handshake(f"127.0.0.1:{self._port}", path)
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        if accept not in head:
            raise Refused(f"{path}: {head[:60]!r}")
        return reader, writer

    async def _messages(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> AsyncIterator[dict[str, Any]]:
        data = b""
        while piece := await reader.read(65536):
            data += piece
            while frame := read_frame(data):
                data = data[frame.size :]
                if frame.opcode == PING:
                    writer.write(masked(PONG, frame.payload))
                elif frame.opcode == TEXT:
                    yield json.loads(frame.payload)
                elif frame.opcode == CLOSE:
                    raise Refused(f"{self._name}: closed with {frame.payload!r}")
        raise EOFError


def _send(writer: asyncio.StreamWriter, **command: Any) -> None:
    writer.write(masked(TEXT, json.dumps(command, separators=(",", ":")).encode()))


class Teacher(Page):
    """The teacher's page, which has no lanes here."""

    async def open(self, key: str) -> asyncio.StreamWriter:
        """Connect, and read on in the background."""
        reader, writer = await self._upgraded("/lab")
        _send(writer, do="teach", key=key)
        self.reports: list[dict[str, Any]] = []

        async def read() -> None:
            async for message in self._messages(reader, writer):
                self.reports += [message["class"]] if "class" in message else []

        self._reading = asyncio.ensure_future(read())
        return writer


async def measure(
    server: psutil.Process, ports: tuple[int, int], key: str, *, pages: int, seconds: float
) -> dict[str, Any]:
    """Return what so many pages cost, and receive.

    `ports` are the near and the far one; the relay is a child of the server's process.
    """

    def cpu() -> list[float]:
        times = (process.cpu_times() for process in (server, relay))
        return [each.user + each.system for each in times]

    [relay] = server.children()
    late: dict[str, dict[str, list[float]]] = {
        "near": defaultdict(list),
        "far": defaultdict(list),
    }
    teacher = Teacher(pages, ports[0], {})
    writer = await teacher.open(key)
    await asyncio.sleep(1)
    empty = server.memory_info().rss
    those, running_pages = [], []
    for number in range(pages):
        place = number % 2
        those.append(Page(number, ports[place], late[("near", "far")[place]]))
        running_pages.append(asyncio.ensure_future(those[-1].run()))
        await asyncio.sleep(ARRIVAL / pages)
    await asyncio.sleep(ARRIVAL / 2)  # what they needed to come is not measured
    for lanes in late.values():
        lanes.clear()
    before, begun = cpu(), time.monotonic()
    await asyncio.sleep(seconds)
    took = time.monotonic() - begun
    used = [(now - then) / took for now, then in zip(cpu(), before, strict=True)]
    full = server.memory_info().rss
    received = {
        place: {name: [round(each, 1) for each in lanes[name]] for name in sorted(lanes)}
        for place, lanes in late.items()
    }
    report = teacher.reports[-1]

    started = time.time()
    _send(writer, do="experiment", id="near")
    waiting = [page.experiment_at for page in those]
    done, _ = await asyncio.wait(waiting, timeout=TIMEOUT)
    refused = [task for task in running_pages if task.done()]
    for task in (*running_pages, teacher._reading):
        task.cancel()
        with suppress(asyncio.CancelledError, Refused, EOFError):
            await task
    for page in (teacher, *those):
        page.close()
    await asyncio.sleep(0)  # so that they are
    return {
        "pages": pages,
        "seconds": round(took, 1),
        "pace": PACE,
        "far": FAR,
        "refused": len(refused),
        "counted": report["pages"],
        "server_cpu": round(used[0], 3),
        "relay_cpu": round(used[1], 3),
        "bytes_per_page": round((full - empty) / pages),
        "started_for": len(done),
        "start_seconds": [round(it.result() - started, 3) for it in done],
        "late_ms": received,
    }


@contextmanager
def a_class() -> Iterator[tuple[psutil.Process, tuple[int, int], str]]:
    """Start serve.py; yields its process, its ports, the teacher's key."""
    port = free_port()
    options = ["--class", "--host", "127.0.0.1", "--far", str(FAR), "--pace", str(PACE)]
    with on_core(0):
        server = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-u", "serve.py", "--port", str(port), *options],
            cwd=ROOT, stdout=subprocess.PIPE, start_new_session=True, text=True,
        )  # fmt: skip
    try:
        assert server.stdout  # noqa: S101
        keys = (re.search(r"\?key=([\w-]+)", line) for line in server.stdout)
        key = next((found[1] for found in keys if found), None)
        if key is None:
            raise NotRunning("serve.py did not start")
        with closing(HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)) as connection:
            connection.request("GET", "/")
            html = connection.getresponse().read().decode()
        far = int(re.findall(r"href=\"http://127\.0\.0\.1:(\d+)/", html)[-1])
        yield psutil.Process(server.pid), (port, far), key
    finally:
        server.terminate()
        server.communicate(timeout=TIMEOUT)


def run(pages: int, seconds: float) -> dict[str, Any]:
    """Measure a class of pages for some seconds."""
    with a_class() as (server, ports, key):
        return asyncio.run(measure(server, ports, key, pages=pages, seconds=seconds))


def as_table(found: Mapping[str, Any]) -> str:
    """Return how late changes were, as a reStructuredText table."""
    rows: list[Sequence[str]] = [("change to page", "changes", "p50, ms", "p95, ms")]
    for place, lanes in found["late_ms"].items():
        away = f"from {found['far']} ms away" if place == "far" else "near"
        for name, late in lanes.items():
            figures = (f"{quantile(late, q):,.1f}" for q in (0.5, 0.95))
            rows.append((f"{TRANSPORTS[name].title}, {away}", f"{len(late):,}", *figures))
    return as_rst(rows)


def sentences(found: Mapping[str, Any]) -> str:
    """Return what else came out, in words."""
    slowest = quantile(found["start_seconds"], 1.0)
    return (
        f"{found['pages']} pages for {found['seconds']:.0f} s, a change every {found['pace']:g} s; "
        f"refused: {found['refused']}. The server used {found['server_cpu']:.0%} of a core, the "
        f"relay of the far pages {found['relay_cpu']:.0%}, and a page {found['bytes_per_page']:,} "
        f"bytes of the server's memory. An experiment for all was on {found['started_for']} pages, "
        f"on the last after {slowest:.2f} s."
    )


def figures(found: Mapping[str, Any]) -> tuple[str, str]:
    """Return what came out, as sentences and as a table."""
    return "\n".join(textwrap.wrap(sentences(found), 100)), as_table(found)


@click.command(help=(__doc__ or "").partition(":")[0])
@click.option("--pages", type=click.IntRange(2, 299), default=250, show_default=True)
@click.option("--seconds", type=click.FloatRange(1, 600), default=20.0, show_default=True)
@command_line.update_docs_option("Write docs/results/classroom.json.")
def main(pages: int, seconds: float, *, update_docs: bool) -> None:
    """Measure, print the figures, write the results."""
    found = run(pages, seconds)
    print("\n\n".join(figures(found)))
    if update_docs:
        command_line.publish("classroom", COMMAND, {"class": found})


if __name__ == "__main__":
    command_line.run(main, None, COMMAND)
