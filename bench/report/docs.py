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

from bench import bytes_on_wire, memory
from bench.environment import described
from bench.fanout.report import GOALS, OURS, Report, number
from bench.processes import ROOT
from bench.report import tables
from bench.report.findings import sentences
from bench.report.formatting import duration, significant
from bench.report.tables import Comparison, as_rst
from bench.results import Results
from bench.scenarios import DIRECT, FLASK, Variant
from bench.statistics import median, quantile
from bench.studies import STUDIES

#: Where the raw results are.
RESULTS = ROOT / "docs" / "results"

PUSH, PUSH_SIGNAL = Variant("websocket", carry=True), Variant("websocket", carry=False)
LONG, LONG_SIGNAL = Variant("longpoll", carry=True), Variant("longpoll", carry=False)
SHORT = Variant("poll", carry=True)


def run(*options: str, root: Path = ROOT) -> int:
    """Run cog, with `-r` to renew, `--check` to compare.

    Returns 0 if they agree with the raw results.
    """
    documents = [root / "README.rst", *sorted((root / "docs").rglob("*.rst"))]
    prologue = "import cog; from bench.report import docs"
    return int(Cog().main(["cog", "-P", "-p", prologue, *options, *map(str, documents)]))


# The raw results, and the samples in them that documents speak of.


@cache
def _results(path: Path) -> Results:
    return Results.load(path)


def results(name: str) -> Results:
    """Return what compare.py has measured: "compare", or a study."""
    return _results(RESULTS / f"{name}.json")


def raw(name: str) -> Any:
    """Return any raw result as JSON has it."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def fanout() -> Report:
    """Return what bench.fanout has measured."""
    return Report.from_json((RESULTS / "fanout.json").read_text())


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
    table = bytes_on_wire.table(bytes_on_wire.from_raw_result(raw("wire")))
    show(".. code:: text", textwrap.indent(table, "   "))


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
            result.requests_per_update,
            _after(near, variant),
            _after(far, variant),
            *(cost.cpu_per_update if cost else None for cost in costs),
            memory and memory / 1024,
        ]
        rows.append((result.title, *map(tables.shown, figures)))
    show(as_rst(rows))


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


def waiting() -> None:
    """Print what each waiting browser costs each server in memory."""
    show(memory.as_table(raw("servers")["servers"]))


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
    total = {name: cost.total for name, cost in bytes_on_wire.from_raw_result(of).items()}
    return {
        "wire push": f"{total['WebSocket, carry']:,}",
        "wire long poll": f"{total['long poll, carry']:,}",
        "wire long poll signal": f"{total['long poll, signal then fetch']:,}",
        "wire browser": str(of["browser"]),
        "wire value bytes": str(of["value_bytes"]),
    }


def _compared() -> dict[str, str]:
    near, far, most, slow = groups()
    ages = {"push": PUSH, "signal": PUSH_SIGNAL, "long poll": LONG, "short poll": SHORT}
    rates = {"push": PUSH, "short poll": SHORT}
    medians = {"push": PUSH, "long poll": LONG, "long poll signal": LONG_SIGNAL}
    return {
        "compared browsers": f"{far.clients:,}",
        "compared most": f"{most.clients:,}",
        "compared distance": f"{far.rtt_ms:g}",
        "compared period": f"{near.by_variant[SHORT].period:g}",
        **{f"compared {name}": significant(_after(far, one)) for name, one in medians.items()},
        "slow pace": f"{1 / slow.pace:.0f}",
        "slow handling": f"{slow.processing_time:g}",
        **{f"slow {name} age": duration(_after(slow, one, 0.95)) for name, one in ages.items()},
        **{
            f"slow {name} bytes": f"{slow.by_variant[one].bytes_per_second or 0:,.0f}"
            for name, one in rates.items()
        },
    }


def _memory_numbers() -> dict[str, str]:
    of = raw("servers")
    versions = of["versions"]

    def kilobytes(kind: str, *servers: str) -> list[float]:
        return [median(of["servers"][server][kind]) / 1000 for server in servers or of["servers"]]

    def held(*servers: str) -> str:
        both = kilobytes("long poll", *servers) + kilobytes("event stream", *servers)
        return f"{_between(both)} KB"

    return {
        "memory per greenlet": held("serve.py", "gunicorn", "flask_sockets.worker", "uwsgi gevent"),
        "memory per thread": held("servers/threads.py", "uwsgi threads", "flask run"),
        "most per socket pushed to": f"{math.floor(max(kilobytes('pushed to'))) + 1} KB",
        "memory runs": str(len(of["servers"]["serve.py"]["pushed to"])),
        "uwsgi gevent memory": f"{kilobytes('pushed to', 'uwsgi gevent')[0]:.1f} KB",
        "uwsgi threads memory": f"{kilobytes('pushed to', 'uwsgi threads')[0]:.1f} KB",
        "uwsgi measured with": f"uWSGI {versions['uwsgi']}, Python {versions['Python']}",
    }


def _fanout_numbers() -> dict[str, str]:
    report = fanout()
    goals = {goal.what: goal for goal in GOALS}
    short = {
        "broadcast": "notification / floor",
        "handshake": "handshake / floor",
        "event": "event / floor",
        "cycle": "long-poll cycle",
        "cycle in floors": "long-poll cycle / floor",
        "bytes per idle socket": "memory",
    }

    def medians(name: str, *servers: str) -> list[float]:
        return [one.median for server in servers for one in report.all(short[name], server)]

    def ours(name: str) -> str:
        return number(report.figure(short[name], goals[short[name]].clients).median)

    def aim(name: str) -> str:
        return number(goals[short[name]].most).removesuffix(".0")

    p90 = [figure.quantile(0.9) for figure in report.all(short["broadcast"])]
    floors = [sample for figure in report.all("floor") for sample in figure.samples]
    others = ("aiohttp", "websockets.broadcast")
    return {
        **{
            name: ours(name)
            for name in ("bytes per idle socket", "event", "cycle", "cycle in floors")
        },
        **{f"{name} aim": aim(name) for name in ("broadcast", "handshake", "event", "cycle")},
        "cycle aim in floors": aim("cycle in floors"),
        "floor samples": _between(floors, 1),
        "broadcast": _between(medians("broadcast", OURS), 2),
        "broadcast p90": _between(p90, 2),
        "handshake": _between(medians("handshake", OURS)),
        "handshake of picows": _between(medians("handshake", "picows")),
        "handshake of aiohttp and websockets": _between(medians("handshake", *others)),
    }


def _between(values: Sequence[float], digits: int = 0) -> str:
    least, most = (f"{value:.{digits}f}" for value in (min(values), max(values)))
    return least if least == most else f"{least} to {most}"


if __name__ == "__main__":
    sys.exit(run(*(sys.argv[1:] or ["-r"])))
