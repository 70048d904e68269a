"""A study: a published experiment, repeated, its results beside the original's."""

from collections.abc import Sequence
from typing import Protocol

from bench.report.tables import Table
from bench.results import Result, Results
from bench.runner import Run
from bench.scenarios import Grid


class Study(Protocol):
    """A published experiment that can be repeated here."""

    name: str  #: on the command line and in docs/results
    title: str  #: the authors, the title, where and when it was published

    @property
    def seconds(self) -> float:
        """About how long it takes."""

    @property
    def descriptors(self) -> int:
        """How many files one process has to open."""

    def measure(self, run: Run) -> None:
        """Make the experiment, into the run's results.

        Raises Failed if it cannot go on; what was measured by then is in the results.
        """

    def tables(self, results: Results) -> list[Table]:
        """Return the tables of these results, computed from nothing else.

        Incomplete results have fewer rows; those of another experiment have no table.
        """

    def numbers(self, results: Results) -> dict[str, str]:
        """Return what its page in docs/results says in figures, by names that start with its own.

        The results must be complete.
        """


class GridStudy:
    """A study whose experiment is a grid, which tells its time and what it needs."""

    @property
    def grid(self) -> Grid:
        """The scenarios and variants that are measured."""
        raise NotImplementedError

    @property
    def seconds(self) -> float:
        servers = {scenario.server for scenario in self.grid.scenarios}
        return self.grid.seconds + Run.preparing_seconds(len(servers), len(self.grid.variants))

    @property
    def descriptors(self) -> int:
        return self.grid.descriptors


def measured(results: Results) -> list[Result]:
    """Return the results that have samples: a run may have ended before others."""
    return [result for result in results.entries if result.published and result.notified_ms]


def dispatched(entries: Sequence[Result]) -> str:
    """Say what dispatched the requests of each transport."""
    how = {result.title.partition(",")[0]: result.dispatch for result in entries}
    return f"Dispatch: {', '.join(f'{name} {value}' for name, value in how.items())}."


def milliseconds(value: float) -> str:
    """Return milliseconds with tenths."""
    return f"{value:,.1f}"
