"""The files of a comparison, for users and the docs."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from bench.report import html, tables
from bench.report.tables import Table
from bench.results import PUBLISHED, Results


def write(
    results: Results, folder: Path, added: Sequence[Table] = (), *, title: str = ""
) -> list[Path]:
    """Write results.json, results.csv, the plots and report.html; return their paths.

    The raw samples come first, so that they are kept whatever fails afterwards.
    """
    folder.mkdir(parents=True, exist_ok=True)
    texts = {"results.json": results.as_json(), "results.csv": tables.as_csv(results)}
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    # Matplotlib takes seconds to import, and may print warnings about its own files: not for a user
    # whose mistake is an option.
    from bench.report import plots

    drawn = plots.draw(results, folder / "plots")
    page = folder / "report.html"
    page.write_text(html.page(results, drawn, added, title=title), encoding="utf-8")
    drawings = (plot.svg.with_suffix(kind) for plot in drawn for kind in (".png", ".svg"))
    return [*map(folder.joinpath, texts), page, *drawings]


def publish(results: Results, name: str, written: Sequence[Path]) -> None:
    """Copy raw results and plots into the docs."""
    (PUBLISHED / f"{name}.json").write_text(results.as_json())
    if name == "compare":
        (PUBLISHED / name).mkdir(exist_ok=True)
        for plot in written:
            if plot.suffix == ".svg":
                shutil.copy(plot, PUBLISHED / name)
