"""The report, tables, plots and findings follow from the results, and from nothing else."""

import csv
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from rich.console import Console

from bench import output
from bench.processes import ROOT
from bench.report import findings, plots, tables, terminal
from bench.report.formatting import away, clients, duration, significant, size
from bench.report.html import page
from bench.report.tables import Table
from bench.results import Result, Results, Traffic
from bench.scenarios import FLASK, VARIANTS, Variant
from tests.sample_results import result, sample_results, slow_readers

CARRY = {variant.transport: variant for variant in VARIANTS if variant.carry}
SIGNAL = {variant.transport: variant for variant in VARIANTS if not variant.carry}


@pytest.fixture(scope="module")
def results() -> Results:
    return sample_results()


# Raw samples.


def test_json_brings_back_what_was_measured(results: Results) -> None:
    text = results.as_json()
    again = Results.from_json(text)
    assert again.as_json() == text
    assert again.command == results.command
    for one, other in zip(again.entries, results.entries, strict=True):
        for name in ("notified_ms", "received_ms", "cpu", "publish_cpu"):
            assert getattr(one, name) == pytest.approx(getattr(other, name), abs=0.006)
        assert one.traffic == other.traffic
        assert without_samples(one) == without_samples(other)


def without_samples(result: Result) -> Result:
    return replace(result, notified_ms=[], received_ms=[], cpu=[], publish_cpu=[])


def test_json_is_small_and_has_a_line_for_each_list(results: Results) -> None:
    text = results.as_json()
    samples = sum(len(result.notified_ms) + len(result.received_ms) for result in results.entries)
    assert len(text) < 9 * samples + 5000 * len(results.entries)
    assert all(line.count("[") <= 1 for line in text.splitlines())
    assert sum('"received_ms": [' in line and "]" in line for line in text.splitlines()) == len(
        results.entries
    )


@pytest.mark.parametrize(
    "text", ["[1,\n 2]", 'a "quoted [ 1 , 2 ]" b', "back\\slash [", '["x", 1]']
)
def test_json_leaves_texts_alone(text: str) -> None:
    options = {"list": [text, text, 0.0125], "empty": [], "none": {}, "deep": [[], [{"a": [text]}]]}
    found = Results(text, {text: text}, options, failure=text)
    assert Results.from_json(found.as_json()) == found


# Matplotlib.


def test_nothing_but_drawing_takes_matplotlib() -> None:
    """All that compare.py and `make figures` import does without it until there is a plot."""
    modules = "compare, bench.report.docs"
    code = f"import sys, {modules}; print('matplotlib' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"


# Figures.


def test_csv_has_every_cell_and_figure(results: Results) -> None:
    rows = list(csv.DictReader(io.StringIO(tables.as_csv(results))))
    assert len(rows) == len(results.entries)
    of = {
        (r["transport"], r["payload"], r["clients"], r["rtt_ms"]): r
        for r in rows
        if r["processing_time_s"] == "0"
    }
    for measured in results.entries[: len(of)]:
        key = (
            measured.transport,
            measured.variant.payload,
            str(measured.clients),
            f"{measured.rtt_ms:g}",
        )
        row = of[key]
        assert float(row["bytes_per_update"]) == pytest.approx(measured.bytes_per_update, abs=0.01)
        assert float(row["received_max_ms"]) == pytest.approx(max(measured.received_ms), abs=0.01)
        assert row["lost"] == "0"
        assert None not in row
        assert bool(row["memory_bytes_per_client"]) == (measured.clients >= 100)
        assert row["period_s"] == ("1" if measured.transport == "poll" else "")


def test_what_is_not_known_is_empty() -> None:
    nothing = Results("", {}, {}, [Result("gevent", "sse", True, 10, 1.0, 0.0)])
    (row,) = csv.DictReader(io.StringIO(tables.as_csv(nothing)))
    for name in (
        "received_p50_ms",
        "notified_max_ms",
        "cpu_p50_us_per_update_and_client",
        "memory_bytes_per_client",
        "bytes_per_second_and_client",
    ):
        assert row[name] == ""


def test_the_order_is_that_of_bytes_and_of_nothing_that_was_timed(results: Results) -> None:
    shuffled = replace(
        results,
        entries=[
            replace(c, received_ms=[], notified_ms=[], cpu=[], changes=[])
            for c in reversed(results.entries)
        ],
    )

    def order(results: Results) -> list[tuple[str, list[str]]]:
        found = tables.comparisons(results)
        for group in found:
            for one, next_one in pairwise(group.entries):
                assert one.bytes_per_update <= next_one.bytes_per_update
        return [(group.title, [result.title for result in group.entries]) for group in found]

    assert order(shuffled) == order(results)
    assert len(order(results)) == 5
    assert order(results)[-1][0].endswith("0.5 s to show each")


@pytest.mark.parametrize(
    ("function", "value", "text"),
    [
        (significant, 0, "0"),
        (significant, 0.01234, "0.0123"),
        (significant, 9.996, "10.0"),
        (significant, 99.96, "100"),
        (significant, 1234.5, "1,230"),
        (significant, -3.14, "-3.14"),
        (duration, 0.5, "500 µs"),
        (duration, 1.234, "1.23 ms"),
        (duration, 999.6, "1.00 s"),
        (duration, 203.4, "203 ms"),
        (size, 121, "121 bytes"),
        (size, 1514, "1,514 bytes"),
        (size, 34_560, "34.6 kB"),
        (size, 1.2e6, "1.20 MB"),
        (away, 0.0, "on the same machine"),
        (away, 200.0, "200 ms away"),
        (clients, 1, "1 browser"),
        (clients, 1000, "1,000 browsers"),
    ],
)
def test_numbers_for_people(function: Callable[[float], str], value: float, text: str) -> None:
    assert function(value) == text


# The terminal.


def shown(results: Results, width: int = 100) -> str:
    console = Console(width=width, file=io.StringIO())
    console.print(terminal.figures(results))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_table_fits_a_terminal(results: Results) -> None:
    text = shown(results)
    assert "…" not in text
    for group in tables.comparisons(results):
        assert group.title.split(",")[0] in text
    variants = [variant.title for variant in VARIANTS]
    for variant in variants:
        assert len(re.findall(f"^{variant} ", text, re.MULTILINE)) >= 4
    assert re.search(r"^Long polling, signal .* 1,046 +468 ", text, re.MULTILINE)
    assert "\x1b" not in text


def test_the_table_has_no_room_for_what_nobody_knows() -> None:
    plain = result(CARRY["sse"], clients=10)
    plain.cpu, plain.changes, plain.received_ms = [], [], []
    text = shown(Results("", {}, {}, [plain]))
    assert "CPU" not in text
    assert "mem." not in text
    other = result(CARRY["websocket"], clients=10)
    assert re.search("^SSE, carry .*–", shown(Results("", {}, {}, [plain, other])), re.MULTILINE)
    assert "Nothing was measured" in shown(Results("", {}, {}))


@pytest.mark.parametrize("is_terminal", [False, True])
def test_progress(is_terminal: bool) -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=is_terminal, width=100)
    with terminal.Progress(90, console) as progress:
        progress.say("100 browsers, 200 ms away: [WebSocket], carry")
        progress.advance(30)
        progress.say("the next")
    text = stream.getvalue()
    if is_terminal:
        assert "\x1b" in text
        assert "the next" in text
    else:
        assert text.splitlines() == [
            "1 min 30 s left: 100 browsers, 200 ms away: [WebSocket], carry",
            "1 min 00 s left: the next",
        ]


# The findings.

FAR = 200.0


def far(*variants: Variant) -> list[Result]:
    return [result(variant, rtt_ms=FAR) for variant in variants]


def changed(
    entries: list[Result], variant: Variant | None = None, **values: object
) -> list[Result]:
    """Return them, those of a variant or all with other values."""
    return [
        replace(c, **values) if variant in (None, c.variant) else c  # type: ignore[arg-type]
        for c in entries
    ]


def with_bytes(entries: list[Result], variant: Variant, q: float) -> list[Result]:
    """Return them, the one with that share of the other's bytes."""
    (own,), (other, *_) = (
        [c for c in entries if c.variant == variant],
        [c for c in entries if c.variant != variant],
    )
    down = int(other.bytes_per_update * own.seen * q)
    return changed(entries, variant, traffic=replace(own.traffic, up=0, down=down))


def slower(entries: list[Result], variant: Variant, by: float) -> list[Result]:
    (own,) = [c for c in entries if c.variant == variant]
    return changed(entries, variant, received_ms=[value + by for value in own.received_ms])


WS, LONG, POLL = CARRY["websocket"], CARRY["longpoll"], CARRY["poll"]
ALL = far(*VARIANTS)
NEAR = [result(variant) for variant in VARIANTS]
WITHOUT_CPU = changed(ALL, cpu=[], changes=[])

#: A part of a sentence, results that imply it, and results that do not.
SENTENCES: dict[str, tuple[str, list[Result], list[Result]]] = {
    "bytes": (
        "both carrying the data: an update takes 121 bytes by WebSocket against 861 bytes by "
        "long polling.$",
        ALL,
        far(WS, POLL),
    ),
    "bytes of what signals": (
        "both only signalling: an update takes 808 bytes by WebSocket against 1,514 bytes",
        far(*SIGNAL.values()),
        ALL,
    ),
    "long polling takes fewer bytes": (
        "takes [\\d,]+ bytes by WebSocket against 60.5 bytes by",
        with_bytes(far(WS, LONG), LONG, 0.5),
        ALL,
    ),
    "bytes are a draw": ("by long polling: a draw", with_bytes(far(WS, LONG), WS, 0.99), NEAR),
    "other transports": (
        "bytes by SSE against [\\d,]+ bytes by short polling",
        far(CARRY["sse"], POLL),
        far(WS, POLL),
    ),
    "time": (
        "away \\(100 browsers\\), both carrying the data: WebSocket has the data 10\\d ms "
        "after the change, long polling 20\\d ms",
        slower(ALL, LONG, 100),
        ALL,
    ),
    "time is a draw": ("long polling 10\\d ms after it: a draw", ALL, slower(ALL, LONG, 100)),
    "long polling is sooner": (
        "WebSocket has the data 40\\d ms .*, long polling 10\\d ms after it \\(",
        slower(ALL, WS, 300),
        ALL,
    ),
    "CPU": (
        r"takes the server [\d.]+ µs of CPU by WebSocket against \d+ µs by long polling "
        r"\(dispatched in front of Flask\)\.$",
        ALL,
        WITHOUT_CPU,
    ),
    "both dispatches": (
        r"by long polling \(dispatched in front of Flask; 199 µs if by Flask\)",
        [*ALL, changed(far(LONG), dispatch=FLASK, cpu=[100_000.0], changes=[5])[0]],
        ALL,
    ),
    "CPU is a draw": (
        "CPU by WebSocket against 10.0 µs by long polling .*: a draw",
        changed(ALL, cpu=[1000.0], changes=[1], publish_cpu=[]),
        ALL,
    ),
    "CPU of most browsers": (
        "On the same machine \\(1,000 browsers\\).* CPU",
        [*NEAR, *(result(variant, clients=1000) for variant in VARIANTS)],
        NEAR,
    ),
    "no CPU": ("CPU per update is not known", WITHOUT_CPU, ALL),
    "one alone": ("WebSocket, carry: the data is there 10.* takes 121 bytes", far(WS), ALL),
    "carrying": (
        "saves WebSocket a request: .* 121 bytes instead of 808 bytes, .* 10\\d ms "
        "after the change instead of 30\\d ms",
        ALL,
        far(WS, LONG),
    ),
    "a request is what costs": (
        "signals takes 808 bytes an update, as much as long polling that carries",
        ALL,
        with_bytes(far(SIGNAL["websocket"], LONG), LONG, 0.3),
    ),
    "nothing new": (
        "carry, every 1 s: 200 of 1,000 requests found nothing new",
        far(POLL, WS),
        changed(far(POLL), traffic=Traffic(requests=9, up=9)),
    ),
    "near and far": (
        "On the same machine, all that push or wait look alike: .* 200 ms away",
        NEAR + ALL,
        ALL,
    ),
    "near, they differ": ("look alike", NEAR + ALL, slower(NEAR, WS, 300) + ALL),
    "nothing lost": (
        "No update was lost: browsers saw 1,800, and 200 were coalesced",
        far(WS, POLL),
        changed(ALL, WS, lost=1),
    ),
    "lost": (
        "^1 update was lost: WebSocket, carry, 100 browsers 200 ms away",
        changed(ALL, WS, lost=1),
        ALL,
    ),
    "busy": (
        "headless browsers took up to 95% of a core",
        changed(ALL, WS, worker_cpu=0.95),
        ALL,
    ),
    "several servers": (
        "On threads: .*WebSocket has the data",
        ALL + changed(ALL, server="threads"),
        ALL,
    ),
    "slow readers": (
        "short polling shows data at most 53\\d ms old, WebSocket 1.0\\d s",
        slower(slow_readers(), WS, 500),
        slow_readers(),
    ),
    "slow readers: a draw": ("cases\\): a draw", slow_readers(), slower(slow_readers(), WS, 500)),
    "slow readers: bytes": ("fewest bytes go by short polling: 1,912 bytes", slow_readers(), ALL),
    "slow readers: queued": (
        "70 updates were received but not yet shown",
        [replace(slow, queued=70 * (slow.transport == "poll")) for slow in slow_readers()],
        slow_readers(),
    ),
}


def found_in(entries: list[Result]) -> list[str]:
    return findings.sentences(Results("", {}, {}, entries))


@pytest.mark.parametrize("name", SENTENCES)
def test_a_sentence_is_there_if_the_data_implies_it(name: str) -> None:
    sentence, entries, others = SENTENCES[name]
    assert any(re.search(sentence, s) for s in found_in(entries)), found_in(entries)
    assert not any(re.search(sentence, s) for s in found_in(others)), found_in(others)
    assert max(len(found_in(entries)), len(found_in(others))) <= 11  # ten findings, and an alarm


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"failure": "the server died."}, "This run failed: the server died; what follows"),
        ({"interrupted": True}, "This run was interrupted; what follows"),
        ({"entries": []}, "Nothing was measured"),
        ({"entries": [], "interrupted": True}, "Nothing was measured"),
    ],
)
def test_how_it_ended_comes_first(
    results: Results, values: dict[str, object], sentence: str
) -> None:
    ended = replace(results, **values)  # type: ignore[arg-type]
    assert any(s.startswith(sentence) for s in findings.sentences(ended))
    assert not any(s.startswith(sentence) for s in findings.sentences(results))


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.title)
@pytest.mark.parametrize("had", [True, False])
def test_any_variant_alone_has_findings(variant: Variant, had: bool) -> None:
    alone = result(variant, rtt_ms=FAR)
    if not had:
        alone = Result("gevent", variant.transport, variant.carry, 100, 1.0, FAR)
    for sentence in found_in([alone]):
        assert re.fullmatch(r"[A-Z0-9].*\.", sentence)
        assert not re.search(r"nan|None|\binf\b", sentence)


@pytest.mark.parametrize(
    ("one", "other", "is_draw"),
    [
        ((10, 10, 10), (11.9, 11.9, 11.9), True),
        ((10, 10, 10), (12.1, 12.1, 12.1), False),
        ((12.1, 12.1, 12.1), (10, 10, 10), False),
        ((10, 20, 60, 70, 80), (40, 45, 90, 100, 110), True),
    ],
)
def test_near_medians_or_their_spread_are_a_draw(
    one: tuple[float, ...], other: tuple[float, ...], is_draw: bool
) -> None:
    first, second = (replace(result(WS), received_ms=list(samples)) for samples in (one, other))
    assert findings.same_time(first, second) == is_draw


# Plots and the page.

OUTSIDE = re.compile(r"^(https?:)?//|^(data|file|javascript):")


class Page(HTMLParser):
    """The tags of a page, and its words."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def folder(results: Results, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("comparison") / "new"
    sections = [Table("A <paper>", ["what", "then", "now"], [["a", "1", "2"]], ["What & why."])]
    written = output.write(results, folder, sections)
    assert {str(path.relative_to(folder)) for path in written} == {
        "results.json",
        "results.csv",
        "report.html",
        *(
            f"plots/{name}.{kind}"
            for name in ("latency", "bytes", "cpu")
            for kind in ("png", "svg")
        ),
    }
    assert all(path.stat().st_size for path in written)
    return folder


def test_everything_is_written(folder: Path, results: Results) -> None:
    assert Results.load(folder / "results.json").as_json() == results.as_json()
    assert json.loads((folder / "results.json").read_text())["command"] == results.command
    assert (folder / "results.csv").read_text() == tables.as_csv(results)


def test_the_report_needs_nothing_beside_it(folder: Path) -> None:
    html = (folder / "report.html").read_text()
    page = Page(html)
    assert not page.all("script")
    assert not page.all("link")
    for tag, attributes in page.tags:
        for name in ("src", "href", "xlink:href", "action", "data", "srcset"):
            assert not OUTSIDE.match(attributes.get(name, "")), (tag, attributes)
        assert not any(name.startswith("on") for name in attributes)
    assert all(url.startswith("#") for url in re.findall(r"url\(([^)]*)\)", html))
    assert "@import" not in html


def test_names_on_the_page_are_given_once_and_known(folder: Path) -> None:
    html = (folder / "report.html").read_text()
    ids = [attributes["id"] for _, attributes in Page(html).tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'url\(#([^)]*)\)|href="#', html)) - {""} <= set(ids)


def test_the_report_says_it_all(folder: Path, results: Results) -> None:
    page = Page((folder / "report.html").read_text())
    text = " ".join(page.text.split())
    for sentence in findings.sentences(results):
        assert sentence in text
    expected = (
        "A <paper>",
        "What & why.",
        results.command,
        "A Processor, 3 GHz",
        "gevent 26.9.0",
        "Slow readers",
        "coalesced",
        "52 bytes per packet",
        "10, 100, 1000",
    )
    for words in expected:
        assert words in text
    for group in tables.comparisons(results):
        assert group.title in text
    assert len(page.all("table")) == 6
    pictures = [svg for svg in page.all("svg") if svg.get("role") == "img"]
    assert [svg["class"] for svg in pictures] == ["latency", "bytes", "cpu"]
    assert len(page.all("figure")) == 3
    assert all(svg["aria-labelledby"] and svg["viewbox"] for svg in pictures)


def test_plots_on_the_page_follow_day_and_night(folder: Path) -> None:
    html = (folder / "report.html").read_text()
    drawings = html[html.index("<figure") : html.rindex("</figure>")]
    assert not re.search("#[0-9a-f]{6}", drawings)
    assert "var(--websocket)" in drawings
    # An attribute, unlike a style, cannot have a variable.
    assert not re.search(r'="var\(', drawings)


@pytest.mark.parametrize(
    ("values", "alarm"),
    [
        ({"failure": "the <server> died"}, "This run failed: the <server> died;"),
        ({"interrupted": True}, "This run was interrupted"),
        ({"entries": [replace(result(CARRY["sse"]), lost=2)]}, "2 updates were lost"),
        ({}, ""),
    ],
)
def test_the_page_says_how_it_ended(
    results: Results, values: dict[str, object], alarm: str
) -> None:
    ended = replace(results, **{"entries": results.entries[:1]} | values)  # type: ignore[arg-type]
    found = Page(page(ended, []))
    alarms = [p for p in found.all("p") if p.get("class") == "alarm"]
    assert len(alarms) == len(values)
    assert found.text.count(alarm) == 1 or not alarm


def test_a_page_of_nothing() -> None:
    assert "Nothing was measured" in page(Results("compare.py", {}, {}), [])


def test_plots_are_xml_and_have_few_points(folder: Path) -> None:
    for path in (folder / "plots").glob("*.svg"):
        root = ET.parse(path).getroot()
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        for line in root.iter("{http://www.w3.org/2000/svg}path"):
            assert line.get("d", "").count("L") <= 200
        assert path.stat().st_size < 150_000


def test_plots_are_the_same_every_time(tmp_path: Path) -> None:
    few = Results("", {}, {}, [result(WS)])
    first, second = (plots.draw(few, tmp_path / name) for name in ("first", "second"))
    assert [plot.name for plot in first] == ["latency", "bytes"]
    for one, other in zip(first, second, strict=True):
        assert one.svg.read_bytes() == other.svg.read_bytes()
        assert one.png.read_bytes() == other.png.read_bytes()


@pytest.mark.parametrize(
    ("entries", "names"),
    [
        ([], []),
        ([Result("gevent", "websocket", True, 10, 1.0, 0.0)], ["bytes"]),
        ([result(WS)], ["latency", "bytes"]),
        (slow_readers(), []),
        (changed([result(WS), result(WS, clients=10)], cpu=[], changes=[]), ["latency", "bytes"]),
    ],
)
def test_only_what_is_known_is_drawn(
    entries: list[Result], names: list[str], tmp_path: Path
) -> None:
    results = Results("", {}, {}, entries)
    assert [name for name, drawer in plots.DRAWERS.items() if drawer(results)] == names
    if len(names) <= 1:  # drawing more takes long, and proves no more
        assert [plot.name for plot in plots.draw(results, tmp_path)] == names
        assert {path.stem for path in tmp_path.iterdir()} == set(names)


@pytest.mark.parametrize("others", [[], ["threads"]])
def test_a_plot_of_one_of_several_servers_says_which(others: list[str]) -> None:
    own = [result(WS), result(WS, clients=1000)]
    entries = own + [replace(c, server=other) for other in others for c in own]
    drawn = plots.DRAWERS["cpu"](Results("", {}, {}, entries))
    assert drawn
    of_one = "gevent" if others else ""
    assert [axes.get_title() for axes in drawn.figure.axes] == [of_one]
    assert drawn.caption.endswith(" Of several servers, this is gevent.") == bool(others)
    assert drawn.alt.startswith(f"The CPU of {of_one or 'the server'} per update and browser, ")
