"""The report of a comparison: one self-contained HTML page."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from bench.environment import DESCRIBED, described
from bench.report import findings, tables
from bench.report.tables import Table
from bench.results import PACKET_HEADER, SEGMENT, Results
from pushlab.transports import TRANSPORTS

_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=StrictUndefined,
)

#: Colours of the plots beside those of the transports.
TEXT, MUTED, EDGE, PAPER = "#1b2333", "#596274", "#dedcd5", "#ffffff"
#: What replaces a plot's colours on the page, so that they follow the reader's light or dark theme.
_VARIABLES = {
    **{each.colour.light: f"var(--{each.name})" for each in TRANSPORTS.values()},
    TEXT: "var(--text)",
    MUTED: "var(--muted)",
    EDGE: "var(--edge)",
    PAPER: "var(--card)",
}


class Plot(NamedTuple):
    """A plot, and what it shows."""

    figure: Any  #: matplotlib's
    title: str
    caption: str  #: how to read it
    alt: str  #: its content in words, for readers who do not see it
    svg: Path = Path()  #: the file, once it is drawn; beside it is a PNG


def page(
    results: Results, plots: Sequence[Plot], added: Sequence[Table] = (), *, title: str = ""
) -> str:
    """Return the page with the plots in it.

    `added` are the tables of a study, whose `title` is then the page's: they come first.
    """
    found = [(tables.table(each), each.processing_time) for each in tables.comparisons(results)]
    names = {result.transport for result in results.entries}
    alarms, sentences = findings.alarms(results), findings.sentences(results)
    about = dict(results.about)
    if about:
        known = zip(("Machine", "Versions"), described(about).splitlines(), strict=True)
        about = dict(known) | {name: about[name] for name in about if name not in DESCRIBED}
    return _TEMPLATES.get_template("report.html").render(
        title=title,
        results=results,
        alarms=alarms,
        sentences=sentences[len(alarms) :],
        plots=[(plot, _inlined(plot)) for plot in plots],
        tables=[table for table, is_slow in found if not is_slow],
        slow_tables=[table for table, is_slow in found if is_slow],
        added=added,
        transports=TRANSPORTS.values(),
        measured=[one.title for one in TRANSPORTS.values() if one.name in names],
        facts=[(name, _shown(value)) for name, value in (about | results.options).items()],
        packet_header=PACKET_HEADER,
        segment=SEGMENT,
        same=findings,
    )


def _shown(value: Any) -> str:
    """Return an option's value for a reader."""
    if isinstance(value, list | tuple):
        value = ", ".join(map(str, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "–" if value in (None, "") else str(value)


def _inlined(plot: Plot) -> Markup:
    """Return the SVG with the page's colours and own ids."""
    svg = plot.svg.read_text(encoding="utf-8")
    svg = svg[svg.index("<svg") :]
    # Metadata, and a rule for lines that the page has.
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    for colour, variable in _VARIABLES.items():
        svg = re.sub(f"{colour}\\b", variable, svg, flags=re.IGNORECASE)
    svg = svg.replace("'DejaVu Sans'", "system-ui, sans-serif")
    # Several plots on one page must not share ids.
    name = plot.svg.stem
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    opening = f'<svg role="img" class="{name}" aria-labelledby="{name}-title {name}-desc"'
    titles = (
        f'<title id="{name}-title">{escape(plot.title)}</title>\n'
        f'<desc id="{name}-desc">{escape(plot.alt)}</desc>'
    )
    svg = svg.replace("<svg", opening, 1).replace(">", f">{titles}", 1)
    return Markup(svg.strip())  # noqa: S704 - our own drawing; what it says is escaped
