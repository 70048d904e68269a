"""The comparison: compare.json, by `compare.py --update-docs`, and the studies'."""

import re
from collections.abc import Callable, Sequence

from bench.environment import described
from bench.figures.pages import Claim, Part, Raw, Wrong
from bench.report import findings, formatting, tables
from bench.report.tables import Comparison as Group
from bench.report.tables import as_rst as table
from bench.report.tables import headline
from bench.results import Result, Results
from bench.scenarios import Variant
from bench.statistics import quantile
from bench.studies import STUDIES, Study

PAGE = "docs/results/compare.rst"
POLLING = "docs/explanation/polling.rst"

#: The plots that `compare.py --update-docs` puts beside the raw results, and what they show.
PLOTS = {
    "latency": "How many of the browsers had the data after how long, per way and distance",
    "bytes": "The bytes of one update, per way",
    "cpu": "The server's CPU per update and browser against their number, per way",
}


def escaped(text: str) -> str:
    """Return text as reStructuredText that says the same."""
    return re.sub(r"([\\*`|]|_(?=\W|$))", r"\\\1", text)


def _listed(lines: Sequence[str]) -> str:
    return "\n".join(f"- {escaped(line)}" for line in lines)


def _title(text: str, line: str) -> str:
    return f"{text}\n{line * len(text)}"


def _about(results: Results) -> str:
    return "\n".join(f"| {escaped(line)}" for line in described(results.about).splitlines())


# The page of the comparison.


def _page(raw: Raw) -> str:
    results = raw.results("compare")
    parts = [
        ".. Made from compare.json by `make figures`.",
        _title("What does it cost to tell a browser, each way?", "="),
        f"Found by ``{results.command}``; every sample is in `compare.json <compare.json>`_. Make "
        "your own: it also leaves a report with these plots, and a CSV.",
        _about(results),
        _title("In words", "-"),
        _listed(findings.sentences(results)),
        _title("In pictures", "-"),
        *(f".. image:: compare/{name}.svg\n   :alt: {alt}" for name, alt in PLOTS.items()),
        _title("In figures", "-"),
        _LEGEND,
    ]
    for group in tables.comparisons(results):
        parts += [_title(escaped(group.title), "~"), _figures(group)]
    return "\n\n".join(parts) + "\n"


_LEGEND = """\
- *news*: from the change to knowing of it; *data*: to having it. Milliseconds, one clock.
- *requests*, *messages* and *bytes* are for one update of one browser, counted at its sockets;
  *with TCP/IP* adds 52 bytes for each packet, and a packet for each acknowledgement that nothing
  else carries: an estimate.
- *CPU* is the server's, in microseconds per update and browser, without what publishing takes where
  nobody listens, and of all turns the tenth in a hundred: what else a machine does only adds;
  *memory* is what the server grew by, in bytes per browser, where it was fresh.
- *coalesced*: skipped on purpose, as a newer one was there; *lost*: still the newest after five
  seconds, and somebody did not have it. A lost one fails the run."""


def _figures(group: Group) -> str:
    found = tables.table(group, tables.DOCS)
    return table([found.header, *found.rows])


def _ms(samples: Sequence[float], q: float) -> str:
    return formatting.significant(quantile(samples, q)) if samples else "–"


# The table of the README.


def _groups(results: Results) -> tuple[Group, Group, Group]:
    """Return what the README shows: near and far for the same browsers, and the most of them."""
    found = [group for group in tables.comparisons(results) if not group.processing_time]
    far = headline(results)
    near = [group for group in found if far and group.clients == far.clients and not group.rtt_ms]
    if far is None or not far.rtt_ms or not near:
        raise Wrong("docs/results/compare.json has no far browsers, or not as many near ones")
    return near[0], far, max(found, key=lambda group: (not group.rtt_ms, group.clients))


def _summary(raw: Raw) -> str:
    near, far, most = _groups(raw.results("compare"))
    rows = [
        ("", "bytes", "requests", "ms", f"ms from {far.rtt_ms:g}", "CPU, µs", "memory, KB"),
    ]
    for result in far.entries:
        here, there = (_of(group, result.variant) for group in (near, most))
        memory = there.memory_per_client
        rows.append(
            (
                result.title,
                tables.shown(result.bytes_per_update),
                tables.shown(result.requests_per_update),
                _ms(here.received_ms, 0.5),
                _ms(result.received_ms, 0.5),
                tables.shown(there.cpu_per_update),
                "–" if memory is None else formatting.significant(memory / 1024),
            )
        )
    return table(rows)


def _of(group: Group, variant: Variant) -> Result:
    return next(result for result in group.entries if result.variant == variant)


def _number(of: Callable[[Group, Group, Group], float | str]) -> Callable[[Raw], str]:
    """Return what makes a number of the near group, the far one and the largest."""

    def number(raw: Raw) -> str:
        value = of(*_groups(raw.results("compare")))
        return value if isinstance(value, str) else formatting.significant(value)

    return number


def _far_ms(far: Group, variant: Variant) -> float:
    """Return the median milliseconds until these browsers had the data."""
    return quantile(_of(far, variant).received_ms, 0.5)


# When polling wins.


def _slow(raw: Raw) -> Group:
    found = [group for group in tables.comparisons(raw.results("compare")) if group.processing_time]
    if not found:
        raise Wrong("docs/results/compare.json has no slow readers")
    return found[0]


def _age(variant: Variant) -> Callable[[Raw], str]:
    return lambda raw: formatting.duration(quantile(_of(_slow(raw), variant).received_ms, 0.95))


def _rate(variant: Variant) -> Callable[[Raw], str]:
    return lambda raw: tables.shown(round(_of(_slow(raw), variant).bytes_per_second or 0))


def _outcome(
    one: Variant, other: Variant, *, figure: Callable[[Result], float]
) -> Callable[[Raw], bool]:
    """Return whether this way has clearly less of the figure than the other."""
    return lambda raw: 1.5 * figure(_of(_slow(raw), one)) < figure(_of(_slow(raw), other))


def _p95(result: Result) -> float:
    return quantile(result.received_ms, 0.95)


def _bytes(result: Result) -> float:
    return result.bytes_per_second or 0.0


_PUSH, _SIGNAL = Variant("websocket", carry=True), Variant("websocket", carry=False)
_LONG, _SHORT = Variant("longpoll", carry=True), Variant("poll", carry=True)


# The papers.


def _paper_page(study: Study) -> Callable[[Raw], str]:
    def page(raw: Raw) -> str:
        results = raw.results(study.name)
        parts = [
            f".. Made from {study.name}.json by `make figures`.",
            _title(escaped(study.title), "="),
            f"Found by ``{results.command}``; every sample is in "
            f"`{study.name}.json <{study.name}.json>`_.",
            _about(results),
        ]
        for section in study.sections(results):
            parts.append(_title(escaped(section.title), "-"))
            parts += [escaped(note) for note in section.notes]
            parts.append(table([section.header, *section.rows]))
        return "\n\n".join(parts) + "\n"

    return page


PART = Part(
    blocks={"compare": _summary},
    pages={
        PAGE: _page,
        **{f"docs/results/{name}.rst": _paper_page(study) for name, study in STUDIES.items()},
    },
    numbers={
        "compared browsers": _number(lambda near, far, most: f"{far.clients:,}"),
        "compared most": _number(lambda near, far, most: f"{most.clients:,}"),
        "compared distance": _number(lambda near, far, most: f"{far.rtt_ms:g}"),
        "compared period": _number(
            lambda near, far, most: f"{_of(far, Variant('poll', True)).period:g}"
        ),
        "compared push": _number(lambda near, far, most: _far_ms(far, _PUSH)),
        "compared long poll": _number(lambda near, far, most: _far_ms(far, _LONG)),
        "compared long poll signal": _number(
            lambda near, far, most: _far_ms(far, Variant("longpoll", carry=False))
        ),
        "slow push age": _age(_PUSH),
        "slow long poll age": _age(_LONG),
        "slow short poll age": _age(_SHORT),
        "slow signal age": _age(_SIGNAL),
        "slow push bytes": _rate(_PUSH),
        "slow short poll bytes": _rate(_SHORT),
        "slow pace": lambda raw: f"{1 / _slow(raw).pace:.0f}",
        "slow handling": lambda raw: f"{_slow(raw).processing_time:g}",
    },
    claims=[
        Claim(
            POLLING,
            "Polling wins clearly",
            lambda raw: all(
                _outcome(variant, _PUSH, figure=_p95)(raw) for variant in (_LONG, _SHORT, _SIGNAL)
            ),
        ),
        Claim(POLLING, "also sends fewer bytes", _outcome(_SHORT, _PUSH, figure=_bytes)),
    ],
)
