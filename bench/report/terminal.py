"""What a comparison shows in the terminal: the table, and meanwhile how far it is."""

import time
from collections.abc import Callable
from types import TracebackType
from typing import NamedTuple

from rich.console import Console, Group, RenderableType
from rich.progress import BarColumn, ProgressColumn, Task, TextColumn
from rich.progress import Progress as Bar
from rich.table import Table
from rich.text import Text

from bench.report import formatting, tables
from bench.report.tables import Section, shown
from bench.results import Result, Results

#: As on the page; in the middle between its day and its night, to be read on either.
HUES = {"poll": "#8a93a5", "longpoll": "#cf8117", "sse": "#1fa878", "websocket": "#3a8fdd"}


class Column(NamedTuple):
    """A figure, and the words above it, which are short, since a terminal is narrow."""

    heading: str
    of: Callable[[Result], str]


def _ms(which: str, place: int) -> Callable[[Result], str]:
    def of(result: Result) -> str:
        spread = getattr(result, which)
        return _short(spread[place]) if spread else "–"

    return of


def _short(milliseconds: float) -> str:
    decimals = 0 if milliseconds >= 99.95 else 1 if milliseconds >= 9.995 else 2
    return f"{milliseconds:,.{decimals}f}"


def _kilobytes(result: Result) -> str:
    memory = result.memory_per_client
    return "–" if memory is None else formatting.significant(memory / 1e3)


#: Those that a sceptic asks for. All others are in the CSV and in the report.
COLUMNS = (
    Column("told\np50", _ms("notified_percentiles", 0)),
    Column("had\np50", _ms("received_percentiles", 0)),
    Column("\np95", _ms("received_percentiles", 1)),
    Column("ms\nmax", _ms("received_percentiles", 3)),
    Column("re-\nquests", lambda result: shown(result.requests_per_update)),
    Column("mes-\nsages", lambda result: shown(result.messages_per_update)),
    Column("bytes\nup", lambda result: shown(result.traffic.up / result.updates)),
    Column("\ndown", lambda result: shown(result.traffic.down / result.updates)),
    Column("+TCP/IP\nest.", lambda result: shown(result.bytes_with_headers_per_update)),
    Column("CPU\nµs", lambda result: shown(result.cpu_per_update)),
    Column("mem.\nkB", _kilobytes),
    Column("coa-\nlesced", lambda result: f"{result.coalesced:,}"),
    Column("\nlost", lambda result: f"{result.lost:,}"),
)


def table(results: Results) -> RenderableType:
    """Return a table for each group of cells that may be compared."""
    found = [_table(group) for group in tables.comparisons(results)]
    return Group(*found, Text(_LEGEND, style="dim")) if found else Text("Nothing was measured.")


_LEGEND = (
    "Per update and browser: ms from the change to being told, and to having the data; bytes as "
    "counted at the sockets, then with the headers of TCP and IP, estimated."
)


def _table(group: tables.Comparison) -> Table:
    busiest = max(result.worker_cpu for result in group.entries)
    periods = {result.period for result in group.entries if result.period is not None}
    title = group.title
    if len(periods) == 1:
        title += f", short polling every {max(periods):g} s"
    title += f"\n(the audience took at most {busiest:.0%} of a core)"
    found = Table(
        title=title, title_justify="left", title_style="bold", box=None, padding=(0, 1, 0, 0),
        pad_edge=False, header_style="dim",
    )  # fmt: skip
    found.add_column("\nway", no_wrap=True)
    # What nobody knows here takes no room.
    columns = [
        column for column in COLUMNS if any(column.of(result) != "–" for result in group.entries)
    ]
    for column in columns:
        found.add_column(column.heading, justify="right", no_wrap=True)
    for result in group.entries:
        name = result.title if len(periods) > 1 else result.variant.title
        variant = Text(name, style=HUES.get(result.transport, ""))
        found.add_row(variant, *(_emphasized(column, result) for column in columns))
    return found


def _emphasized(column: Column, result: Result) -> Text:
    bad = column.heading.endswith("lost") and result.lost > 0
    return Text(column.of(result), style="bold red" if bad else "")


def section(of: Section) -> RenderableType:
    """Return what a preset adds: its table, and its paragraphs below."""
    found = Table(title=of.title, title_justify="left", title_style="bold", box=None)
    for place, heading in enumerate(of.header):
        found.add_column(heading, justify="left" if place == 0 else "right")
    for row in of.rows:
        found.add_row(*map(Text, row))
    return Group(found, *(Text(paragraph) for paragraph in of.paragraphs), Text())


class _Left(ProgressColumn):
    """How long it still takes, as planned: the steps take as long as they are told to."""

    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        since = time.monotonic() - task.fields["since"]
        left = max(0.0, (task.total or 0) - task.completed - since)
        return Text(_left(left), style="dim")


class Progress:
    """What is being done now, how far it is, and the time left, for people; on stderr, say.

    Where the console is no terminal, a line for each step.
    """

    def __init__(self, total: float, console: Console) -> None:
        self.total = total  #: planned seconds
        self.done = 0.0
        self._console = console
        self._bar = Bar(
            BarColumn(24), _Left(), TextColumn("{task.description}", markup=False),
            console=console, transient=True,
        )  # fmt: skip
        self._task = self._bar.add_task("", total=total, since=time.monotonic())

    def __enter__(self) -> "Progress":
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._console.is_terminal:
            self._bar.stop()

    def say(self, what: str) -> None:
        """Tell what is being done from now on."""
        self._bar.update(self._task, description=what)
        if not self._console.is_terminal:
            left = _left(max(0.0, self.total - self.done))
            self._console.print(
                f"{left}: {what}", markup=False, highlight=False, soft_wrap=True, emoji=False
            )

    def advance(self, seconds: float) -> None:
        """Count so many of the planned seconds as done."""
        self.done += seconds
        self._bar.update(self._task, advance=seconds, since=time.monotonic())


def _left(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s left" if minutes else f"{rest} s left"
