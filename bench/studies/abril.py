"""Abril's recordings: five updates, a second apart."""

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import NamedTuple

from bench.clients.chromium import NAVIGATE, request
from bench.clients.http import BlockingConnection, WrongResponse, read_response
from bench.report.tables import Table
from bench.results import Results
from bench.runner import Run, explained
from bench.scenarios import Grid, Scenario, Variant
from bench.studies.base import Study, dispatched, measured

#: What is reloaded, and what the table calls that.
PATHS = {"/": "reload", "/data": "reload of /data only"}
VARIANTS = {
    Variant("poll", carry=True): "short poll",
    Variant("longpoll", carry=True): "long poll",
    Variant("sse", carry=True): "SSE",
    Variant("websocket", carry=True): "WebSocket",
}
#: Bytes of responses in the original's recordings.
PUBLISHED = {
    "reload": "5,570",
    "short poll": "3,609",
    "long poll": "1,908",
    "SSE": "1,071",
    "WebSocket": "629",
}


class Exchange(NamedTuple):
    """What passed the client's socket, opening included."""

    name: str
    updates: int
    requests: int
    responses: int  #: bytes: what the original counts
    frames: int  #: bytes of WebSocket frames
    up: int  #: bytes of requests


@dataclass(frozen=True)
class Abril(Study):
    """One client receives five updates, a second apart."""

    updates: int = 5
    pace: float = 1.0  #: seconds between two updates, and between two short polls
    name = "abril"
    title = "Abril: five updates by reload, polling, SSE and WebSocket, aquil.io, 2017"

    @property
    def grids(self) -> list[Grid]:
        scenario = Scenario("serve.py", 1, 0.0, self.pace)
        return [Grid([scenario], tuple(VARIANTS), 1, self.updates, period=self.pace)]

    def measure(self, run: Run) -> None:
        super().measure(run)
        run.progress.say("reloading")
        target = run.target("serve.py", next(iter(VARIANTS)))
        with explained("reload"):
            run.results.extra["reload"] = {
                path: _reloaded(path, target.port, target.publisher.change, updates=self.updates)
                for path in PATHS
            }

    def tables(self, results: Results) -> list[Table]:
        rows = [
            {
                "variant": one.name,
                "published responses": PUBLISHED.get(one.name, "–"),
                "responses": f"{one.responses:,}",
                "frames": f"{one.frames:,}",
                "requests, bytes": f"{one.up:,}",
                "requests": f"{one.requests:,}",
                "all bytes": f"{one.responses + one.frames + one.up:,}",
            }
            for one in exchanges(results)
        ]
        notes = [dispatched(measured(results))]
        return [Table.of("Bytes for five updates of one client", rows, notes)] if rows else []

    def numbers(self, results: Results) -> dict[str, str]:
        found = {exchange.name: exchange for exchange in exchanges(results)}
        page, data, socket = (found[name] for name in (*PATHS.values(), "WebSocket"))
        return {
            "abril updates": str(page.updates),
            "abril polls": str(found["long poll"].requests),
            "abril page": f"{page.responses / page.updates:,.0f}",
            "abril data": f"{data.responses / data.updates:,.0f}",
            "abril handshake": f"{socket.responses:,}",
            "abril share": f"{socket.responses / sum(socket[3:]):.0%}",
            "abril frames": f"{socket.frames:,}",
            "abril frame": f"{socket.frames / socket.updates:,.0f}",
        }


def _reloaded(
    path: str, port: int, change: Callable[[], object], *, updates: int
) -> list[list[int]]:
    """Return the bytes of a reload after each change."""
    costs = []
    try:
        with closing(BlockingConnection("127.0.0.1", port)) as connection:
            reload = request(connection.host, path, template=NAVIGATE)
            for _ in range(updates):
                change()
                connection.send(reload)
                response = connection.receive(read_response)
                if response.status != 200:
                    raise WrongResponse(f"GET {path}: {response.status}")
                costs.append([len(reload), response.size])
    except OSError as error:
        raise WrongResponse(f"GET {path}: {error or type(error).__name__}") from error
    return costs


def exchanges(results: Results) -> Iterator[Exchange]:
    for path, name in PATHS.items():
        if costs := results.extra.get("reload", {}).get(path):
            up, down = (sum(column) for column in zip(*costs, strict=True))
            yield Exchange(name, len(costs), len(costs), down, 0, up)
    names = {variant.transport: name for variant, name in VARIANTS.items()}
    for result in measured(results):
        if result.carry and result.clients == 1 and result.transport in names:
            name = names[result.transport]
            connect, traffic = result.connect_traffic, result.traffic
            frames = traffic.down if name == "WebSocket" else 0
            yield Exchange(
                name,
                updates=result.published,
                requests=connect.requests + traffic.requests,
                responses=connect.down + traffic.down - frames,
                frames=frames,
                up=connect.up + traffic.up,
            )
