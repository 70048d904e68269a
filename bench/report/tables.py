"""The figures of every result, in tables and CSV."""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

from bench.report import formatting
from bench.results import Result, Results
from bench.scenarios import Variant
from bench.statistics import PERCENTILES, quantile

Value = str | int | float | None


class Comparison(NamedTuple):
    """Results that differ only in their variant."""

    server: str
    rtt_ms: float
    clients: int
    pace: float  #: seconds between two changes
    processing_time: float  #: seconds that a browser takes to show a reading
    entries: tuple[Result, ...]

    @property
    def by_variant(self) -> dict[Variant, Result]:
        return {result.variant: result for result in reversed(self.entries)}

    @property
    def title(self) -> str:
        """As in "serve.py, 200 ms away, 100 browsers"."""
        slow = f", {self.processing_time:g} s to show each" if self.processing_time else ""
        periods = {result.period for result in self.entries if result.period is not None}
        polls = f", polls every {max(periods):g} s" if len(periods) == 1 else ""
        where = f"{formatting.away(self.rtt_ms)}, {formatting.clients(self.clients)}"
        return f"{self.server}, {where}, a change every {self.pace:g} s{polls}{slow}"


def comparisons(results: Results) -> list[Comparison]:
    """Return the results by conditions, the fewest bytes first.

    Bytes are counted, not timed, so the order is the same in every run. Slow readers come last.
    """
    found: dict[tuple[str, float, int, float, float], list[Result]] = {}
    for one in results.entries:
        key = one.server, one.rtt_ms, one.clients, one.pace, one.processing_time
        found.setdefault(key, []).append(one)
    for entries in found.values():
        entries.sort(key=lambda result: (result.bytes_per_update, result.title))
    keys = sorted(found, key=lambda key: (key[4] > 0, *key))
    return [Comparison(*key, tuple(found[key])) for key in keys]


def headline(results: Results) -> Comparison | None:
    """Return the group of the farthest, then most browsers.

    A group with every transport and payload is preferred; slow readers are another question.
    """
    found = [group for group in comparisons(results) if not group.processing_time]
    kinds = [len({(r.transport, r.carry) for r in group.entries}) for group in found]
    full = [group for group, kind in zip(found, kinds, strict=True) if kind == max(kinds)]
    return max(full, key=lambda group: (group.rtt_ms, group.clients), default=None)


class Table(NamedTuple):
    """A table for the terminal, the report and the docs."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()  #: how to read it
    transports: Sequence[str] = ()  #: of each row, for its colour
    heads: Sequence[tuple[str, int]] = ()  #: words above the header, and above how many columns

    @classmethod
    def of(
        cls, title: str, rows: Sequence[Mapping[str, str]], notes: Sequence[str] = ()
    ) -> "Table":
        """Return a table of rows, each by heading."""
        return cls(title, list(rows[0]), [list(row.values()) for row in rows], notes)

    def as_rst(self) -> str:
        return as_rst([self.header, *self.rows])


class Column(NamedTuple):
    """A figure of a result."""

    name: str  #: in the CSV, with its unit
    of: Callable[[Result], Value]
    heading: str = ""  #: in the report; "" where it is not shown there
    head: str = ""  #: above this heading and its neighbours with the same
    slow: bool = False  #: only for slow readers, who see few of the changes


def _percentile(kind: str, head: str, name: str, q: float) -> Column:
    def of(result: Result) -> Value:
        samples: list[float] = getattr(result, f"{kind}_ms")
        return quantile(samples, q) if samples else None

    return Column(f"{kind}_{name}_ms", of, name, head)


def _cpu_per_second(result: Result) -> Value:
    known = result.knows_cpu and result.seconds  # publishing is included
    return sum(result.cpu) / result.seconds / result.clients if known else None


def _cpu(q: float) -> Callable[[Result], Value]:
    return lambda r: quantile(r.cpu_samples, q) if r.knows_cpu else None


_UPDATE, _BYTES, _CPU = "per update", "bytes per update", "CPU per update and browser, µs"
_BROWSER, _SECOND = "per browser", "per second and browser"
_WITH_HEADERS = "bytes_with_tcp_ip_headers_estimated_per_update"
#: What tells one result from another, then what was measured of it.
_COLUMNS = (
    Column("server", lambda r: r.server),
    Column("transport", lambda r: r.transport),
    Column("payload", lambda r: r.variant.payload),
    Column("dispatch", lambda r: r.dispatch, "dispatch"),
    Column("clients", lambda r: r.clients),
    Column("pace_s", lambda r: r.pace),
    Column("rtt_ms", lambda r: r.rtt_ms),
    Column("period_s", lambda r: r.period),
    Column("processing_time_s", lambda r: r.processing_time),
    *(_percentile("notified", "news after, ms", *share) for share in PERCENTILES.items()),
    *(_percentile("received", "data after, ms", *share) for share in PERCENTILES.items()),
    Column("requests_per_update", lambda r: r.traffic.requests / r.updates, "requests", _UPDATE),
    Column("messages_per_update", lambda r: r.traffic.messages / r.updates, "messages", _UPDATE),
    Column("bytes_up_per_update", lambda r: r.traffic.up / r.updates, "up", _BYTES),
    Column("bytes_down_per_update", lambda r: r.traffic.down / r.updates, "down", _BYTES),
    Column("bytes_per_update", lambda r: r.bytes_per_update, "both", _BYTES),
    Column(_WITH_HEADERS, lambda r: r.bytes_with_headers_per_update, "with TCP/IP (est.)", _BYTES),
    Column("cpu_p10_us_per_update_and_client", lambda r: r.cpu_per_update, "p10", _CPU),
    Column("cpu_p50_us_per_update_and_client", _cpu(0.5), "p50", _CPU),
    Column("cpu_p90_us_per_update_and_client", _cpu(0.9), "p90", _CPU),
    Column("memory_bytes_per_client", lambda r: r.memory_per_client, "memory, bytes", _BROWSER),
    Column(
        "connect_bytes_per_client",
        lambda r: r.connect_traffic.bytes / r.clients,
        "connecting, bytes",
        _BROWSER,
    ),
    Column("bytes_per_second_and_client", lambda r: r.bytes_per_second, "bytes", _SECOND, True),
    Column("cpu_us_per_second_and_client", _cpu_per_second, "CPU, µs", _SECOND, True),
    Column("requests", lambda r: r.traffic.requests, "requests", "in all"),
    Column("empty", lambda r: r.traffic.empty, "nothing new", "in all"),
    Column("messages", lambda r: r.traffic.messages),
    Column("published", lambda r: r.published, "published", "updates"),
    Column("seen", lambda r: r.seen, "seen", "updates"),
    Column("coalesced", lambda r: r.coalesced, "coalesced", "updates"),
    Column("queued", lambda r: r.queued, "queued", "updates", slow=True),
    Column("lost", lambda r: r.lost, "lost", "updates"),
    Column("worker_cpu_share", lambda r: r.worker_cpu, "browsers' CPU, cores", "measured"),
    Column("seconds", lambda r: r.seconds, "for, s", "measured"),
)
_BY_NAME = {column.name: column for column in _COLUMNS}
#: What a terminal has room for, and what the docs show, with the headings there.
_SHORT = {
    "dispatch": ("dis-\npatch", "dispatch"),
    "notified_p50_ms": ("news\np50", "news p50"),
    "received_p50_ms": ("data\np50", "data p50"),
    "received_p95_ms": ("\np95", "p95"),
    "received_p99_ms": ("", "p99"),
    "received_max_ms": ("ms\nmax", "max"),
    "requests_per_update": ("\nreqs", "requests"),
    "messages_per_update": ("\nmsgs", "messages"),
    "bytes_up_per_update": ("bytes\nup", ""),
    "bytes_down_per_update": ("\ndown", ""),
    "bytes_per_update": ("", "bytes"),
    _WITH_HEADERS: ("+TCP\n/IP", "with TCP/IP"),
    "cpu_p10_us_per_update_and_client": ("CPU\nµs", "CPU"),
    "memory_bytes_per_client": ("mem.\nbytes", "memory"),
    "coalesced": ("coal-\nesced", "coalesced"),
    "lost": ("\nlost", "lost"),
}
TERMINAL, DOCS = ({name: of[i] for name, of in _SHORT.items() if of[i]} for i in (0, 1))


def table(of: Comparison, headings: Mapping[str, str] | None = None) -> Table:
    """Return the figures of results, headings by column name.

    Without headings, all that the report shows. Columns without any value are left out.
    """
    shown_here = (one for one in _COLUMNS if of.processing_time or not one.slow)
    names = headings or {one.name: one.heading for one in shown_here}
    columns = [_BY_NAME[name] for name, heading in names.items() if heading]
    columns = [one for one in columns if any(one.of(result) is not None for result in of.entries)]
    several = len({result.period for result in of.entries} - {None}) > 1
    rows = []
    for result in of.entries:
        title = Variant(result.transport, result.carry).title
        every = f", every {result.period:g} s" if several and result.period else ""
        rows.append([title + every, *(shown(column.of(result)) for column in columns)])
    busiest = max(result.worker_cpu for result in of.entries)
    return Table(
        of.title,
        ["variant", *(names[column.name] for column in columns)],
        rows,
        notes=[f"The headless browsers took at most {busiest:.0%} of a core."],
        transports=[result.transport for result in of.entries],
        heads=[(words, len(list(few))) for words, few in groupby(columns, lambda one: one.head)],
    )


def shown(value: Value) -> str:
    """Return a figure as tables show it."""
    if value is None or isinstance(value, str):
        return value or "–"
    is_whole = value >= 100 or value == int(value)
    return f"{value:,.0f}" if is_whole else formatting.significant(value)


def as_rst(rows: Sequence[Sequence[str]]) -> str:
    """Return a reStructuredText table; its header is first."""
    widths = [max(1, *(len(row[i]) for row in rows)) for i in range(len(rows[0]))]
    rule = "  ".join("=" * width for width in widths)
    lines = []
    for first, *others in rows:
        cells = [text.rjust(width) for text, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join([(first or "\\").ljust(widths[0]), *cells]).rstrip())
    return "\n".join([rule, lines[0], rule, *lines[1:], rule])


def as_csv(results: Results) -> str:
    """Return a row per result, with units in the header."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_BY_NAME)
    for group in comparisons(results):
        for result in group.entries:
            writer.writerow(_plain(column.of(result)) for column in _BY_NAME.values())
    return text.getvalue()


def _plain(value: Value) -> Value:
    return f"{value:.3f}".rstrip("0").rstrip(".") if isinstance(value, float) else value
