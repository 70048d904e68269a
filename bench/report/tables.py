"""The figures of every cell: which there are, in what order, which show most, and as CSV."""

import csv
import io
from collections.abc import Callable, Sequence
from typing import NamedTuple

from bench.report import formatting
from bench.results import Result, Results
from bench.statistics import Percentiles, quantile

Value = str | int | float | None


class Comparison(NamedTuple):
    """Cells that differ only in their way: what may be compared."""

    server: str
    rtt_ms: float  #: milliseconds of a round trip
    clients: int
    pace: float  #: seconds between two changes
    processing_time: float  #: seconds that a client takes for each piece of news
    entries: tuple[Result, ...]

    @property
    def title(self) -> str:
        """As in "gevent, 200 ms away, 100 browsers, a change every 0.5 s"."""
        where = f"{self.server}, {formatting.away(self.rtt_ms)}, {formatting.clients(self.clients)}"
        slow = f", {self.processing_time:g} s to handle each" if self.processing_time else ""
        return f"{self.server}, {where}, a change every {self.pace:g} s{slow}"


def comparisons(results: Results) -> list[Comparison]:
    """Return the cells, by what they share; those that took the fewest bytes come first.

    Bytes are counted, not timed, so that the order is the same in every run.
    """
    found: dict[tuple[str, float, int, float, float], list[Result]] = {}
    for result in results.entries:
        key = result.server, result.rtt_ms, result.clients, result.pace, result.processing_time
        found.setdefault(key, []).append(result)
    return [  # slow readers last: theirs is another question
        Comparison(
            *key, tuple(sorted(entries, key=lambda result: (result.bytes_per_update, result.title)))
        )
        for key, entries in sorted(found.items(), key=lambda item: (item[0][4] > 0, *item[0]))
    ]


def headline(results: Results) -> Comparison | None:
    """Return the cells that show most: the farthest ones, of these the most clients.

    All ways are to be among them, if there is such a group; slow readers are another question.
    """
    found = [group for group in comparisons(results) if not group.processing_time]
    kinds = [len({(r.transport, r.carry) for r in group.entries}) for group in found]
    full = [group for group, kind in zip(found, kinds, strict=True) if kind == max(kinds)]
    return max(full, key=lambda group: (group.rtt_ms, group.clients), default=None)


class Section(NamedTuple):
    """What a preset adds to the tables of all cells: paragraphs, and a table if it has rows."""

    title: str
    paragraphs: Sequence[str] = ()
    header: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()


class Column(NamedTuple):
    """A figure of a cell."""

    name: str  #: in the CSV, with its unit
    of: Callable[[Result], Value]
    heading: str = ""  #: for people; "" where it is not shown to them
    head: str = ""  #: above this and its neighbours with the same
    slow: bool = False  #: it is for slow readers, who see few of the changes


def _of_spread(which: str, place: int) -> Callable[[Result], Value]:
    def of(result: Result) -> Value:
        spread: Percentiles | None = getattr(result, which)
        return spread[place] if spread else None

    return of


def _cpu_quantile(q: float) -> Callable[[Result], Value]:
    return lambda result: quantile(result.cpu_samples, q) if result.knows_cpu else None


def _opening(result: Result) -> Value:
    return result.connect_traffic.bytes / result.clients


_SHARES = ("p50", "p95", "p99", "max")

#: What tells one cell from another.
WHICH = (
    Column("server", lambda result: result.server),
    Column("transport", lambda result: result.transport),
    Column("payload", lambda result: result.variant.payload),
    Column("dispatch", lambda result: result.dispatch),
    Column("clients", lambda result: result.clients),
    Column("pace_s", lambda result: result.pace),
    Column("distance_ms", lambda result: result.rtt_ms),
    Column("period_s", lambda result: result.period),
    Column("handling_s", lambda result: result.processing_time),
)
#: What was found out about it.
FIGURES = (
    *(Column(f"known_{q}_ms", _of_spread("notified_percentiles", place), q, "known after, ms")
      for place, q in enumerate(_SHARES)),
    *(Column(f"had_{q}_ms", _of_spread("received_percentiles", place), q, "had after, ms")
      for place, q in enumerate(_SHARES)),
    Column("requests_per_update", lambda result: result.requests_per_update,
           "requests", "per update"),
    Column("messages_per_update", lambda result: result.messages_per_update,
           "messages", "per update"),
    Column("bytes_up_per_update", lambda result: result.traffic.up / result.updates,
           "up", "bytes per update"),
    Column("bytes_down_per_update", lambda result: result.traffic.down / result.updates,
           "down", "bytes per update"),
    Column("bytes_per_update", lambda result: result.bytes_per_update, "both", "bytes per update"),
    Column("bytes_with_tcp_ip_headers_estimated_per_update",
           lambda result: result.bytes_with_headers_per_update, "with TCP/IP (est.)",
           "bytes per update"),
    Column("cpu_p10_us_per_update_and_client", lambda result: result.cpu_per_update,
           "p10", "CPU per update and browser, µs"),
    Column("cpu_p50_us_per_update_and_client", _cpu_quantile(0.5),
           "p50", "CPU per update and browser, µs"),
    Column("cpu_p90_us_per_update_and_client", _cpu_quantile(0.9),
           "p90", "CPU per update and browser, µs"),
    Column("memory_bytes_per_client", lambda result: result.memory_per_client,
           "memory, bytes", "per browser"),
    Column("opening_bytes_per_client", _opening, "opening, bytes", "per browser"),
    Column("bytes_per_second_and_client", lambda result: result.bytes_per_second,
           "bytes", "per second and browser", slow=True),
    Column("cpu_us_per_second_and_client", lambda result: result.cpu_per_second,
           "CPU, µs", "per second and browser", slow=True),
    Column("requests", lambda result: result.traffic.requests, "requests", "in all"),
    Column("empty", lambda result: result.traffic.empty, "in vain", "in all"),
    Column("messages", lambda result: result.traffic.messages),
    Column("published", lambda result: result.published, "published", "updates"),
    Column("seen", lambda result: result.seen, "seen", "updates"),
    Column("coalesced", lambda result: result.coalesced, "coalesced", "updates"),
    Column("waiting", lambda result: result.queued, "waiting", "updates", slow=True),
    Column("lost", lambda result: result.lost, "lost", "updates"),
    Column("audience_cpu_share", lambda result: result.worker_cpu,
           "audience's CPU, cores", "measured"),
    Column("seconds", lambda result: result.seconds, "for, s", "measured"),
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
        for result in group.entries:
            writer.writerow(_plain(column.of(result)) for column in columns)
    return text.getvalue()


def _plain(value: Value) -> str | int:
    if isinstance(value, float):
        return f"{value:.3f}".rstrip("0").rstrip(".")
    return "" if value is None else value
