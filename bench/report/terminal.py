"""What a comparison shows in the terminal: progress, then tables."""

from rich.console import Console, Group, RenderableType
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table as RichTable
from rich.text import Text

from bench.report import tables
from bench.report.tables import Table
from bench.results import Results
from pushlab.transports import TRANSPORTS

_LEGEND = (
    "Per update and browser: ms from the change to knowing of it, and to having the data; bytes as "
    "counted at the sockets, then with the headers of TCP and IP, estimated."
)


def figures(results: Results) -> RenderableType:
    """Return a table for each group of comparable results."""
    found = [table(tables.table(each, tables.TERMINAL)) for each in tables.comparisons(results)]
    return Group(*found, Text(_LEGEND, style="dim")) if found else Text("Nothing was measured.")


def table(of: Table) -> RenderableType:
    """Return any table as rich shows it, its notes below."""
    found = RichTable(
        title=of.title, title_justify="left", title_style="bold", header_style="dim",
        box=None, padding=(0, 1, 0, 0), pad_edge=False,
    )  # fmt: skip
    for place, heading in enumerate(of.header):
        found.add_column(heading, justify="right" if place else "left", no_wrap=bool(of.heads))
    transports = of.transports or [""] * len(of.rows)
    for (first, *others, last), transport in zip(of.rows, transports, strict=True):
        alarm = "bold red" if of.header[-1].endswith("lost") and last != "0" else ""
        first_cell = Text(first, style=_colour(transport))
        found.add_row(first_cell, *map(Text, others), Text(last, style=alarm))
    return Group(found, *(Text(note, style="dim") for note in of.notes), Text())


def _colour(transport: str) -> str:
    """Return a transport's colour for any background."""
    if transport not in TRANSPORTS:
        return ""
    light, dark = (bytes.fromhex(colour[1:]) for colour in TRANSPORTS[transport].colour)
    return "#" + bytes((one + other) // 2 for one, other in zip(light, dark, strict=True)).hex()


class Progress(Bar):
    """A progress bar with step and time left.

    Where the console is no terminal, it prints a line for each step instead.
    """

    def __init__(self, rounds: int, console: Console) -> None:
        super().__init__(
            BarColumn(24),
            TimeRemainingColumn(),
            TextColumn("{task.description}", markup=False),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self.add_task("", total=rounds or None)

    def say(self, what: str) -> None:
        """Show what is being done from now on."""
        self.update(self._task, description=what)
        if not self.console.is_terminal:
            self.console.out(what, highlight=False)

    def finish_round(self) -> None:
        """Count a round as done."""
        self.advance(self._task)
