"""The plots of a comparison: latency, bytes and CPU."""

from collections.abc import Callable, Iterable
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, NullFormatter

from bench.report import formatting
from bench.report.html import EDGE, MUTED, PAPER, TEXT, Plot
from bench.report.tables import Comparison, comparisons, headline
from bench.results import Result, Results
from bench.scenarios import FLASK, VARIANTS
from bench.statistics import median, quantile
from pushlab.transports import TRANSPORTS

POINTS = 150  #: of a line, at most
_COLOURS: Any = {
    **dict.fromkeys(("text.color", "axes.labelcolor"), TEXT),
    **dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), MUTED),
    **dict.fromkeys(("axes.facecolor", "figure.facecolor"), PAPER),
    "grid.color": EDGE,
}


def draw(results: Results, folder: Path) -> list[Plot]:
    """Write each plot that has data, as PNG and SVG."""
    folder.mkdir(parents=True, exist_ok=True)
    plots = []
    for name, drawer in DRAWERS.items():
        with rc_context(_COLOURS, Path(__file__).with_suffix(".mplstyle")):
            if plot := drawer(results):
                svg = folder / f"{name}.svg"
                FigureCanvasAgg(plot.figure)
                plot.figure.savefig(svg.with_suffix(".png"), dpi=160, metadata={"Software": None})
                plot.figure.savefig(svg, metadata={"Date": None})
                plots.append(plot._replace(svg=svg))
    return plots


def _subplots(height: float, rows: int = 1) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(6.8, height), layout="constrained")
    return figure, list(figure.subplots(rows, squeeze=False)[:, 0])


def _plain_numbers(axis: Axis) -> None:
    """Label ticks as 1,000 instead of 10^3."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axis.set_minor_formatter(NullFormatter())


def _one_of_several(server: str, results: Results) -> str:
    return server if {result.server for result in results.entries} - {server} else ""


def _title(group: Comparison, results: Results) -> str:
    """Return distance, browsers, and the server among several."""
    where = f"{formatting.away(group.rtt_ms)}, {formatting.clients(group.clients)}".capitalize()
    return ", ".join(filter(None, [where, _one_of_several(group.server, results)]))


def _in_order(entries: Iterable[Result]) -> list[Result]:
    """Return results in the registry's order, Flask's dispatch last."""
    order = {variant: place for place, variant in enumerate(VARIANTS)}
    return sorted(entries, key=lambda one: (order.get(one.variant, len(order)), one.period or 0))


def _line(result: Result) -> dict[str, Any]:
    """Return its line: solid if it carries, thin by Flask."""
    transport = TRANSPORTS[result.transport]
    by_flask = result.variant.has_choice and result.dispatch == FLASK
    return {
        "label": result.variant.title,
        "color": transport.colour.light,
        "linestyle": "-" if result.carry else (0, (4, 2)),
        "linewidth": 1.1 if by_flask else 2.2,
        "marker": transport.marker,
        "markersize": 4 if by_flask else 6,
        "markerfacecolor": transport.colour.light if result.carry else PAPER,
    }


def _legend(figure: Figure) -> None:
    """Name the variants below the plot, in two columns."""
    pairs = (zip(*axes.get_legend_handles_labels(), strict=True) for axes in figure.axes)
    lines = {label: handle for pair in pairs for handle, label in pair}
    place: Any = {"loc": "outside lower left", "ncols": 1 + (len(lines) > 2)}
    figure.legend(lines.values(), lines, handlelength=3.6, columnspacing=2.5, **place)


def _latency(results: Results) -> Plot | None:
    """Draw the share of updates that had arrived by time."""
    main = headline(results)
    panels = [
        (group, entries)
        for group in comparisons(results)
        if main and group == main._replace(rtt_ms=group.rtt_ms, entries=group.entries)
        if (entries := [result for result in _in_order(group.entries) if result.received_ms])
    ]
    if not panels:
        return None
    tall = 4.8 if len(panels) < 3 else 3.0
    figure, every = _subplots(1.2 + tall * len(panels), len(panels))
    alt = []
    for axes, (group, entries) in zip(every, panels, strict=True):
        for place, result in enumerate(entries):
            count = min(POINTS, len(result.received_ms))
            shares = [number / max(1, count - 1) for number in range(count)]
            axes.plot(
                [quantile(result.received_ms, q) for q in shares],
                [100 * share for share in shares],
                # Markers of lines that are alike at different heights, or they would hide others.
                markevery=((place + 1) * count // (len(entries) + 1), count),
                **_line(result),
            )
        low, high = (of(of(result.received_ms) for result in entries) for of in (min, max))
        if high > 30 * max(low, 0.01):
            axes.set_xscale("log")
        else:
            axes.set_xlim(0, high * 1.03)
        _plain_numbers(axes.xaxis)
        axes.set_ylim(-2, 102)
        axes.set_yticks([0, 50, 100], ["0 %", "50 %", "100 %"])
        axes.set_title(_title(group, results))
        medians = [f"{r.title} {formatting.duration(median(r.received_ms))}" for r in entries]
        alt.append(f"{formatting.away(group.rtt_ms)}: {', '.join(medians)}")
    every[-1].set_xlabel("milliseconds from the change to having the data")
    _legend(figure)
    return Plot(
        figure,
        "How soon the data is there",
        "The share of the updates that had arrived, by milliseconds since the change. Farther left "
        "is sooner; a steep line is dependable. Solid lines carry the data; dashed lines signal, "
        "and the browser fetches it. Markers are at different heights, because lines may overlap.",
        f"Medians from the change to having the data: {'; '.join(alt)}.",
    )


def _parts(colour: str) -> dict[str, dict[str, Any]]:
    """Return the style of each part of an update's bytes."""
    solid = {"facecolor": colour, "edgecolor": PAPER}
    hatched = {"facecolor": "none", "edgecolor": colour, "hatch": "////"}
    headers = {**hatched, "alpha": 0.55, "linewidth": 0.8}
    return {"up": solid, "down": {**solid, "alpha": 0.6}, "TCP/IP headers (est.)": headers}


def _bytes(results: Results) -> Plot | None:
    """Draw an update's bytes, with estimated TCP/IP headers."""
    group = headline(results)
    if group is None:
        return None
    entries = group.entries[::-1]  # the fewest bytes on top
    figure, [axes] = _subplots(1.5 + 0.5 * len(entries))
    widest = max(result.bytes_with_headers_per_update for result in entries) or 1.0

    for place, result in enumerate(entries):
        up, both = result.traffic.up / result.updates, result.bytes_per_update
        ends = (0.0, up, both, result.bytes_with_headers_per_update)
        styles = _parts(TRANSPORTS[result.transport].colour.light).values()
        for style, (left, right) in zip(styles, pairwise(ends), strict=True):
            axes.barh(place, right - left, 0.62, left=left, **style)
        label = f"{both:,.0f}"
        axes.text(ends[-1] + widest * 0.012, place, label, va="center", weight="bold", size=11.5)
    axes.set_yticks(range(len(entries)), [result.title for result in entries])
    axes.tick_params(axis="y", length=0, labelcolor=TEXT)
    axes.set_xlim(0, widest * 1.13)
    _plain_numbers(axes.xaxis)
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("bytes per update and browser")
    handles = [Patch(label=label, **style) for label, style in _parts(MUTED).items()]
    figure.legend(handles=handles, loc="outside lower right", ncols=3)
    said = ", ".join(f"{result.title} {result.bytes_per_update:,.0f}" for result in group.entries)
    return Plot(
        figure,
        "What an update takes on the wire",
        "Bytes per update and browser, counted at the sockets, with the polls that found nothing "
        "new. The figure is up and down together. Hatched: the headers of TCP and IP, estimated. "
        f"{_title(group, results)}.",
        f"Bytes per update: {said}.",
    )


def _cpu(results: Results) -> Plot | None:
    """Draw CPU per update and browser, by number of browsers."""
    found = [group for group in comparisons(results) if not group.processing_time]
    nearest = min((group.rtt_ms for group in found), default=0.0)
    shown = [
        group
        for group in found
        if (group.server, group.pace, group.rtt_ms) == (found[0].server, found[0].pace, nearest)
    ]
    entries = _in_order(one for group in shown for one in group.entries if one.knows_cpu)
    counts = sorted({result.clients for result in entries})
    if len(counts) < 2:
        return None
    server = _one_of_several(found[0].server, results)
    figure, [axes] = _subplots(4.6)
    axes.set_title(server)
    lines = [list(own) for _, own in groupby(entries, lambda one: (one.variant, one.period))]
    for place, own in enumerate(lines):
        aside = 1.035 ** (place - (len(lines) - 1) / 2)  # or the whiskers would overlap
        # With few browsers, noise may be below 0; a logarithmic scale has no place for it.
        costs = [max(result.cpu_per_update or 0, 0.1) for result in own]
        highs = [max(quantile(result.cpu_samples, 0.9), 0.1) for result in own]
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
    _legend(figure)
    most = [
        f"{result.title} {formatting.duration((result.cpu_per_update or 0) / 1e3)}"
        for result in entries
        if result.clients == counts[-1]
    ]
    return Plot(
        figure,
        "What an update costs the server",
        "The 10th percentile of the rounds, as other load on the machine can only increase it; "
        "whiskers reach to the 90th. Publishing the change itself is not included. Both scales are "
        "logarithmic. Requests are dispatched in front of Flask; thin lines: by Flask."
        + f" Of several servers, this is {server}."
        * bool(server),
        f"The CPU of {server or 'the server'} per update and browser, with "
        f"{formatting.clients(counts[-1])}: {', '.join(most)}.",
    )


#: Every plot by its name, in the order of the report; None where there is no data.
DRAWERS: dict[str, Callable[[Results], Plot | None]] = {
    "latency": _latency,
    "bytes": _bytes,
    "cpu": _cpu,
}
