"""Pimentel and Nickerson's sensor: latency by distance."""

from collections.abc import Sequence
from dataclasses import dataclass

from bench.report.tables import Table
from bench.results import Results
from bench.scenarios import Grid, Scenario, Variant
from bench.statistics import PERCENTILES
from bench.studies.base import Study, dispatched, latencies, measured

VARIANTS = {
    Variant("poll", carry=True): "polling",
    Variant("longpoll", carry=True): "long polling",
    Variant("websocket", carry=True): "WebSocket",
}
SHARES = {"p5": 0.05, **PERCENTILES}


@dataclass(frozen=True)
class Pimentel(Study):
    """One client, a change four times a second, several distances."""

    distances: Sequence[float] = (0.0, 50.0, 150.0, 300.0)  #: milliseconds of a round trip
    pace: float = 0.25  #: seconds between two changes, and between two polls
    rounds: int = 10
    changes: int = 10
    name = "pimentel"
    title = (
        "Victoria Pimentel and Bradford G. Nickerson: Communicating and Displaying Real-Time Data"
        " with WebSocket, IEEE Internet Computing, 2012, DOI 10.1109/MIC.2012.64"
    )

    @property
    def grids(self) -> list[Grid]:
        scenarios = [Scenario("serve.py", 1, rtt_ms, self.pace) for rtt_ms in self.distances]
        variants = tuple(VARIANTS)
        return [Grid(scenarios, variants, self.rounds, self.changes, self.pace, drifting=True)]

    def tables(self, results: Results) -> list[Table]:
        found = [one for one in measured(results) if one.variant in VARIANTS and one.clients == 1]
        rows = [
            {
                "round trip, ms": f"{result.rtt_ms:g}",
                "transport": VARIANTS[result.variant],
                **latencies(result.notified_ms, SHARES),
                "seen": str(result.seen),
                "coalesced": str(result.coalesced),
            }
            for result in found
        ]
        title = "One-way latency of a sensor's readings"
        return [Table.of(title, rows, [dispatched(found)])] if rows else []
