"""Pimentel and Nickerson's sensor: how old four readings a second are when they are far away."""

from collections.abc import Sequence
from dataclasses import dataclass

from bench.report.tables import Table
from bench.results import Result, Results
from bench.runner import Run
from bench.scenarios import Grid, Scenario, Variant
from bench.statistics import quantile
from bench.studies.base import GridStudy, listed, measured, milliseconds

VARIANTS = {
    Variant("poll", carry=True): "polling",
    Variant("longpoll", carry=True): "long polling",
    Variant("websocket", carry=True): "WebSocket",
}
SHARES = {"p5": 0.05, "p50": 0.5, "p95": 0.95, "p99": 0.99}


@dataclass(frozen=True)
class Pimentel(GridStudy):
    """One client, who hears four times a second from a server at one of several distances."""

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
            variants=tuple(VARIANTS), period=self.pace, rounds=self.rounds, changes=self.changes,
            drifting=True,
        )  # fmt: skip

    def measure(self, run: Run) -> None:
        run.measure(self.grid)

    def sections(self, results: Results) -> list[Table]:
        entries = [
            result
            for result in measured(results)
            if result.variant in VARIANTS and result.clients == 1
        ]
        if not entries:
            return []
        header = ("round trip, ms", "way", *(f"{name}, ms" for name in SHARES), "max, ms")
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
        return [Table(title, (*header, "seen", "coalesced"), rows, _about(entries))]


def _about(entries: Sequence[Result]) -> list[str]:
    pace = entries[0].pace
    distances = sorted({result.rtt_ms for result in entries})
    paragraphs = [
        f"As in the paper: a sensor with {1 / pace:g} readings a second, and the one-way latency "
        "of polling, long polling and WebSocket over several distances: the time from a change to "
        "the moment at which the client has the reading. What is ours: one client; polling that "
        "asks as often as the sensor speaks, in each turn at another moment between two readings; "
        "a program instead of a sensor; one clock; and the distances, "
        f"{listed([f'{rtt_ms:g}' for rtt_ms in distances])} ms for a round trip, made on one "
        "machine by a relay that holds back every byte for half of that. We have the design of the "
        "paper and not its tables, so no figure of it is quoted.",
    ]
    for rtt_ms in distances:
        here = {result.variant.transport: result for result in entries if result.rtt_ms == rtt_ms}
        if len(here) < len(VARIANTS):
            continue
        p50 = {name: quantile(result.notified_ms, 0.5) for name, result in here.items()}
        where = f"{rtt_ms:g} ms away" if rtt_ms else "Near the server"
        paragraphs.append(
            f"{where}, half of the readings are there {milliseconds(p50['websocket'])} ms after "
            f"the change or sooner over WebSocket, {milliseconds(p50['longpoll'])} ms with long "
            f"polling, {milliseconds(p50['poll'])} ms with polling. "
            + _skipped(here["websocket"], "WebSocket")
            + ", "
            + _skipped(here["longpoll"], "long polling")
            + ", "
            + _skipped(here["poll"], "polling")
            + "."
        )
    paragraphs.append(
        "A reading is coalesced when a newer one is there before the client could be told of it. "
        "Who asks is told at most once per round trip: where a round trip is longer than the "
        f"{1e3 * pace:g} ms between two readings, long polling and polling cannot see them all."
    )
    return paragraphs


def _skipped(result: Result, name: str) -> str:
    return f"{name} coalesced {result.coalesced} of {result.published}"
