"""The plots of a comparison: latency, bytes and CPU."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, NullFormatter

from bench.report import formatting
from bench.report.html import EDGE, MUTED, PAPER, TEXT, Plot
from bench.report.tables import Comparison, comparisons, headline
from bench.results import Result, Results
from bench.scenarios import FLASK, VARIANTS
from bench.statistics import median, quantile
from pushlab.transports import TRANSPORTS

#: What carries is drawn through, what only signals is dashed.
SOLID, DASHED = "-", (0, (4, 2))
POINTS = 150  #: of a line, at most

_STYLE: Any = {
    "font.family": "DejaVu Sans",  # comes with Matplotlib, so plots look alike everywhere
    "font.size": 11,
    "svg.fonttype": "none",
    "svg.hashsalt": "pushlab",
    "text.color": TEXT,
    "axes.labelcolor": TEXT,
    "axes.edgecolor": MUTED,
    "axes.facecolor": PAPER,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11.5,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": EDGE,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "figure.facecolor": PAPER,
    "hatch.linewidth": 0.8,
    "legend.frameon": False,
    "legend.fontsize": 10,
}


class _Drawn(NamedTuple):
    figure: Figure
    title: str
    caption: str
    alt: str


def draw(results: Results, folder: Path) -> list[Plot]:
    """Write every plot that the results have the data for, as PNG and SVG, into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    plots = []
    for name, drawer in DRAWERS.items():
        with rc_context(_STYLE):
            drawn = drawer(results)
            if drawn is None:
                continue
            png, svg = folder / f"{name}.png", folder / f"{name}.svg"
            FigureCanvasAgg(drawn.figure)
            drawn.figure.savefig(png, dpi=160, metadata={"Software": None})
            drawn.figure.savefig(svg, metadata={"Date": None})
        plots.append(Plot(name, drawn.title, drawn.caption, drawn.alt, png, svg))
    return plots


def _title(group: Comparison, results: Results) -> str:
    """Return where it is and with how many, and on which server if there are several."""
    several = len({result.server for result in results.entries}) > 1
    title = f"{formatting.away(group.rtt_ms)}, {formatting.clients(group.clients)}"
    return f"{title[0].upper()}{title[1:]}" + (f", {group.server}" if several else "")


def _in_order(entries: Sequence[Result]) -> list[Result]:
    """Return them as the ways are listed everywhere, only those of this first server."""
    order = {variant: place for place, variant in enumerate(VARIANTS)}
    return sorted(
        entries, key=lambda result: (order.get(result.variant, len(order)), result.period or 0)
    )


def _line(result: Result) -> dict[str, Any]:
    """Return how its lines look."""
    transport = TRANSPORTS[result.transport]
    by_flask = result.variant.has_choice and result.dispatch == FLASK
    return {
        "color": transport.colour.light,
        "linestyle": SOLID if result.carry else DASHED,
        "linewidth": 1.1 if by_flask else 2.2,
        "marker": transport.marker,
        "markersize": 4 if by_flask else 6,
        "markerfacecolor": transport.colour.light if result.carry else PAPER,
    }


def _legend(figure: Figure, entries: Sequence[Result]) -> None:
    """Name the ways below: a column for each transport, what signals above what carries."""
    variants = list(dict.fromkeys(result.variant for result in _in_order(entries)))
    first = {
        variant: next(result for result in entries if result.variant == variant)
        for variant in variants
    }
    handles = [Line2D([], [], **_line(first[variant])) for variant in variants]
    columns = min(len({variant.transport for variant in variants}), 2) if len(variants) > 2 else 1
    figure.legend(
        handles, [variant.title for variant in variants], loc="outside lower left", ncols=columns,
        handlelength=3.6, columnspacing=2.5,
    )  # fmt: skip


def _milliseconds(axes: Axes) -> None:
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _latency(results: Results) -> _Drawn | None:
    """From the change to having the data: which share of the updates was there when."""
    of_distance: dict[float, Comparison] = {}
    for group in comparisons(results):
        if not group.processing_time and any(result.received_ms for result in group.entries):
            known = of_distance.get(group.rtt_ms)
            # All distances with as many clients would be best; the default run has them at 100.
            if known is None or _fit(group, results) > _fit(known, results):
                of_distance[group.rtt_ms] = group
    if not of_distance:
        return None
    panels = [of_distance[rtt_ms] for rtt_ms in sorted(of_distance)]
    tall = 4.8 if len(panels) < 3 else 3.0
    figure = Figure(figsize=(6.8, 1.2 + tall * len(panels)), layout="constrained")
    every = figure.subplots(len(panels), squeeze=False)[:, 0]
    alt = []
    for axes, group in zip(every, panels, strict=True):
        entries = [result for result in _in_order(group.entries) if result.received_ms]
        for place, result in enumerate(entries):
            ordered = sorted(result.received_ms)
            count = min(POINTS, len(ordered))
            shares = [number / max(1, count - 1) for number in range(count)]
            # Markers of different lines at different heights, or those alike would hide them.
            start = (place + 1) * count // (len(entries) + 1)
            axes.plot(
                [quantile(ordered, q) for q in shares], [100 * s for s in shares],
                markevery=(start, count), **_line(result),
            )  # fmt: skip
        lows = [min(result.received_ms) for result in entries]
        highs = [max(result.received_ms) for result in entries]
        if max(highs) > 30 * max(min(lows), 0.01):
            axes.set_xscale("log")
            _milliseconds(axes)
        else:
            axes.set_xlim(0, max(highs) * 1.03)
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        axes.set_ylim(-2, 102)
        axes.set_yticks([0, 50, 100], ["0 %", "50 %", "100 %"])
        where = formatting.away(group.rtt_ms)
        axes.set_title(_title(group, results))
        alt.append(
            f"{where}: "
            + ", ".join(f"{c.title} {formatting.duration(median(c.received_ms))}" for c in entries)
        )
    every[-1].set_xlabel("milliseconds from the change to having the data")
    _legend(figure, [result for group in panels for result in group.entries])
    return _Drawn(
        figure,
        "How soon the data is there",
        "Of all updates, the share that a browser had so many milliseconds after the change. "
        "Farther left is sooner; upright is dependable. Drawn through: the news carries the "
        "data. Dashed: it only signals, and the browser fetches. Lines that lie on each other have "
        "their marks at different heights.",
        f"Medians from the change to having the data: {'; '.join(alt)}.",
    )


def _fit(group: Comparison, results: Results) -> tuple[bool, int, int]:
    """Return how well a group stands for its distance."""
    all_distances = {result.rtt_ms for result in results.entries if not result.processing_time}
    same = {result.rtt_ms for result in results.entries
            if result.clients == group.clients and not result.processing_time}  # fmt: skip
    return same == all_distances, len(group.entries), group.clients


def _bytes(results: Results) -> _Drawn | None:
    """What an update takes on the wire: up, down, and estimated headers."""
    group = headline(results)
    if group is None:
        return None
    entries = group.entries[::-1]  # the fewest bytes on top
    figure = Figure(figsize=(6.8, 1.5 + 0.5 * len(entries)), layout="constrained")
    axes = figure.subplots()
    widest = max(result.bytes_with_headers_per_update for result in entries) or 1.0
    for place, result in enumerate(entries):
        hue = TRANSPORTS[result.transport].colour.light
        up, down = result.traffic.up / result.updates, result.traffic.down / result.updates
        headers = result.bytes_with_headers_per_update - result.bytes_per_update
        axes.barh(place, up, 0.62, color=hue, edgecolor=PAPER)
        axes.barh(place, down, 0.62, left=up, color=hue, edgecolor=PAPER, alpha=0.6)
        axes.barh(place, headers, 0.62, left=up + down, facecolor="none", edgecolor=hue,
                  hatch="////", alpha=0.55, linewidth=0.8)  # fmt: skip
        axes.text(
            up + down + headers + widest * 0.012, place, f"{result.bytes_per_update:,.0f}",
            va="center", weight="bold", size=11.5,
        )  # fmt: skip
    axes.set_yticks(range(len(entries)), [result.title for result in entries])
    axes.tick_params(axis="y", length=0, labelcolor=TEXT)
    axes.set_xlim(0, widest * 1.13)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("bytes per update and browser")
    figure.legend(
        handles=[
            Patch(facecolor=MUTED, label="up"),
            Patch(facecolor=MUTED, alpha=0.6, label="down"),
            Patch(facecolor="none", edgecolor=MUTED, hatch="////", label="TCP/IP headers (est.)"),
        ],
        loc="outside lower right", ncols=3,
    )  # fmt: skip
    said = ", ".join(f"{result.title} {result.bytes_per_update:,.0f}" for result in group.entries)
    return _Drawn(
        figure,
        "What an update takes on the wire",
        "Bytes per update and browser, counted at the sockets, questions in vain included; the "
        "figure is up and down together. Hatched: the headers of TCP and IP, estimated. "
        f"{_title(group, results)}.",
        f"Bytes per update: {said}.",
    )


def _cpu(results: Results) -> _Drawn | None:
    """The server's CPU per update and client, as the clients become more."""
    found = [group for group in comparisons(results) if not group.processing_time]
    nearest = min((group.rtt_ms for group in found), default=0.0)
    entries = [result for group in found for result in group.entries
             if result.knows_cpu and group.rtt_ms == nearest and group.server == found[0].server
             and group.pace == found[0].pace]  # fmt: skip
    counts = sorted({result.clients for result in entries})
    if len(counts) < 2:
        return None
    server = found[0].server
    several = len({result.server for result in results.entries}) > 1
    figure = Figure(figsize=(6.8, 4.6), layout="constrained")
    axes = figure.subplots()
    if several:
        axes.set_title(server)
    lines = list(dict.fromkeys((result.variant, result.period) for result in _in_order(entries)))
    for place, line in enumerate(lines):
        own = sorted(
            (result for result in entries if (result.variant, result.period) == line),
            key=lambda c: c.clients,
        )
        # What is noise at few clients may come out below nothing; a logarithm has no place for it.
        costs = [max(result.cpu_per_update or 0, 0.1) for result in own]
        highs = [max(quantile(result.cpu_samples, 0.9), 0.1) for result in own]
        aside = 1.035 ** (place - (len(lines) - 1) / 2)  # or their whiskers would be one
        axes.errorbar(
            [result.clients * aside for result in own], costs,
            yerr=[[0.0] * len(own), [max(0, h - c) for c, h in zip(costs, highs, strict=True)]],
            elinewidth=1.2, capsize=2.5, **_line(own[0]),
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(counts, [f"{count:,}" for count in counts])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("browsers")
    axes.set_ylabel("µs of CPU per update and browser")
    _legend(figure, entries)
    most = [result for result in entries if result.clients == counts[-1]]
    said = ", ".join(f"{c.title} {formatting.cpu(c.cpu_per_update or 0)}" for c in _in_order(most))
    return _Drawn(
        figure,
        "What an update costs the server",
        "The tenth in a hundred turns, as what else a machine does only adds; the whiskers reach "
        "to the ninetieth. "
        "What publishing the change itself takes is left out. Both scales are logarithmic."
        + (f" Of several servers, this is {server}." if several else ""),
        f"The CPU of {server if several else 'the server'} per update and browser, with "
        f"{formatting.clients(counts[-1])}: {said}.",
    )


#: Every plot by its name, in the order in which the page has them; None where there is no data.
DRAWERS: dict[str, Callable[[Results], _Drawn | None]] = {
    "latency": _latency,
    "bytes": _bytes,
    "cpu": _cpu,
}
