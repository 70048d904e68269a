"""The figures of every cell: which there are, in what order, which show most, and as CSV."""

import csv
import io
from collections.abc import Callable, Sequence
from typing import NamedTuple

from bench.report import formatting
from bench.results import Cell, Results
from bench.statistics import Percentiles, quantile

Value = str | int | float | None


class Comparison(NamedTuple):
    """Cells that differ only in their way: what may be compared."""

    server: str
    distance: float  #: milliseconds of a round trip
    clients: int
    pace: float  #: seconds between two changes
    handling: float  #: seconds that a client takes for each piece of news
    cells: tuple[Cell, ...]

    @property
    def title(self) -> str:
        """As in "gevent, 200 ms away, 100 browsers, a change every 0.5 s"."""
        where = (
            f"{self.server}, {formatting.away(self.distance)}, {formatting.clients(self.clients)}"
        )
        slow = f", {self.handling:g} s to handle each" if self.handling else ""
        return f"{self.server}, {where}, a change every {self.pace:g} s{slow}"


def comparisons(results: Results) -> list[Comparison]:
    """Return the cells, by what they share; those that took the fewest bytes come first.

    Bytes are counted, not timed, so that the order is the same in every run.
    """
    found: dict[tuple[str, float, int, float, float], list[Cell]] = {}
    for cell in results.cells:
        key = cell.server, cell.distance, cell.clients, cell.pace, cell.handling
        found.setdefault(key, []).append(cell)
    return [  # slow readers last: theirs is another question
        Comparison(*key, tuple(sorted(cells, key=lambda cell: (cell.bytes_per_update, cell.title))))
        for key, cells in sorted(found.items(), key=lambda item: (item[0][4] > 0, *item[0]))
    ]


def headline(results: Results) -> Comparison | None:
    """Return the cells that show most: the farthest ones, of these the most clients.

    All ways are to be among them, if there is such a group; slow readers are another question.
    """
    found = [group for group in comparisons(results) if not group.handling]
    most = max((len({cell.way for cell in group.cells}) for group in found), default=0)
    full = [group for group in found if len({cell.way for cell in group.cells}) == most]
    return max(full, key=lambda group: (group.distance, group.clients), default=None)


class Section(NamedTuple):
    """What a preset adds to the tables of all cells: paragraphs, and a table if it has rows."""

    title: str
    paragraphs: Sequence[str] = ()
    header: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()


class Column(NamedTuple):
    """A figure of a cell."""

    name: str  #: in the CSV, with its unit
    of: Callable[[Cell], Value]
    heading: str = ""  #: for people; "" where it is not shown to them
    head: str = ""  #: above this and its neighbours with the same
    slow: bool = False  #: it is for slow readers, who see few of the changes


def _of_spread(which: str, place: int) -> Callable[[Cell], Value]:
    def of(cell: Cell) -> Value:
        spread: Percentiles | None = getattr(cell, which)
        return spread[place] if spread else None

    return of


def _cpu_quantile(share: float) -> Callable[[Cell], Value]:
    return lambda cell: quantile(cell.cpu_samples, share) if cell.knows_cpu else None


def _opening(cell: Cell) -> Value:
    return cell.opening.bytes / cell.clients


_SHARES = ("p50", "p95", "p99", "max")

#: What tells one cell from another.
WHICH = (
    Column("server", lambda cell: cell.server),
    Column("transport", lambda cell: cell.transport),
    Column("payload", lambda cell: cell.way.payload),
    Column("clients", lambda cell: cell.clients),
    Column("pace_s", lambda cell: cell.pace),
    Column("distance_ms", lambda cell: cell.distance),
    Column("period_s", lambda cell: cell.period),
    Column("handling_s", lambda cell: cell.handling),
)
#: What was found out about it.
FIGURES = (
    *(Column(f"known_{share}_ms", _of_spread("known_spread", place), share, "known after, ms")
      for place, share in enumerate(_SHARES)),
    *(Column(f"had_{share}_ms", _of_spread("had_spread", place), share, "had after, ms")
      for place, share in enumerate(_SHARES)),
    Column("requests_per_update", lambda cell: cell.requests_per_update, "requests", "per update"),
    Column("messages_per_update", lambda cell: cell.messages_per_update, "messages", "per update"),
    Column("bytes_up_per_update", lambda cell: cell.bill.up / cell.updates,
           "up", "bytes per update"),
    Column("bytes_down_per_update", lambda cell: cell.bill.down / cell.updates,
           "down", "bytes per update"),
    Column("bytes_per_update", lambda cell: cell.bytes_per_update, "both", "bytes per update"),
    Column("bytes_with_tcp_ip_headers_estimated_per_update",
           lambda cell: cell.bytes_with_headers_per_update, "with TCP/IP (est.)",
           "bytes per update"),
    Column("cpu_p10_us_per_update_and_client", lambda cell: cell.cpu_per_update,
           "p10", "CPU per update and browser, µs"),
    Column("cpu_p50_us_per_update_and_client", _cpu_quantile(0.5),
           "p50", "CPU per update and browser, µs"),
    Column("cpu_p90_us_per_update_and_client", _cpu_quantile(0.9),
           "p90", "CPU per update and browser, µs"),
    Column("memory_bytes_per_client", lambda cell: cell.memory_per_client,
           "memory, bytes", "per browser"),
    Column("opening_bytes_per_client", _opening, "opening, bytes", "per browser"),
    Column("bytes_per_second_and_client", lambda cell: cell.bytes_per_second,
           "bytes", "per second and browser", slow=True),
    Column("cpu_us_per_second_and_client", lambda cell: cell.cpu_per_second,
           "CPU, µs", "per second and browser", slow=True),
    Column("requests", lambda cell: cell.bill.requests, "requests", "in all"),
    Column("empty", lambda cell: cell.bill.empty, "in vain", "in all"),
    Column("messages", lambda cell: cell.bill.messages),
    Column("published", lambda cell: cell.published, "published", "updates"),
    Column("seen", lambda cell: cell.seen, "seen", "updates"),
    Column("coalesced", lambda cell: cell.coalesced, "coalesced", "updates"),
    Column("waiting", lambda cell: cell.waiting, "waiting", "updates", slow=True),
    Column("lost", lambda cell: cell.lost, "lost", "updates"),
    Column("audience_cpu_share", lambda cell: cell.audience_cpu,
           "audience's CPU, cores", "measured"),
    Column("seconds", lambda cell: cell.seconds, "for, s", "measured"),
)  # fmt: skip


def shown(value: Value) -> str:
    """Return a figure as tables show it: whole numbers whole, others with three digits."""
    if value is None:
        return "–"
    if isinstance(value, float) and not (value >= 100 or value == int(value)):
        return formatting.significant(value)
    return value if isinstance(value, str) else f"{value:,.0f}"


def as_csv(results: Results) -> str:
    """Return a row per cell, with units in the names of the columns."""
    columns = (*WHICH, *FIGURES)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(column.name for column in columns)
    for group in comparisons(results):
        for cell in group.cells:
            writer.writerow(_plain(column.of(cell)) for column in columns)
    return text.getvalue()


def _plain(value: Value) -> str | int:
    if isinstance(value, float):
        return f"{value:.3f}".rstrip("0").rstrip(".")
    return "" if value is None else value
