"""A study: a published experiment, repeated."""

from collections.abc import Iterable, Mapping, Sequence

from bench.report.tables import Table
from bench.results import Result, Results
from bench.runner import Run
from bench.scenarios import Grid
from bench.statistics import PERCENTILES, quantile


class Study:
    """A published experiment, or another measurement of a run."""

    name: str  #: on the command line and in docs/results
    title: str  #: the authors, the title, where and when it was published

    @property
    def grids(self) -> Sequence[Grid]:
        """The scenarios and variants that are measured."""
        raise NotImplementedError

    @property
    def rounds(self) -> int:
        """Return the number of rounds; 0 if not known."""
        return sum(len(grid.scenarios) * grid.rounds for grid in self.grids)

    @property
    def descriptors(self) -> int:
        """How many files one process has to open."""
        return max(grid.descriptors for grid in self.grids)

    def measure(self, run: Run) -> None:
        """Make the experiment, into the run's results.

        Raises Failed if it cannot go on; what was measured by then is in the results.
        """
        for grid in self.grids:
            run.measure(grid)

    def tables(self, results: Results) -> list[Table]:
        """Return the tables of these results, computed from nothing else.

        Incomplete results have fewer rows; those of another experiment have no table.
        """
        return []

    def numbers(self, results: Results) -> dict[str, str]:
        """Return the figures of its page by name.

        The results must be complete.
        """
        return {}


def measured(results: Results) -> list[Result]:
    """Return the results that have samples."""
    return [result for result in results.entries if result.published and result.notified_ms]


def dispatched(entries: Iterable[Result]) -> str:
    """Say what dispatched the requests of each transport."""
    how = {result.title.partition(",")[0]: result.dispatch for result in entries}
    return f"Dispatch: {', '.join(f'{name} {value}' for name, value in how.items())}."


def latencies(
    samples: Sequence[float], shares: Mapping[str, float] = PERCENTILES
) -> dict[str, str]:
    """Return these quantiles in milliseconds, with tenths, by heading."""
    return {f"{name}, ms": f"{quantile(samples, q):,.1f}" for name, q in shares.items()}
