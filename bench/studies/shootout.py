"""Hashrocket's shootout: how many clients until a broadcast takes too long."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bench.clients.http import WrongResponse
from bench.fanout.benchmark import PUSHLAB
from bench.fanout.experiments import serving
from bench.processes import NotRunning
from bench.report.tables import Table
from bench.results import Results
from bench.runner import Failed, Run
from bench.statistics import quantile
from bench.studies.base import milliseconds
from pushlab.hosting.listener import raise_descriptor_limit

#: Clients that the original's servers held, in thousands.
PUBLISHED = {"C++": "33", "Clojure": "27", "Go": "24", "Node ws": "13", "Rails": "0.5–1.1"}
#: Files that a process opens beside its clients' sockets, at most.
OTHER_FILES = 100
#: Why no more clients were added.
LATENCY, DESCRIPTORS = "latency", "descriptors"
ENDED = {
    LATENCY: "It ended because the last step took too long.",
    DESCRIPTORS: "It ended because a process may not open more files: the server may hold more.",
    "": "It ended early.",
}
#: Estimates in seconds per client: of a broadcast, and of connecting.
SEND_SECONDS, CONNECT_SECONDS = 18e-6, 0.9e-3


@dataclass(frozen=True)
class Shootout:
    """Add clients, a step at a time, until a broadcast takes too long."""

    step: int = 1000  #: clients
    samples: int = 20  #: broadcasts for each step
    limit: float = 500.0  #: milliseconds that p95 must not exceed
    files: int | None = None  #: that a process may open; all that the system allows unless set
    name = "shootout"
    title = "Hashrocket: websocket-shootout, github.com/hashrocket/websocket-shootout"

    @property
    def seconds(self) -> float:
        enough = int(self.limit / 1e3 / SEND_SECONDS) + self.step  # where it takes too long, about
        sizes = range(self.step, min(self._most, enough) + 1, self.step)
        return 3 + sum(self._seconds(size) for size in sizes)

    @property
    def descriptors(self) -> int:
        return self.step + OTHER_FILES  # it ends where there are no more

    @property
    def _most(self) -> int:
        """The clients that a process can have, with the files that it may open."""
        return (self.files or raise_descriptor_limit()) - OTHER_FILES

    def _seconds(self, clients: int) -> float:
        return self.step * CONNECT_SECONDS + self.samples * clients * SEND_SECONDS

    def measure(self, run: Run) -> None:
        steps: list[dict[str, Any]] = []
        run.results.extra |= {
            "steps": steps,
            "limit": self.limit,
            "files": self._most + OTHER_FILES,
        }
        run.progress.say("starting serve.py")
        try:
            with serving(PUSHLAB) as (_, subscribers):
                clients = 0
                while clients + self.step <= self._most:
                    run.progress.say(
                        f"{clients + self.step:,} clients: connecting, then broadcasts"
                    )
                    subscribers.broadcast()
                    subscribers.join(self.step)
                    clients += self.step
                    subscribers.broadcast()  # the first time takes longer
                    times = [round(1e3 * subscribers.broadcast(), 3) for _ in range(self.samples)]
                    steps.append({"clients": clients, "milliseconds": times})
                    run.progress.advance(self._seconds(clients))
                    if quantile(times, 0.95) > self.limit:
                        run.results.extra["ended_by"] = LATENCY
                        return
            run.results.extra["ended_by"] = DESCRIPTORS
        except (WrongResponse, NotRunning, OSError) as error:
            raise Failed(f"shootout, {clients_of(steps) + self.step:,} clients: {error}") from error

    def tables(self, results: Results) -> list[Table]:
        steps = results.extra.get("steps", ())
        if not steps:
            return []
        held = _held(results)
        capacity = Table(
            "Clients held with a round trip of at most "
            f"{results.extra['limit']:g} ms in 95 of 100 cases",
            ("server", "thousands of clients", "from"),
            [
                *([name, thousands, "published"] for name, thousands in PUBLISHED.items()),
                [
                    "Python, serve.py",
                    f"{'' if _is_too_long(results) else '≥ '}{held / 1e3:g}",
                    "measured here",
                ],
            ],
            [ENDED[results.extra.get("ended_by", "")]],
        )
        every = Table(
            "Step by step",
            ("clients", "p50, ms", "p95, ms", "max, ms"),
            [
                [
                    f"{step['clients']:,}",
                    *(milliseconds(quantile(step["milliseconds"], q)) for q in (0.5, 0.95)),
                    milliseconds(max(step["milliseconds"])),
                ]
                for step in steps
            ],
            ["From sending the change until the last client has received it, in milliseconds."],
        )
        return [capacity, every]

    def numbers(self, results: Results) -> dict[str, str]:
        steps = results.extra["steps"]
        return {
            "shootout step": f"{clients_of(steps[:1]):,}",
            "shootout limit": f"{results.extra['limit']:g}",
            "shootout samples": str(len(steps[-1]["milliseconds"])),
            "shootout held": f"{_held(results):,}",
            "shootout p95": milliseconds(quantile(steps[-1]["milliseconds"], 0.95)),
            "shootout files": f"{results.extra['files']:,}",
        }


def clients_of(steps: Sequence[dict[str, Any]]) -> int:
    """Return how many clients there were at last."""
    return int(steps[-1]["clients"]) if steps else 0


def _is_too_long(results: Results) -> bool:
    """Tell whether the last step was one too many."""
    return bool(results.extra.get("ended_by") == LATENCY)


def _held(results: Results) -> int:
    """Return the clients of the last step that was fast enough."""
    steps = results.extra["steps"]
    return clients_of(steps[:-1] if _is_too_long(results) else steps)
