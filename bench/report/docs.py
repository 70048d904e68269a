"""What cog writes into the documents: `make figures`.

A block in a document calls a function of this module, and cog writes below it what that prints::

    .. [[[cog docs.wire() ]]]
    .. [[[end]]]

A number within a sentence is a substitution such as ``|wire push|``. The block
``docs.numbers(cog.inFile)`` at the end of a document defines those that the document uses.
"""

import json
import math
import re
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from cogapp import Cog

from bench import bytes_on_wire
from bench.environment import described
from bench.fanout.experiments import KINDS, MIX, SOCKET, STREAM
from bench.fanout.report import GOALS, Report, number
from bench.processes import ROOT
from bench.report import diagrams, tables
from bench.report.findings import sentences
from bench.report.formatting import duration, significant
from bench.report.tables import Comparison, as_rst
from bench.results import PUBLISHED, Results
from bench.scenarios import DIRECT, FLASK, Variant
from bench.statistics import median, quantile
from bench.studies import STUDIES

PUSH, PUSH_SIGNAL = Variant("websocket", carry=True), Variant("websocket", carry=False)
LONG, LONG_SIGNAL = Variant("longpoll", carry=True), Variant("longpoll", carry=False)
SHORT = Variant("poll", carry=True)


def run(*options: str, root: Path = ROOT) -> int:
    """Run cog, with `-r` to renew, `--check` to compare.

    Returns 0 if they agree with the raw results.
    """
    documents = [root / "README.rst", *sorted((root / "docs").rglob("*.rst"))]
    prologue = (
        "import cog; from bench import classroom, cluster, fairness, memory; "
        "from bench.report import docs"
    )
    return int(Cog().main(["cog", "-P", "-p", prologue, *options, *map(str, documents)]))


# The raw results.


@cache
def _results(path: Path) -> Results:
    return Results.load(path)


def results(name: str) -> Results:
    """Return what compare.py has measured: "compare", or a study."""
    return _results(PUBLISHED / f"{name}.json")


def raw(name: str) -> Any:
    """Return any raw result as JSON has it."""
    return json.loads((PUBLISHED / f"{name}.json").read_text())


def fanout() -> Report:
    """Return what bench.fanout has measured."""
    return Report.from_json((PUBLISHED / "fanout.json").read_text())


def groups() -> tuple[Comparison, Comparison, Comparison, Comparison]:
    """Return groups: near, far, the most browsers, slow readers."""
    every = tables.comparisons(results("compare"))
    fast = [group for group in every if not group.processing_time]
    far = max(fast, key=lambda group: (group.rtt_ms, group.clients))
    near = next(group for group in fast if not group.rtt_ms and group.clients == far.clients)
    most = max(fast, key=lambda group: (not group.rtt_ms, group.clients))
    return near, far, most, next(group for group in every if group.processing_time)


def _after(group: Comparison, variant: Variant, q: float = 0.5) -> float:
    """Return a quantile of milliseconds until browsers had data."""
    return quantile(group.by_variant[variant].received_ms, q)


# Blocks.


def show(*parts: str) -> None:
    """Print paragraphs, with empty lines around them."""
    print("\n" + "\n\n".join(parts) + "\n")


def about(name: str) -> None:
    """Print command, machine and versions of a raw result."""
    of = raw(name)
    origin = f"Measured by ``{of['command']}``; every sample is in `{name}.json <{name}.json>`_."
    text = fanout().summary() if name == "fanout" else described(of.get("about", of))
    show(origin, "\n".join(f"| {line}" for line in text.splitlines()))


def wire() -> None:
    """Print the bytes of one update, by transport and payload."""
    show(".. code:: text", textwrap.indent(bytes_on_wire.table(raw("wire")["costs"]), "   "))


def diagram(name: str) -> None:
    """Print a diagram, also in words, and its messages."""
    alternative = f"{diagrams.KINDS[name].title}: a space-time diagram, described below"
    picture = f".. image:: transports/{name}.svg\n   :alt: {alternative}"
    show(picture, diagrams.words(name), as_rst(diagrams.rows(name)))


def recorded() -> None:
    """Print with what the diagrams were recorded."""
    found = diagrams.recording()
    origin = (
        f"Recorded by ``{found['command']}``; every message is in "
        "`recording.json <transports/recording.json>`_."
    )
    show(origin, "\n".join(f"| {line}" for line in described(found["about"]).splitlines()))


def summary() -> None:
    """Print the costs of an update, a row per variant."""
    near, far, most, _ = groups()
    away = f"ms from {far.rtt_ms:g}"
    header = ("", "bytes", "requests", "ms", away, "CPU, µs: direct", "by Flask", "memory, KB")
    rows: list[Sequence[str]] = [header]
    for result in far.entries:
        variant = result.variant
        costs = [most.by_variant.get(replace(variant, dispatch=how)) for how in (DIRECT, FLASK)]
        memory = most.by_variant[variant].memory_per_client
        figures: list[tables.Value] = [
            result.bytes_per_update,
            result.traffic.requests / result.updates,
            *(_after(group, variant) for group in (near, far)),
            *(cost.cpu_per_update if cost else None for cost in costs),
            memory and memory / 1024,
        ]
        rows.append((result.title, *map(tables.shown, figures)))
    show(as_rst(rows))


def missed() -> None:
    """Print the goals of the fan-out that are not met."""
    report = fanout()
    found = [
        f"- {goal.title}, N = {figure.clients:,}: {number(value)} {figure.unit}, "
        f"not {number(goal.most)}"
        for goal in GOALS
        for figure, value in goal.found(report)
        if value > goal.most
    ]
    show("\n".join(found) or "Nothing: all goals are met.")


def findings(name: str) -> None:
    """Print the findings of a comparison."""
    show("\n".join(f"- {sentence}" for sentence in sentences(results(name))))


def figures(name: str) -> None:
    """Print a table for each group of a comparison."""
    every = [tables.table(group, tables.DOCS) for group in tables.comparisons(results(name))]
    show(*(f"{one.title}\n{'~' * len(one.title)}\n\n{one.as_rst()}" for one in every))


def study(name: str, place: int = 0) -> None:
    """Print a table of a study, and its notes."""
    table = STUDIES[name].tables(results(name))[place]
    show(table.as_rst(), *table.notes)


# Numbers.


def numbers(document: str) -> None:
    """Print the substitutions that a document uses."""
    text = re.sub(r"^\.\. \|.*", "", Path(document).read_text(encoding="utf-8"), flags=re.M)
    used = {" ".join(name.split()) for name in re.findall(r"\|([a-z][^|]*?)\|", text)}
    known = all_numbers()
    show("\n".join(f".. |{name}| replace:: {known[name]}" for name in sorted(used & set(known))))


def all_numbers() -> dict[str, str]:
    """Return every number for documents, by its name."""
    found = _wire_numbers() | _compared() | _memory_numbers() | _fanout_numbers()
    for name, one in STUDIES.items():
        found |= one.numbers(results(name))
    return found


def _wire_numbers() -> dict[str, str]:
    of = raw("wire")
    names = {"push": "WebSocket, carry", "long poll": "long poll, carry"}
    names["long poll signal"] = "long poll, signal then fetch"

    def both(name: str) -> int:
        return int(of["costs"][name]["up"] + of["costs"][name]["down"])

    return {
        **{f"wire {name}": f"{both(cost):,}" for name, cost in names.items()},
        "wire browser": str(of["browser"]),
        "wire ratio": significant(both(names["long poll"]) / both(names["push"])),
        "wire request": f"{of['costs']['long poll, carry']['up']:,}",
        "wire value bytes": str(of["value_bytes"]),
    }


def _compared() -> dict[str, str]:
    _, far, most, slow = groups()
    found = {
        "compared browsers": f"{far.clients:,}",
        "compared most": f"{most.clients:,}",
        "compared distance": f"{far.rtt_ms:g}",
        "slow pace": f"{1 / slow.pace:.0f}",
        "slow handling": f"{slow.processing_time:g}",
    }
    for name, one in {"push": PUSH, "long poll": LONG, "long poll signal": LONG_SIGNAL}.items():
        found[f"compared {name}"] = significant(_after(far, one))
        cost = most.by_variant[replace(one, dispatch=FLASK)].cpu_per_update
        found[f"compared {name} cpu"] = tables.shown(cost)
    found["compared long poll cpu direct"] = tables.shown(
        most.by_variant[replace(LONG, dispatch=DIRECT)].cpu_per_update
    )
    for name, one in {"push": PUSH, "short poll": SHORT}.items():
        found[f"slow {name} bytes"] = f"{slow.by_variant[one].bytes_per_second or 0:,.0f}"
    ages = {"push": PUSH, "signal": PUSH_SIGNAL, "long poll": LONG, "short poll": SHORT}
    return found | {
        f"slow {name} age": duration(_after(slow, one, 0.95)) for name, one in ages.items()
    }


def _memory_numbers() -> dict[str, str]:
    servers, versions = (raw("servers")[of] for of in ("servers", "versions"))

    def kilobytes(kinds: Sequence[str], *names: str) -> list[float]:
        return [median(servers[name][kind]) / 1000 for name in names for kind in kinds]

    both, push = ("long poll", "event stream"), ("pushed to",)
    sockets, greenlets = ("serve.py", "gunicorn", "flask_sockets.worker"), ("uwsgi gevent",)
    threads = ("servers/threads.py", "uwsgi threads", "flask run")
    return {
        "memory per greenlet": f"{_between(kilobytes(both, *greenlets))} KB",
        "memory per thread": f"{_between(kilobytes(both, *threads))} KB",
        "most per waiting socket": f"{math.floor(max(kilobytes(both, *sockets))) + 1} KB",
        "most per socket pushed to": f"{math.floor(max(kilobytes(push, *servers))) + 1} KB",
        "memory runs": str(len(servers["serve.py"]["pushed to"])),
        "uwsgi gevent memory": f"{kilobytes(push, 'uwsgi gevent')[0]:.1f} KB",
        "uwsgi threads memory": f"{kilobytes(push, 'uwsgi threads')[0]:.1f} KB",
        "uwsgi measured with": f"uWSGI {versions['uwsgi']}, Python {versions['Python']}",
    }


def _fanout_numbers() -> dict[str, str]:
    report = fanout()

    def floors(what: str) -> str:
        found = [figure.median for figure in report.all(f"{what} / floor")]
        return " to ".join(dict.fromkeys(number(each) for each in (min(found), max(found))))

    def largest(*names: str, unit: float = 1) -> str:
        values = [max(figure.samples) for what in names for figure in report.all(what)]
        return number(max(values) / unit)

    memory = [f"memory per {kind.one}" for kind in KINDS]
    each = {name: (name, f"{name}, after the changes") for name in memory}
    ms = [f"last of the most, {one}" for one in (*(kind.one for kind in KINDS[1:]), MIX)]
    return {
        "notification": floors(SOCKET.cost),
        "event": floors(STREAM.cost),
        **{f"bytes per {kind.one}": largest(*each[f"memory per {kind.one}"]) for kind in KINDS},
        "bytes per waiting browser": largest(*(name for pair in each.values() for name in pair)),
        "kilobytes over tls": largest(*(f"{name}, over TLS" for name in memory), unit=1024),
        "last of the most": largest(*ms),
        "slowest get": largest("slowest GET of another client, change"),
        "floor samples": _between(
            [sample for figure in report.all("floor") for sample in figure.samples], 1
        ),
    }


def _between(values: Sequence[float], digits: int = 0) -> str:
    least, most = (f"{value:.{digits}f}" for value in (min(values), max(values)))
    return least if least == most else f"{least} to {most}"


if __name__ == "__main__":
    sys.exit(run(*(sys.argv[1:] or ["-r"])))
