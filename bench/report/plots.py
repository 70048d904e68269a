"""The plots of a comparison: latency, bytes and CPU."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib import rc_context
from matplotlib.axis import Axis
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

#: A solid line for a payload that carries, a dashed one for a signal.
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
    """Write each plot for which there is data into a folder, as PNG and SVG."""
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
    """Return distance and browsers, and the server if there are several."""
    several = len({result.server for result in results.entries}) > 1
    where = f"{formatting.away(group.rtt_ms)}, {formatting.clients(group.clients)}"
    return where.capitalize() + (f", {group.server}" if several else "")


def _in_order(entries: Sequence[Result]) -> list[Result]:
    """Return results in the registry's order of transports, Flask's dispatch last."""
    order = {variant: place for place, variant in enumerate(VARIANTS)}
    return sorted(entries, key=lambda one: (order.get(one.variant, len(order)), one.period or 0))


def _line(result: Result) -> dict[str, Any]:
    """Return the style of its line."""
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
    """Name the variants below the plot: a column per transport."""
    first = {result.variant: result for result in reversed(_in_order(entries))}
    variants = list(reversed(first))
    columns = min(len({variant.transport for variant in variants}), 2) if len(variants) > 2 else 1
    figure.legend(
        [Line2D([], [], **_line(first[variant])) for variant in variants],
        [variant.title for variant in variants],
        loc="outside lower left",
        ncols=columns,
        handlelength=3.6,
        columnspacing=2.5,
    )


def _plain_numbers(axis: Axis) -> None:
    """Label ticks as 1,000 instead of 10^3, also on a logarithmic scale."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axis.set_minor_formatter(NullFormatter())


def _latency(results: Results) -> _Drawn | None:
    """Draw the share of updates that had arrived, by time since the change."""
    head = headline(results)
    panels = [
        group
        for group in comparisons(results)
        if head
        and (group.server, group.clients, group.pace) == (head.server, head.clients, head.pace)
        and not group.processing_time
        and any(result.received_ms for result in group.entries)
    ]
    if not panels:
        return None
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
                [quantile(ordered, q) for q in shares],
                [100 * s for s in shares],
                markevery=(start, count),
                **_line(result),
            )
        lows = [min(result.received_ms) for result in entries]
        highs = [max(result.received_ms) for result in entries]
        if max(highs) > 30 * max(min(lows), 0.01):
            axes.set_xscale("log")
        else:
            axes.set_xlim(0, max(highs) * 1.03)
        _plain_numbers(axes.xaxis)
        axes.set_ylim(-2, 102)
        axes.set_yticks([0, 50, 100], ["0 %", "50 %", "100 %"])
        axes.set_title(_title(group, results))
        medians = [f"{r.title} {formatting.duration(median(r.received_ms))}" for r in entries]
        alt.append(f"{formatting.away(group.rtt_ms)}: {', '.join(medians)}")
    every[-1].set_xlabel("milliseconds from the change to having the data")
    _legend(figure, [result for group in panels for result in group.entries])
    return _Drawn(
        figure,
        "How soon the data is there",
        "The share of the updates that had arrived, by milliseconds since the change. Farther left "
        "is sooner; a steep line is dependable. Solid lines carry the data; dashed lines signal, "
        "and the browser fetches it. Markers are at different heights, because lines may overlap.",
        f"Medians from the change to having the data: {'; '.join(alt)}.",
    )


def _bytes(results: Results) -> _Drawn | None:
    """Draw the bytes of an update: up, down, and estimated TCP/IP headers."""
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
        axes.barh(
            place,
            headers,
            0.62,
            left=up + down,
            facecolor="none",
            edgecolor=hue,
            hatch="////",
            alpha=0.55,
            linewidth=0.8,
        )
        axes.text(
            up + down + headers + widest * 0.012,
            place,
            f"{result.bytes_per_update:,.0f}",
            va="center",
            weight="bold",
            size=11.5,
        )
    axes.set_yticks(range(len(entries)), [result.title for result in entries])
    axes.tick_params(axis="y", length=0, labelcolor=TEXT)
    axes.set_xlim(0, widest * 1.13)
    _plain_numbers(axes.xaxis)
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("bytes per update and browser")
    figure.legend(
        handles=[
            Patch(facecolor=MUTED, label="up"),
            Patch(facecolor=MUTED, alpha=0.6, label="down"),
            Patch(facecolor="none", edgecolor=MUTED, hatch="////", label="TCP/IP headers (est.)"),
        ],
        loc="outside lower right",
        ncols=3,
    )
    said = ", ".join(f"{result.title} {result.bytes_per_update:,.0f}" for result in group.entries)
    return _Drawn(
        figure,
        "What an update takes on the wire",
        "Bytes per update and browser, counted at the sockets, with the polls that found nothing "
        "new. The figure is up and down together. Hatched: the headers of TCP and IP, estimated. "
        f"{_title(group, results)}.",
        f"Bytes per update: {said}.",
    )


def _cpu(results: Results) -> _Drawn | None:
    """Draw the server's CPU per update and browser, by the number of browsers."""
    found = [group for group in comparisons(results) if not group.processing_time]
    nearest = min((group.rtt_ms for group in found), default=0.0)
    entries = [
        result
        for group in found
        for result in group.entries
        if result.knows_cpu
        and group.rtt_ms == nearest
        and group.server == found[0].server
        and group.pace == found[0].pace
    ]
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
        # With few browsers, noise may be below 0; a logarithmic scale has no place for it.
        costs = [max(result.cpu_per_update or 0, 0.1) for result in own]
        highs = [max(quantile(result.cpu_samples, 0.9), 0.1) for result in own]
        aside = 1.035 ** (place - (len(lines) - 1) / 2)  # or the whiskers would overlap
        axes.errorbar(
            [result.clients * aside for result in own],
            costs,
            yerr=[[0.0] * len(own), [max(0, h - c) for c, h in zip(costs, highs, strict=True)]],
            elinewidth=1.2,
            capsize=2.5,
            **_line(own[0]),
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(counts, [f"{count:,}" for count in counts])
    axes.xaxis.set_minor_formatter(NullFormatter())
    _plain_numbers(axes.yaxis)
    axes.set_xlabel("browsers")
    axes.set_ylabel("µs of CPU per update and browser")
    _legend(figure, entries)
    most = [result for result in entries if result.clients == counts[-1]]
    said = ", ".join(f"{c.title} {formatting.cpu(c.cpu_per_update or 0)}" for c in _in_order(most))
    return _Drawn(
        figure,
        "What an update costs the server",
        "The 10th percentile of the rounds, as other load on the machine can only increase it; "
        "whiskers reach to the 90th. Publishing the change itself is not included. Both scales are "
        "logarithmic. Requests are dispatched in front of Flask; thin lines: by Flask."
        + (f" Of several servers, this is {server}." if several else ""),
        f"The CPU of {server if several else 'the server'} per update and browser, with "
        f"{formatting.clients(counts[-1])}: {said}.",
    )


#: Every plot by its name, in the order of the report; None where there is no data.
DRAWERS: dict[str, Callable[[Results], _Drawn | None]] = {
    "latency": _latency,
    "bytes": _bytes,
    "cpu": _cpu,
}
