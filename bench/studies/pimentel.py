"""Pimentel and Nickerson's sensor: the latency of four readings a second, by distance."""

from collections.abc import Sequence
from dataclasses import dataclass

from bench.report.tables import Table
from bench.results import Results
from bench.runner import Run
from bench.scenarios import Grid, Scenario, Variant
from bench.statistics import quantile
from bench.studies.base import GridStudy, dispatched, measured, milliseconds

VARIANTS = {
    Variant("poll", carry=True): "polling",
    Variant("longpoll", carry=True): "long polling",
    Variant("websocket", carry=True): "WebSocket",
}
SHARES = {"p5": 0.05, "p50": 0.5, "p95": 0.95, "p99": 0.99}


@dataclass(frozen=True)
class Pimentel(GridStudy):
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
    def grid(self) -> Grid:
        """What is measured."""
        return Grid(
            [Scenario("serve.py", 1, rtt_ms, self.pace) for rtt_ms in self.distances],
            variants=tuple(VARIANTS),
            period=self.pace,
            rounds=self.rounds,
            changes=self.changes,
            drifting=True,
        )

    def measure(self, run: Run) -> None:
        run.measure(self.grid)

    def tables(self, results: Results) -> list[Table]:
        entries = [
            result
            for result in measured(results)
            if result.variant in VARIANTS and result.clients == 1
        ]
        if not entries:
            return []
        header = ("round trip, ms", "transport", *(f"{name}, ms" for name in SHARES), "max, ms")
        rows = [
            [
                f"{result.rtt_ms:g}",
                VARIANTS[result.variant],
                *(milliseconds(quantile(result.notified_ms, q)) for q in SHARES.values()),
                milliseconds(max(result.notified_ms)),
                str(result.seen),
                str(result.coalesced),
            ]
            for result in entries
        ]
        title = "One-way latency of a sensor's readings"
        return [Table(title, (*header, "seen", "coalesced"), rows, [dispatched(entries)])]

    def numbers(self, results: Results) -> dict[str, str]:
        return {}
