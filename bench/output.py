"""Everything that a comparison leaves, written into one folder."""

from collections.abc import Sequence
from pathlib import Path

from bench.report import html, tables
from bench.report.tables import Table
from bench.results import Results


def write(
    results: Results, folder: Path, added: Sequence[Table] = (), *, title: str = ""
) -> list[Path]:
    """Write results.json, results.csv, the plots and report.html; return where they are.

    The raw samples come first: whatever fails then, they are kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []

    def keep(name: str, text: str) -> None:
        path = folder / name
        path.write_text(text, encoding="utf-8")
        written.append(path)

    keep("results.json", results.as_json())
    keep("results.csv", tables.as_csv(results))
    # Matplotlib takes seconds to import, and says on stderr what it does not like about its own
    # files: who only mistypes an option has nothing to do with it.
    from bench.report import plots

    drawn = plots.draw(results, folder / "plots")
    written += [path for plot in drawn for path in (plot.png, plot.svg)]
    keep("report.html", html.page(results, drawn, added, title=title))
    return written
