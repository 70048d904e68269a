"""Each paper can be repeated, small, and says of its results what follows from them."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from bench import bytes_on_wire as wire
from bench.bytes_on_wire import VALUE
from bench.fanout.crowd import DistantCrowd
from bench.report.tables import Table
from bench.results import Result, Results, Traffic
from bench.runner import Failed, Run
from bench.scenarios import Grid
from bench.statistics import quantile
from bench.studies import STUDIES, Abril, Kaazing, Pimentel, Shootout, Study

#: As many as the files that a process may open on the machines that this is for.
FILES = 20_000
#: What a poll or a frame brings: all readings are as long as this one.
READING = {"cursor": "12345678-123", "changed_at": 1790000000.123456, "value": VALUE}
NOTHING_NEW = 113  #: bytes of the answer to a poll in vain


class Quiet:
    """Somebody who is told how far it is, and only adds up."""

    advanced = 0.0

    def say(self, what: str) -> None:
        assert what

    def advance(self, seconds: float) -> None:
        self.advanced += seconds


def nothing() -> Results:
    return Results("compare.py", {}, {})


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    """One run for all: what was started and verified for one paper serves the others, too."""
    with Run(nothing(), Quiet()) as run:
        yield run


def made(run: Run, study: Study) -> Results:
    """Make the experiment; return what was found out, as it is read from a file."""
    run.results = nothing()
    study.measure(run)
    return Results.from_json(run.results.as_json())


def said(section: Table) -> str:
    return "\n".join(section.notes)


def check_form(sections: list[Table]) -> None:
    """Everything has its place in the table, and every sentence its end."""
    for section in sections:
        assert section.rows
        assert {len(row) for row in section.rows} == {len(section.header)}
        assert all(isinstance(result, str) for row in section.rows for result in row)
        assert all(text.endswith(".") and "  " not in text for text in section.notes)


def test_every_paper_is_there() -> None:
    assert list(STUDIES) == ["kaazing", "pimentel", "abril", "shootout"]
    for name, study in STUDIES.items():
        assert study.name == name
        assert study.title
        assert 5 < study.seconds < 300
        assert study.descriptors < FILES
        assert study.sections(nothing()) == []


def test_kaazing(run: Run) -> None:
    study = Kaazing(clients=(4, 8), period=0.3, changes=2)
    results = made(run, study)
    traffic, latency = sections = study.sections(results)
    check_form(sections)
    assert [result.clients for result in results.entries] == [4, 4, 8, 8]
    for result in results.entries:
        assert (result.seen + result.coalesced, result.lost) == (2 * result.clients, 0)
    # Of how many clients the sentences speak depends on whether the machine kept up with them.
    basis = re.search("from the bytes per poll and per message of ([48]) clients", said(traffic))
    assert basis
    polling = next(result for result in results.entries
                   if result.transport == "poll" and result.clients == int(basis[1]))  # fmt: skip
    # What each of these is, without having been counted at a socket.
    body = len(json.dumps(READING, separators=(",", ":")))
    answers = polling.traffic.down - polling.traffic.empty * NOTHING_NEW
    assert polling.traffic.requests == polling.seen + polling.traffic.empty
    assert answers % polling.seen == 0
    headers = (polling.traffic.bytes - body * polling.seen) / polling.traffic.requests
    assert f"have {headers:,.0f} bytes of headers" in said(traffic)
    assert f"a message has 2: {headers / 2:,.0f} to 1." in said(traffic)
    assert "871 to 2 are 435 to 1." in said(traffic)
    assert f"a whole message {body + 2}:" in said(traffic)
    assert "6.97 million bits a second, and 6.6 in its unit" in said(traffic)
    assert [row[0] for row in traffic.rows] == ["4", "4", "8", "8", "100,000", "100,000"]
    for row, size in zip(traffic.rows[-2:], (headers, 2), strict=True):
        assert row[1] == "computed"
        bits = 100_000 / 0.3 * size * 8
        assert float(row[4].replace(",", "")) == pytest.approx(bits / 1e6, rel=0.006)
        assert float(row[5].replace(",", "")) == pytest.approx(bits / 2**20, rel=0.006)
    assert [row[6] for row in traffic.rows] == ["–"] * 4 + ["665", "1.526"]
    for row, result in zip(latency.rows, results.entries, strict=True):
        assert row[0] == str(result.clients)
        assert row[2] == f"{quantile(result.notified_ms, 0.5):,.1f}"
        assert row[-1] == f"{max(result.notified_ms):,.1f}"


def test_pimentel(run: Run) -> None:
    study = Pimentel(distances=(0.0, 30.0), pace=0.1, rounds=2, changes=2)
    results = made(run, study)
    [section] = sections = study.sections(results)
    check_form(sections)
    names = ["polling", "long polling", "WebSocket"]
    assert [row[:2] for row in section.rows] == [
        [rtt_ms, name] for rtt_ms in ("0", "30") for name in names
    ]
    for row, result in zip(section.rows, results.entries, strict=True):
        shares = (0.05, 0.5, 0.95, 0.99, 1)
        assert row[2:7] == [f"{quantile(result.notified_ms, q):,.1f}" for q in shares]
        assert row[7:] == [str(result.seen), str(result.coalesced)]
        assert result.seen + result.coalesced == result.published == 4
        assert min(result.notified_ms) >= result.rtt_ms / 2  # nothing is faster than its way
    assert "0 and 30 ms for a round trip" in said(section)
    assert "Near the server, half" in said(section)
    assert "30 ms away, half" in said(section)
    assert "a sensor with 10 readings a second" in said(section)


def test_abril(run: Run) -> None:
    study = Abril(pace=0.25)
    results = made(run, study)
    [section] = sections = study.sections(results)
    check_form(sections)
    rows = {row[0]: [int(result.replace(",", "").replace("–", "0")) for result in row[1:]]
            for row in section.rows}  # fmt: skip
    assert {name: row[0] for name, row in rows.items()} == {
        "reload": 5570, "reload of /data only": 0, "short poll": 3609, "long poll": 1908,
        "SSE": 1071, "WebSocket": 629,
    }  # fmt: skip
    for _, responses, frames, up, _, total in rows.values():
        assert responses + frames + up == total
    # What it takes to hear of five updates: as many requests, and one that waits for a sixth. Where
    # the machine paused, some were coalesced, and some questions were asked in vain.
    entries = {result.transport: result for result in results.entries}
    for result in entries.values():
        assert (result.seen + result.coalesced, result.lost) == (5, 0)
    asked, polls = (
        entries["poll"].seen + entries["poll"].traffic.empty,
        entries["longpoll"].seen + 1,
    )
    assert {name: row[4] for name, row in rows.items()} == {
        "reload": 5, "reload of /data only": 5, "short poll": asked, "long poll": polls,
        "SSE": 1, "WebSocket": 1,
    }  # fmt: skip
    frame = 2 + len(json.dumps(READING, separators=(",", ":")))
    frames = entries["websocket"].seen * frame
    assert rows["WebSocket"][2] == frames
    assert f"{frames:,} bytes, {frames / 5:,.0f} for each update" in said(section)
    # The same as a browser's requests are, by their templates.
    port = run.target("serve.py", results.entries[0].variant).port
    template = wire.NAVIGATE.format(path="/", host=f"127.0.0.1:{port}", agent=wire.AGENT, etag="")
    assert rows["reload"][3] == 5 * len(template)
    answer = rows["reload of /data only"][1] // 5
    assert rows["reload of /data only"][1] == 5 * answer
    in_vain = NOTHING_NEW * entries["poll"].traffic.empty
    assert rows["short poll"][1] == entries["poll"].seen * answer + in_vain
    needs = f"Long polling needs {polls} requests for 5 updates"
    assert (needs in said(section)) == (polls > 5)
    smallest = min(rows, key=lambda name: rows[name][1])
    assert f"From the fewest response bytes to the most: {smallest}, " in said(section)


def test_shootout_until_there_are_no_more_files(run: Run) -> None:
    study = Shootout(step=20, samples=3, limit=60_000, files=145)
    results = made(run, study)
    assert results.extra["ended_by"] == "descriptors"
    steps = results.extra["steps"]
    assert [step["clients"] for step in steps] == [20, 40]
    assert [len(step["milliseconds"]) for step in steps] == [3, 3]
    check_form(study.sections(results))


def test_shootout_until_it_takes_too_long(run: Run) -> None:
    results = made(run, Shootout(step=20, samples=3, limit=0.0))
    assert results.extra["ended_by"] == "latency"
    assert len(results.extra["steps"]) == 1
    capacity, _ = sections = Shootout().sections(results)
    check_form(sections)
    assert capacity.rows[-1][:2] == ["Python, serve.py", "0"]


def shot(**more: Any) -> list[Table]:
    """The sections of three steps, of which the last has a p95 of 600 ms."""
    steps = [
        {"clients": 1000 * number, "milliseconds": [200.0 * number] * 20} for number in (1, 2, 3)
    ]
    results = nothing()
    results.extra = {"steps": steps, "limit": 500, "files": FILES, **more}
    sections = Shootout().sections(results)
    check_form(sections)
    return sections


def test_what_the_shootout_says_of_its_end() -> None:
    capacity, every = shot(ended_by="latency")
    assert "with 3,000 clients, p95 of the round trip was 600.0 ms" in said(capacity)
    assert "So it held 2,000." in said(capacity)
    assert capacity.rows[-1] == ["Python, serve.py", "2", "measured here"]
    assert every.rows[1] == ["2,000", "400.0", "400.0", "400.0"]
    assert "figures are not comparable one to one" in said(capacity)

    capacity, _ = shot(ended_by="descriptors", limit=1000)
    assert "A process may open 20,000 files here" in said(capacity)
    assert "no 1,000 more could come: 3,000 is what was reached" in said(capacity)
    assert capacity.rows[-1] == ["Python, serve.py", "≥ 3", "measured here"]

    capacity, _ = shot(limit=1000)
    assert "It ended early: with 3,000 clients" in said(capacity)


def test_a_shootout_that_cannot_go_on_says_where(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise wire.WrongResponse("the server closed a socket")

    monkeypatch.setattr(DistantCrowd, "join", fail)
    run.results = nothing()
    with pytest.raises(Failed, match="shootout, 20 clients: the server closed a socket"):
        Shootout(step=20, samples=3).measure(run)


def polled(clients: int, *, requests: int, seen: int, seconds: float = 2.0) -> list[Result]:
    """Both ways, two changes, bodies of 100 bytes, 700 bytes of headers a poll with news."""
    empty = requests - seen
    common: dict[str, Any] = {
        "server": "serve.py",
        "carry": True,
        "clients": clients,
        "pace": 1.0,
        "rtt_ms": 0.0,
    }
    return [
        Result(
            transport="poll",
            period=1.0,
            published=2,
            seen=seen,
            coalesced=2 * clients - seen,
            notified_ms=[400.0, 600.0],
            seconds=seconds,
            **common,
            traffic=Traffic(requests=requests, empty=empty, up=500 * requests, down=300 * seen),
        ),
        Result(
            transport="websocket",
            published=2,
            seen=2 * clients,
            notified_ms=[1.0, 3.0],
            seconds=1.1,
            traffic=Traffic(messages=2 * clients, down=102 * 2 * clients),
            **common,
        ),
    ]


def test_kaazing_where_the_machine_does_not_keep_up() -> None:
    results = nothing()
    results.entries = polled(1000, requests=2000, seen=2000)
    results.entries += polled(10_000, requests=10_000, seen=8000, seconds=4.0)
    traffic, latency = sections = Kaazing().sections(results)
    check_form(sections)
    assert "did not keep up with 10,000 clients" in said(traffic)
    assert "2,500 polls a second were answered where 10,000 were due" in said(traffic)
    assert "60% were never seen" in said(traffic)
    assert "over WebSocket 0%" in said(traffic)
    assert "700 bytes of headers, 500 of them in the request" in said(traffic)
    assert "and a message has 2: 350 to 1" in said(traffic)
    assert "with every poll answered, its headers would be 56.0 Mbit/s" in said(traffic)
    assert "of 1,000 clients, as if every poll were answered" in said(traffic)
    thousand, _, *_, computed, _ = traffic.rows
    assert thousand == ["1,000", "measured", "polling", "1,000", "5.60", "5.34", "6.6", "6.40"]
    assert computed[:7] == ["100,000", "computed", "polling", "100,000", "560", "534", "665"]
    assert "With 1,000 clients, the median is 500.0 ms for polling and 2.0 ms" in said(latency)
    assert "and here for the server besides" in latency.notes[2]


def test_kaazing_where_it_only_seems_not_to() -> None:
    """What is computed is computed from what kept up, if anything did."""
    results = nothing()
    results.entries = polled(1000, requests=1500, seen=1500)
    results.entries += polled(2000, requests=4000, seen=4000)
    traffic, _ = Kaazing().sections(results)
    assert "did not keep up with 1,000 clients" in said(traffic)
    assert "of 2,000 clients, as if every poll were answered" in said(traffic)
    results.entries[2].traffic.requests = 3000
    traffic, _ = Kaazing().sections(results)
    assert "of 1,000 clients, as if every poll were answered" in said(traffic)


def test_kaazing_where_it_does() -> None:
    results = nothing()
    results.entries = polled(1000, requests=2000, seen=2000)
    traffic, _ = Kaazing().sections(results)
    assert "kept up with 1,000 polling clients" in said(traffic)
    assert "did not keep up" not in said(traffic)


def test_what_was_not_measured_any_more_is_left_out() -> None:
    results = nothing()
    results.entries = polled(1000, requests=2000, seen=2000)[1:]
    results.entries.append(Result("serve.py", "poll", True, 1000, 1.0, 0.0))
    assert Kaazing().sections(results) == []
    assert Pimentel().sections(results) == []

    results.entries = polled(1, requests=2, seen=2)
    [section] = Pimentel().sections(results)
    assert len(section.rows) == 2
    assert "half of the readings" not in said(section)
    [section] = Abril().sections(results)
    assert [row[0] for row in section.rows] == ["short poll", "WebSocket"]
    assert "Our page" not in said(section)
    check_form([section])


def test_one_client_polls_at_another_moment_in_each_turn() -> None:
    drifting = Grid([], rounds=4, drifting=True)
    assert [drifting.phase(number) for number in range(4)] == [0.125, 0.375, 0.625, 0.875]
    assert Grid([], rounds=4).phase(3) == 0.5
