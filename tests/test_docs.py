"""The figures of the README and the docs are those of docs/results, and so are the sentences."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.fanout import experiments
from bench.fanout.report import GOALS, Report
from bench.report import diagrams, docs, findings
from bench.results import PUBLISHED
from bench.statistics import quantile
from bench.studies import STUDIES
from bench.studies.kaazing import flows, keeps_up
from tests.conftest import ROOT

README = (ROOT / "README.rst").read_text()


def says(document: str, sentence: str) -> bool:
    """Tell whether a document has this wording, which a test is about."""
    return sentence in " ".join((ROOT / document).read_text().split())


def test_every_figure_is_that_of_a_raw_result() -> None:
    """If not: `make figures`, and read what the documents say of the figures."""
    assert docs.run("--check") == 0


def dearer_frames(found: Any) -> None:
    found["costs"]["WebSocket, carry"]["down"] += 60


def larger_sockets(found: Any) -> None:
    for figure in found["figures"]:
        figure["samples"] = (
            [7000.0] if figure["what"] == "memory per push socket" else figure["samples"]
        )


def heavier_threads(found: Any) -> None:
    for server in found["servers"].values():
        for samples in server.values():
            samples[:] = [sample + 9000 for sample in samples]


@pytest.mark.parametrize(
    ("name", "edit", "documents"),
    [
        ("wire", dearer_frames, {"README.rst", "transports.rst", "what-push-costs.rst"}),
        ("servers", heavier_threads, {"servers.rst", "uwsgi.rst", "concurrency.rst"}),
        (
            "fanout",
            larger_sockets,
            {"README.rst", "compression.rst", "speed.rst", "fanout.rst", "what-push-costs.rst"},
        ),
    ],
)
def test_a_changed_result_is_found_and_followed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    edit: Callable[[Any], None],
    documents: set[str],
) -> None:
    shutil.copy(ROOT / "README.rst", tmp_path)
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    monkeypatch.setattr(docs, "PUBLISHED", tmp_path / "docs" / "results")
    before = {path: path.read_text() for path in tmp_path.rglob("*.rst")}
    raw = tmp_path / "docs" / "results" / f"{name}.json"
    found = json.loads(raw.read_text())
    edit(found)
    raw.write_text(json.dumps(found))
    assert docs.run("--check", root=tmp_path) != 0
    assert {path: path.read_text() for path in before} == before, "a check changes nothing"
    assert docs.run("-r", root=tmp_path) == 0
    assert {path.name for path in before if path.read_text() != before[path]} == documents
    assert docs.run("--check", root=tmp_path) == 0


def test_every_number_is_used() -> None:
    text = "".join(path.read_text() for path in (ROOT / "docs").rglob("*.rst")) + README
    for name in docs.all_numbers():
        assert f"\n.. |{name}| replace:: " in text, name


def test_every_raw_result_has_the_command_that_measures_it_again() -> None:
    found = sorted(PUBLISHED.glob("*.json"))
    assert len(found) >= 8
    for path in found:
        command = json.loads(path.read_text())["command"]
        assert re.match(r"(python -m bench\.\w+|python compare\.py)( |$)", command)


# Sentences whose wording depends on the figures. If one fails after a new measurement, reword the
# document.


def test_a_signal_costs_as_many_bytes_as_a_long_poll_that_carries() -> None:
    document = "docs/explanation/what-push-costs.rst"
    assert says(document, "it costs as many bytes as a long poll that carries")
    assert says(document, "Requests are what costs.")
    wire = docs.raw("wire")["costs"]
    costs = {name: cost["up"] + cost["down"] for name, cost in wire.items()}
    ratio = costs["WebSocket, signal then fetch"] / costs["long poll, carry"]
    assert 0.9 < ratio < 1.1
    pushed = {costs.pop("WebSocket, carry"), costs.pop("SSE, carry")}
    assert 3 * max(pushed) < min(costs.values())


def test_the_diagrams_are_those_of_the_recording() -> None:
    """If not: `make figures`, which draws what is recorded; `python -m bench.diagrams` records."""
    for name in diagrams.KINDS:
        assert diagrams.RECORDING.with_name(f"{name}.svg").read_text() == diagrams.svg(name)


def test_what_the_page_with_the_diagrams_says() -> None:
    document = "docs/explanation/transports.rst"
    shown = {name: [number for number, _ in found["shown"]]
             for name, found in diagrams.recording()["kinds"].items()}  # fmt: skip
    assert says(document, "that happened to 4. And 3 was skipped")
    assert shown["longpoll"] == [1, 2, 4, 5]
    assert says(document, "All five readings arrive, each after one trip.")
    assert shown["sse"] == shown["websocket"] == [1, 2, 3, 4, 5]
    trip = diagrams.recording()["rtt_ms"] / 2000
    for name in ("sse", "websocket"):
        found = diagrams.recording()["kinds"][name]
        for (_, changed), (_, at) in zip(found["changes"], found["shown"], strict=True):
            assert trip <= at - changed < 2 * trip
    assert says(document, "each reading takes three trips")
    (_, changed), (_, at) = (diagrams.recording()["kinds"]["longpoll-signal"][row][0]
                             for row in ("changes", "shown"))  # fmt: skip
    assert 3 * trip <= at - changed < 4 * trip


def test_polling_wins_with_slow_readers() -> None:
    assert says("docs/explanation/polling.rst", "Polling wins clearly.")
    assert says("docs/explanation/polling.rst", "Short polling also sends fewer bytes")
    slow = {result.variant: result for result in docs.groups()[-1].entries}
    push = slow[docs.PUSH]
    for variant in (docs.LONG, docs.SHORT, docs.PUSH_SIGNAL):
        ages = [quantile(slow[one].received_ms, 0.95) for one in (variant, docs.PUSH)]
        assert 1.5 * ages[0] < ages[1]
    assert 1.5 * (slow[docs.SHORT].bytes_per_second or 0) < (push.bytes_per_second or 0)


def test_the_goals_that_are_missed_are_named() -> None:
    text = (ROOT / "docs/explanation/speed.rst").read_text()
    section = text[text.index("What is missed") :]
    report = docs.fanout()
    for goal in GOALS:
        assert goal.found(report), f"not measured: {goal.title}"
        assert (f"\n- {goal.title}, N = " in section) != goal.is_met(report)


def test_what_the_page_about_speed_says() -> None:
    page = "docs/explanation/speed.rst"
    assert says(page, "It is no more after hundreds of changes than before, but for one arena")
    arena = 256 * 1024
    for clients, bytes_each in ((1000, 328), (5000, 55)):
        assert round(arena / (clients - experiments.FIRST)) == bytes_each
    assert says(page, "which is 328 bytes for each of the browsers that are measured at N = 1,000")
    assert says(page, "and 55 at 5,000")
    report = docs.fanout()
    for kind in experiments.KINDS:
        before = report.all(f"memory per {kind.one}")
        after = report.all(f"memory per {kind.one}, after the changes")
        for one, other in zip(before, after, strict=True):
            allowed = arena / (one.clients - experiments.FIRST)
            assert other.median < one.median + allowed + 100  # bytes


def test_what_the_studies_say() -> None:
    """docs/results/kaazing.rst, pimentel.rst, abril.rst and shootout.rst."""
    (few, _), (many, many_sockets) = flows(docs.results("kaazing"))
    assert keeps_up(few)
    assert not keeps_up(many)
    assert not many_sockets.result.coalesced
    assert 480 < quantile(few.result.notified_ms, 0.5) < 520

    for result in docs.results("pimentel").entries:
        p50 = quantile(result.notified_ms, 0.5)
        near = result.rtt_ms <= (300 if result.transport == "websocket" else 150)
        if result.transport != "poll" and near:
            assert 0 <= p50 - result.rtt_ms / 2 < 2
            assert not result.coalesced
        elif result.rtt_ms > 250:
            assert result.coalesced

    (table,) = STUDIES["abril"].tables(docs.results("abril"))
    rows = {row[0]: [int(row[place].replace(",", "")) for place in (2, 5, 6)] for row in table.rows}
    order = ["WebSocket", "SSE", "long poll", "short poll", "reload"]
    assert sorted(order, key=lambda name: rows[name][0]) == order
    assert rows["long poll"][1] == rows["short poll"][1] + 1
    assert rows["long poll"][2] > rows["short poll"][2]

    assert docs.results("shootout").extra["ended_by"] == "descriptors"


def test_the_first_finding_compares_like_with_like() -> None:
    first = findings.sentences(docs.results("compare"))[0]
    numbers = docs.all_numbers()
    expected = (numbers["wire push"], numbers["wire long poll"])
    assert tuple(re.findall(r"([\d,]+) bytes", first)) == expected


def test_a_report_can_be_read_again() -> None:
    report = docs.fanout()
    assert Report.from_json(report.as_json()) == report
    assert report.all("memory per stream", clients=5000)[0].clients == 5000
    with pytest.raises(LookupError, match="no figure 'memory per stream' of Pushlab for 3"):
        report.all("memory per stream", clients=3)
