"""The report, tables, plots and findings follow from the results, and from nothing else."""

import csv
import io
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from rich.console import Console

from bench import output
from bench.processes import ROOT
from bench.report import findings, tables, terminal
from bench.report.formatting import away, clients, duration, significant, size
from bench.report.html import page
from bench.report.tables import Table
from bench.results import Result, Results, Traffic
from bench.scenarios import FLASK, VARIANTS, Variant
from pushlab.transports import TRANSPORTS
from tests.sample_results import result, sample_results, slow_readers

POLL, LONG, SSE, WS = (Variant(transport, carry=True) for transport in TRANSPORTS)
SIGNAL = [Variant(transport, carry=False) for transport in TRANSPORTS]
WS_SIGNAL = SIGNAL[-1]
NOTHING = Result("gevent", "websocket", True, 10, 1.0, 0.0)


def made_of(entries: list[Result]) -> Results:
    return Results("", {}, {}, entries)


def changed(entries: list[Result], variant: Variant | None = None, **values: Any) -> list[Result]:
    """Return them, those of a variant or all with other values."""
    return [replace(one, **values) if variant in (None, one.variant) else one for one in entries]


@pytest.fixture(scope="module")
def results() -> Results:
    return sample_results()


@pytest.fixture(scope="module")
def plots() -> ModuleType:
    """Import Matplotlib where it is used: each worker imports all tests."""
    return import_module("bench.report.plots")


# Raw samples.


def test_json_brings_back_what_was_measured_a_line_for_each_list(results: Results) -> None:
    text = results.as_json()
    again = Results.from_json(text)
    assert again.as_json() == text
    samples = dict.fromkeys(("notified_ms", "received_ms", "cpu", "publish_cpu"), ())
    for one, other in zip(again.entries, results.entries, strict=True):
        for name in samples:
            assert getattr(one, name) == pytest.approx(getattr(other, name), abs=0.006)
        assert vars(one) | samples == vars(other) | samples
    count = sum(len(result.notified_ms) + len(result.received_ms) for result in results.entries)
    assert len(text) < 9 * count + 5000 * len(results.entries)
    assert all(line.count("[") <= 1 for line in text.splitlines())
    assert len(re.findall(r'"received_ms": \[.*\]', text)) == len(results.entries)


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
    fast = [one for one in results.entries if not one.processing_time]
    rows = list(csv.DictReader(io.StringIO(tables.as_csv(results))))
    assert len(rows) == len(results.entries)
    which = ("transport", "payload", "clients", "rtt_ms", "processing_time_s")
    of = {tuple(row[name] for name in which): row for row in rows}
    for one in fast:
        payload, rtt_ms = one.variant.payload, f"{one.rtt_ms:g}"
        row = of[one.transport, payload, str(one.clients), rtt_ms, "0"]
        assert float(row["bytes_per_update"]) == pytest.approx(one.bytes_per_update, abs=0.01)
        assert float(row["received_max_ms"]) == pytest.approx(max(one.received_ms), abs=0.01)
        assert row["lost"] == "0"
        assert None not in row
        assert bool(row["memory_bytes_per_client"]) == (one.clients >= 100)
        assert row["period_s"] == ("1" if one.transport == "poll" else "")


def test_what_is_not_known_is_empty() -> None:
    (row,) = csv.DictReader(io.StringIO(tables.as_csv(made_of([NOTHING]))))
    for name in ("received_p50_ms", "notified_max_ms", "cpu_p50_us_per_update_and_client",
                 "memory_bytes_per_client", "bytes_per_second_and_client"):  # fmt: skip
        assert row[name] == ""


def test_the_order_is_that_of_bytes_and_of_nothing_that_was_timed(results: Results) -> None:
    untimed = changed(results.entries[::-1], received_ms=[], notified_ms=[], cpu=[], changes=[])

    def order(entries: list[Result]) -> list[tuple[str, list[str]]]:
        found = tables.comparisons(made_of(entries))
        for group in found:
            sizes = [result.bytes_per_update for result in group.entries]
            assert sizes == sorted(sizes)
        return [(group.title, [result.title for result in group.entries]) for group in found]

    assert order(untimed) == order(results.entries)
    assert len(order(untimed)) == 5
    assert order(untimed)[-1][0].endswith("0.5 s to show each")


@pytest.mark.parametrize(
    ("function", "texts"),
    [
        (significant, {0: "0", 0.01234: "0.0123", 9.996: "10.0", 99.96: "100", 1234.5: "1,230"}),
        (significant, {-3.14: "-3.14"}),
        (duration, {0.01234: "12.3 µs", 0.5: "500 µs", 1.234: "1.23 ms", 999.6: "1.00 s"}),
        (duration, {203.4: "203 ms"}),
        (size, {121: "121 bytes", 1514: "1,514 bytes", 34_560: "34.6 kB", 1.2e6: "1.20 MB"}),
        (away, {0.0: "on the same machine", 200.0: "200 ms away"}),
        (clients, {1: "1 browser", 1000: "1,000 browsers"}),
    ],
)
def test_numbers_for_people(function: Callable[[float], str], texts: dict[float, str]) -> None:
    assert {value: function(value) for value in texts} == texts


# The terminal.


def shown(results: Results, width: int = 100) -> str:
    console = Console(width=width, file=io.StringIO())
    console.print(terminal.figures(results))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_table_fits_a_terminal(results: Results) -> None:
    text = shown(results)
    assert "…" not in text
    assert "\x1b" not in text
    for group in tables.comparisons(results):
        assert group.title.split(",")[0] in text
    for variant in VARIANTS:
        assert len(re.findall(f"^{variant.title} ", text, re.MULTILINE)) >= 4
    assert re.search(r"^Long polling, signal .* 1,046 +468 ", text, re.MULTILINE)


def test_the_table_has_no_room_for_what_nobody_knows() -> None:
    (plain,) = changed([result(SSE, clients=10)], cpu=[], changes=[], received_ms=[])
    text = shown(made_of([plain]))
    assert "CPU" not in text
    assert "mem." not in text
    both = shown(made_of([plain, result(WS, clients=10)]))
    assert re.search("^SSE, carry .*–", both, re.MULTILINE)
    assert "Nothing was measured" in shown(made_of([]))


@pytest.mark.parametrize("is_terminal", [False, True])
def test_progress(is_terminal: bool) -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=is_terminal, width=100)
    with terminal.Progress(3, console) as progress:
        progress.say("100 browsers, 200 ms away: [WebSocket], carry")
        progress.finish_round()
        progress.say("the next")
    text = stream.getvalue()
    if is_terminal:
        assert "\x1b" in text
        assert "the next" in text
    else:
        steps = ["100 browsers, 200 ms away: [WebSocket], carry", "the next"]
        assert text.splitlines() == steps


# The findings.


def far(*variants: Variant) -> list[Result]:
    return [result(variant, rtt_ms=200.0) for variant in variants]


def with_bytes(entries: list[Result], variant: Variant, q: float) -> list[Result]:
    """Return them, one with this share of the other's bytes."""
    own, other = sorted(entries, key=lambda one: one.variant != variant)
    down = int(other.bytes_per_update * own.seen * q)
    return changed(entries, variant, traffic=replace(own.traffic, up=0, down=down))


def slower(entries: list[Result], variant: Variant, by: float) -> list[Result]:
    (own,) = (one for one in entries if one.variant == variant)
    return changed(entries, variant, received_ms=[value + by for value in own.received_ms])


ALL, SLOW = far(*VARIANTS), slow_readers()
NEAR = [result(variant) for variant in VARIANTS]
MOST = [result(variant, clients=1000) for variant in VARIANTS]
WS_LATE, LONG_LATE, SLOW_LATE = slower(ALL, WS, 300), slower(ALL, LONG, 100), slower(SLOW, WS, 500)
WS_LOST, NO_CPU = changed(ALL, WS, lost=1), changed(ALL, cpu=[], changes=[])
HALF, AS_MANY = with_bytes(far(WS, LONG), LONG, 0.5), with_bytes(far(WS, LONG), WS, 0.99)
FEWER = with_bytes(far(WS_SIGNAL, LONG), LONG, 0.3)
SAME_CPU = changed(ALL, cpu=[1000.0], changes=[1], publish_cpu=[])
BY_FLASK = changed(far(LONG), dispatch=FLASK, cpu=[100_000.0], changes=[5])
NO_VAIN = changed(far(POLL), traffic=Traffic(requests=9, up=9))
QUEUED = [replace(slow, queued=70 * (slow.transport == "poll")) for slow in SLOW]

#: A part of a sentence, results that imply it, and results that do not.
SENTENCES: list[tuple[str, list[Result], list[Result]]] = [
    (r"both carrying the data: an update takes 121 bytes by WebSocket", ALL, far(WS_SIGNAL)),
    (r"^Like with like.* WebSocket against 861 bytes by long polling\.$", ALL, far(WS, POLL)),
    (r"only signalling: .* 808 bytes by WebSocket against 1,514 bytes", far(*SIGNAL), ALL),
    (r"takes [\d,]+ bytes by WebSocket against 60.5 bytes by", HALF, ALL),
    (r"by long polling: a draw", AS_MANY, NEAR),
    (r"bytes by SSE against [\d,]+ bytes by short polling", far(SSE, POLL), far(WS, POLL)),
    (r"away \(100 browsers\), both carrying the data: WebSocket has the data 10\d ms", ALL, NEAR),
    (r"10\d ms after the change, long polling 20\d ms", LONG_LATE, ALL),
    (r"long polling 10\d ms after it: a draw", ALL, LONG_LATE),
    (r"WebSocket has the data 40\d ms .*, long polling 10\d ms after it \(", WS_LATE, ALL),
    (r"takes the server [\d.]+ µs of CPU by WebSocket against \d+ µs by long", ALL, NO_CPU),
    (r" µs by long polling \(dispatched in front of Flask\)\.$", ALL, ALL + BY_FLASK),
    (r"polling \(dispatched in front of Flask; 199 µs if by Flask\)", ALL + BY_FLASK, ALL),
    (r"CPU by WebSocket against 10.0 µs by long polling .*: a draw", SAME_CPU, ALL),
    (r"On the same machine \(1,000 browsers\).* CPU", NEAR + MOST, NEAR),
    (r"saves WebSocket a request: .* 121 bytes instead of 808 bytes", ALL, far(WS, LONG)),
    (r"saves .* 10\d ms after the change instead of 30\d ms", ALL, far(WS, LONG)),
    (r"signals takes 808 bytes an update, as much as long polling that carries", ALL, FEWER),
    (r"carry, every 1 s: 200 of 1,000 requests found nothing new", far(POLL, WS), NO_VAIN),
    (r"On the same machine, all that push or wait look alike: .* 200 ms away", NEAR + ALL, ALL),
    (r"look alike", NEAR + ALL, slower(NEAR, WS, 300) + ALL),
    (r"No update was lost: .* saw 1,800, and 200 were coalesced", far(WS, POLL), WS_LOST),
    (r"^1 update was lost: WebSocket, carry, 100 browsers 200 ms away", WS_LOST, ALL),
    (r"headless browsers took up to 95% of a core", changed(ALL, WS, worker_cpu=0.95), ALL),
    (r"On threads: .*WebSocket has the data", ALL + changed(ALL, server="threads"), ALL),
    (r"short polling shows data at most 53\d ms old, WebSocket 1.0\d s", SLOW_LATE, SLOW),
    (r"cases\): a draw", SLOW, SLOW_LATE),
    (r"fewest bytes go by short polling: 1,912 bytes", SLOW, ALL),
    (r"70 updates were received but not yet shown", QUEUED, SLOW),
]


@pytest.mark.parametrize(("sentence", "entries", "others"), SENTENCES)
def test_a_sentence_is_there_if_the_data_implies_it(
    sentence: str, entries: list[Result], others: list[Result]
) -> None:
    found, elsewhere = (findings.sentences(made_of(each)) for each in (entries, others))
    assert any(re.search(sentence, one) for one in found), found
    assert not any(re.search(sentence, one) for one in elsewhere), elsewhere
    assert max(len(found), len(elsewhere)) <= 11  # ten findings, and an alarm


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

KINDS = ("png", "svg")
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
    plots = (f"plots/{name}.{kind}" for name in ("latency", "bytes", "cpu") for kind in KINDS)
    names = {"results.json", "results.csv", "report.html", *plots}
    assert {str(path.relative_to(folder)) for path in written} == names
    assert all(path.stat().st_size for path in written)
    return folder


@pytest.fixture(scope="module")
def html(folder: Path) -> str:
    return (folder / "report.html").read_text()


def test_everything_is_written(folder: Path, results: Results) -> None:
    assert Results.load(folder / "results.json").as_json() == results.as_json()
    assert (folder / "results.csv").read_text() == tables.as_csv(results)


def test_the_report_needs_nothing_beside_it(html: str) -> None:
    page = Page(html)
    assert not page.all("script")
    assert not page.all("link")
    for tag, attributes in page.tags:
        for name in ("src", "href", "xlink:href", "action", "data", "srcset"):
            assert not OUTSIDE.match(attributes.get(name, "")), (tag, attributes)
        assert not any(name.startswith("on") for name in attributes)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert set(re.findall(r"url\(([^)]*)\)", html)) <= {f"#{name}" for name in ids}
    assert set(re.findall(r'href="([^"]*)', html)) <= {f"#{name}" for name in ids}
    assert "@import" not in html


def test_the_report_says_it_all(html: str, results: Results) -> None:
    page = Page(html)
    text = " ".join(page.text.split())
    for sentence in findings.sentences(results):
        assert sentence in text
    words = "A <paper>; What & why.; Slow readers; coalesced; 52 bytes per packet; 10, 100, 1000"
    for each in [*words.split("; "), results.command, "A Processor, 3 GHz", "gevent 26.9.0"]:
        assert each in text
    for group in tables.comparisons(results):
        assert group.title in text
    assert len(page.all("table")) == 6
    pictures = [svg for svg in page.all("svg") if svg.get("role") == "img"]
    assert [svg["class"] for svg in pictures] == ["latency", "bytes", "cpu"]
    assert len(page.all("figure")) == 3
    assert all(svg["aria-labelledby"] and svg["viewbox"] for svg in pictures)


def test_plots_on_the_page_follow_day_and_night(html: str) -> None:
    drawings = html[html.index("<figure") : html.rindex("</figure>")]
    assert not re.search("#[0-9a-f]{6}", drawings)
    assert "var(--websocket)" in drawings
    # An attribute, unlike a style, cannot have a variable.
    assert not re.search(r'="var\(', drawings)


@pytest.mark.parametrize(
    ("values", "alarm"),
    [
        ({"failure": "the <server> died."}, "This run failed: the <server> died; what follows"),
        ({"interrupted": True}, "This run was interrupted; what follows"),
        ({"entries": [replace(NOTHING, published=1, lost=2)]}, "2 updates were lost"),
        ({"entries": [], "interrupted": True}, "This run was interrupted; what follows"),
        ({"entries": []}, ""),
        ({}, ""),
    ],
)
def test_how_it_ended_comes_first(results: Results, values: dict[str, Any], alarm: str) -> None:
    ended = replace(results, **{"entries": results.entries[:1]} | values)
    found = Page(page(ended, []))
    assert len([p for p in found.all("p") if p.get("class") == "alarm"]) == bool(alarm)
    assert findings.sentences(ended)[0].startswith(alarm)
    assert found.text.count(alarm) == 1 or not alarm
    assert ("Nothing was measured." in findings.sentences(ended)) == (not ended.entries)
    assert ("Nothing was measured" in found.text) == (not ended.entries)


def test_plots_are_xml_and_have_few_points(folder: Path) -> None:
    for path in (folder / "plots").glob("*.svg"):
        root = ET.parse(path).getroot()
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        for line in root.iter("{http://www.w3.org/2000/svg}path"):
            assert line.get("d", "").count("L") <= 200
        assert path.stat().st_size < 150_000


def test_plots_are_the_same_every_time(plots: ModuleType, tmp_path: Path) -> None:
    pair = [plots.draw(made_of([result(WS)]), tmp_path / name) for name in ("first", "second")]
    assert [plot.svg.stem for plot in pair[0]] == ["latency", "bytes"]
    for one, other in zip(*pair, strict=True):
        for kind in KINDS:
            first, second = (each.svg.with_suffix(f".{kind}") for each in (one, other))
            assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize(
    ("entries", "names"),
    [
        ([], []),
        ([NOTHING], ["bytes"]),
        ([result(WS)], ["latency", "bytes"]),
        (slow_readers(), []),
        (changed([result(WS), result(WS, clients=10)], cpu=[], changes=[]), ["latency", "bytes"]),
    ],
)
def test_only_what_is_known_is_drawn(
    plots: ModuleType, entries: list[Result], names: list[str], tmp_path: Path
) -> None:
    results = made_of(entries)
    assert [name for name, drawer in plots.DRAWERS.items() if drawer(results)] == names
    if len(names) <= 1:  # drawing more takes long, and proves no more
        assert [plot.svg.stem for plot in plots.draw(results, tmp_path)] == names
        assert {path.stem for path in tmp_path.iterdir()} == set(names)


@pytest.mark.parametrize("of_one", ["", "gevent"])
def test_a_plot_of_one_of_several_servers_says_which(plots: ModuleType, of_one: str) -> None:
    own = [result(WS), result(WS, clients=1000)]
    drawn = plots.DRAWERS["cpu"](made_of(own + changed(own, server="threads") * bool(of_one)))
    assert drawn
    assert [axes.get_title() for axes in drawn.figure.axes] == [of_one]
    assert drawn.caption.endswith(" Of several servers, this is gevent.") == bool(of_one)
    assert drawn.alt.startswith(f"The CPU of {of_one or 'the server'} per update and browser, ")
