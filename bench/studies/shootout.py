"""Hashrocket's shootout: clients until a broadcast is late."""

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
from bench.studies.base import Study, latencies
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


@dataclass(frozen=True)
class Shootout(Study):
    """Add clients until a broadcast takes too long."""

    step: int = 1000  #: clients
    samples: int = 20  #: broadcasts for each step
    limit: float = 500.0  #: milliseconds that p95 must not exceed
    files: int | None = None  #: that a process may open; all that the system allows unless set
    name = "shootout"
    title = "Hashrocket: websocket-shootout, github.com/hashrocket/websocket-shootout"

    @property
    def rounds(self) -> int:
        return 0

    @property
    def descriptors(self) -> int:
        return self.step + OTHER_FILES  # it ends where there are no more

    def measure(self, run: Run) -> None:
        steps: list[dict[str, Any]] = []
        files = self.files or raise_descriptor_limit()
        run.results.extra |= {"steps": steps, "limit": self.limit, "files": files}
        run.progress.say("starting serve.py")
        clients = 0
        try:
            with serving(PUSHLAB) as (_, subscribers):
                while (clients := clients + self.step) <= files - OTHER_FILES:
                    run.progress.say(f"{clients:,} clients: connecting, then broadcasts")
                    subscribers.broadcast()
                    subscribers.join(self.step)
                    subscribers.broadcast()  # the first time takes longer
                    times = [round(1e3 * subscribers.broadcast(), 3) for _ in range(self.samples)]
                    steps.append({"clients": clients, "milliseconds": times})
                    if quantile(times, 0.95) > self.limit:
                        run.results.extra["ended_by"] = LATENCY
                        return
            run.results.extra["ended_by"] = DESCRIPTORS
        except (WrongResponse, NotRunning, OSError) as error:
            raise Failed(f"shootout, {clients or self.step:,} clients: {error}") from error

    def tables(self, results: Results) -> list[Table]:
        steps, limit = (results.extra.get(name) for name in ("steps", "limit"))
        if not steps:
            return []
        ended = results.extra.get("ended_by", "")
        held = f"{'' if ended == LATENCY else '≥ '}{_held(results) / 1e3:g}"
        rows = [[name, thousands, "published"] for name, thousands in PUBLISHED.items()]
        rows.append(["Python, serve.py", held, "measured here"])
        title = f"Clients held with a round trip of at most {limit:g} ms in 95 of 100 cases"
        shares = {"p50": 0.5, "p95": 0.95, "max": 1.0}
        every = [
            {"clients": f"{step['clients']:,}", **latencies(step["milliseconds"], shares)}
            for step in steps
        ]
        how = "From sending the change until the last client has received it, in milliseconds."
        return [
            Table(title, ("server", "thousands of clients", "from"), rows, [ENDED[ended]]),
            Table.of("Step by step", every, [how]),
        ]

    def numbers(self, results: Results) -> dict[str, str]:
        steps = results.extra["steps"]
        times = steps[-1]["milliseconds"]
        return {
            "shootout step": f"{steps[0]['clients']:,}",
            "shootout limit": f"{results.extra['limit']:g}",
            "shootout samples": str(len(times)),
            "shootout held": f"{_held(results):,}",
            "shootout p95": f"{quantile(times, 0.95):,.1f}",
            "shootout files": f"{results.extra['files']:,}",
        }


def _held(results: Results) -> int:
    """Return the clients of the last fast step."""
    held = [0, *(step["clients"] for step in results.extra["steps"])]
    return int(held[-2 if results.extra.get("ended_by") == LATENCY else -1])
