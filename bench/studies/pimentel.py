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
        grid = Grid(
            [Scenario("serve.py", 1, rtt_ms, self.pace) for rtt_ms in self.distances],
            variants=tuple(VARIANTS),
            period=self.pace,
            rounds=self.rounds,
            changes=self.changes,
            drifting=True,
        )
        return [grid]

    def tables(self, results: Results) -> list[Table]:
        found = [one for one in measured(results) if one.variant in VARIANTS and one.clients == 1]
        header = ["round trip, ms", "transport", *(f"{name}, ms" for name in SHARES)]
        rows = [
            [
                f"{result.rtt_ms:g}",
                VARIANTS[result.variant],
                *latencies(result.notified_ms, SHARES.values()),
                str(result.seen),
                str(result.coalesced),
            ]
            for result in found
        ]
        title = "One-way latency of a sensor's readings"
        table = Table(title, [*header, "seen", "coalesced"], rows, [dispatched(found)])
        return [table] if found else []
