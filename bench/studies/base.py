"""What a paper is here: an experiment to be repeated, and its results beside the original's."""

from collections.abc import Sequence
from typing import Protocol

from bench.report.tables import Table
from bench.results import Result, Results
from bench.runner import Run
from bench.scenarios import Grid

__all__ = ["GridStudy", "Study", "listed", "measured", "milliseconds"]


class Study(Protocol):
    """Somebody else's experiment, which can be made here and now."""

    @property
    def name(self) -> str:
        """What the command line calls it."""

    @property
    def title(self) -> str:
        """Its authors, its title, and where and when it was published."""

    @property
    def seconds(self) -> float:
        """About how long it takes."""

    @property
    def descriptors(self) -> int:
        """How many files one process has to open."""

    def measure(self, run: Run) -> None:
        """Make the experiment: it is found in the run's results.

        Raises Failed if it cannot go on; what was measured by then is in the results.
        """

    def sections(self, results: Results) -> list[Table]:
        """Return what is to be said about these results, computed from nothing else.

        Results that are incomplete have fewer rows; those of another experiment have no section.
        """


class GridStudy:
    """A paper whose experiment is a grid, from which follow its time and what it needs."""

    @property
    def grid(self) -> Grid:
        """What is measured."""
        raise NotImplementedError

    @property
    def seconds(self) -> float:
        servers = {scenario.server for scenario in self.grid.scenarios}
        return self.grid.seconds + Run.preparing_seconds(len(servers), len(self.grid.variants))

    @property
    def descriptors(self) -> int:
        return self.grid.descriptors


def measured(results: Results) -> list[Result]:
    """Return the cells in which there is something: a run may have ended before others."""
    return [result for result in results.entries if result.published and result.notified_ms]


def milliseconds(value: float) -> str:
    """Return so many milliseconds in figures, with tenths."""
    return f"{value:,.1f}"


def listed(parts: Sequence[str]) -> str:
    """Return these as people list them: "a, b and c"."""
    *first, last = parts
    return f"{', '.join(first)} and {last}" if first else last
