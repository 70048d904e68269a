"""Each study can be repeated; its tables follow from results."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from bench.clients.chromium import NAVIGATE, request
from bench.clients.http import WrongResponse
from bench.clients.publisher import VALUE
from bench.fanout.subscribers import Subscribers
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
BODY = len(json.dumps(READING, separators=(",", ":")))
NOTHING_NEW = 113  #: bytes of a response with nothing new


class Quiet:
    """Progress that is not shown."""

    def say(self, what: str) -> None:
        assert what

    def finish_round(self) -> None:
        pass


def nothing() -> Results:
    return Results("compare.py", {}, {})


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    """One run for all studies, so servers start once."""
    with Run(nothing(), Quiet()) as run:
        yield run


def made(run: Run, study: Study) -> Results:
    """Measure the study; return its results as read from JSON."""
    run.results = nothing()
    study.measure(run)
    return Results.from_json(run.results.as_json())


def tables_of(study: Study, results: Results) -> list[Table]:
    """Return the tables; check that rows fit the header, and sentences end."""
    found = study.tables(results)
    for section in found:
        assert section.rows
        assert {len(row) for row in section.rows} == {len(section.header)}
        assert all(isinstance(result, str) for row in section.rows for result in row)
        assert all(text.endswith(".") and "  " not in text for text in section.notes)
    return found


def test_every_study_is_there() -> None:
    assert list(STUDIES) == ["kaazing", "pimentel", "abril", "shootout"]
    for name, study in STUDIES.items():
        assert study.name == name
        assert study.title
        assert (study.rounds == 0) == (name == "shootout")
        assert study.descriptors < FILES
        assert study.tables(nothing()) == []


def test_kaazing(run: Run) -> None:
    study = Kaazing(clients=(4, 8), period=0.3, changes=2)
    results = made(run, study)
    traffic, latency = tables_of(study, results)
    assert [result.clients for result in results.entries] == [4, 4, 8, 8]
    for result in results.entries:
        assert (result.seen + result.coalesced, result.lost) == (2 * result.clients, 0)
    # Of how many clients the sentences speak depends on whether the machine kept up with them.
    basis = re.search("computed from the bytes of ([48])\\.", traffic.notes[0])
    assert basis
    polling = results.entries[0 if basis[1] == "4" else 2]
    # What each of these is, without having been counted at a socket.
    responses = polling.traffic.down - polling.traffic.empty * NOTHING_NEW
    assert polling.traffic.requests == polling.seen + polling.traffic.empty
    assert responses % polling.seen == 0
    headers = (polling.traffic.bytes - BODY * polling.seen) / polling.traffic.requests
    numbers = study.numbers(results)
    assert numbers["kaazing headers"] == f"{headers:,.0f}"
    assert numbers["kaazing ratio"] == f"{headers / 2:,.0f}"
    assert numbers["kaazing message"] == str(BODY + 2)
    assert [row[0] for row in traffic.rows] == ["4", "4", "8", "8", "100,000", "100,000"]
    for row, size in zip(traffic.rows[-2:], (headers, 2), strict=True):
        assert row[1] == "computed"
        bits = 100_000 / 0.3 * size * 8
        megabits = [float(text.replace(",", "")) for text in row[4:6]]
        assert megabits == pytest.approx([bits / 1e6, bits / 2**20], rel=0.006)
    assert [row[6] for row in traffic.rows] == ["–"] * 4 + ["665", "1.526"]
    for row, result in zip(latency.rows, results.entries, strict=True):
        shares = (quantile(result.notified_ms, q) for q in (0.5, 0.95, 0.99, 1))
        assert (row[0], row[2:]) == (str(result.clients), [f"{share:,.1f}" for share in shares])


def test_pimentel(run: Run) -> None:
    study = Pimentel(distances=(0.0, 30.0), pace=0.1, rounds=2, changes=2)
    results = made(run, study)
    [section] = tables_of(study, results)
    names = ["polling", "long polling", "WebSocket"]
    assert [row[:2] for row in section.rows] == [
        [rtt_ms, name] for rtt_ms in ("0", "30") for name in names
    ]
    for row, result in zip(section.rows, results.entries, strict=True):
        shares = (0.05, 0.5, 0.95, 0.99, 1)
        assert row[2:7] == [f"{quantile(result.notified_ms, q):,.1f}" for q in shares]
        assert row[7:] == [str(result.seen), str(result.coalesced)]
        assert result.seen + result.coalesced == result.published == 4
        assert min(result.notified_ms) >= result.rtt_ms / 2  # no byte is faster than the relay


def test_abril(run: Run) -> None:
    study = Abril(pace=0.25)
    results = made(run, study)
    [section] = tables_of(study, results)
    published, responses, frames, up, requests, totals = (
        {row[0]: int(row[place].replace(",", "").replace("–", "0")) for row in section.rows}
        for place in range(1, 7)
    )
    assert list(published) == [
        "reload", "reload of /data only", "short poll", "long poll", "SSE", "WebSocket"
    ]  # fmt: skip
    assert list(published.values()) == [5570, 0, 3609, 1908, 1071, 629]
    assert totals == {name: responses[name] + frames[name] + up[name] for name in published}
    # Five updates take five requests, and one that waits for a sixth. If the machine paused, some
    # updates were coalesced, and some polls found nothing new.
    entries = {result.transport: result for result in results.entries}
    for result in entries.values():
        assert (result.seen + result.coalesced, result.lost) == (5, 0)
    poll, polls = entries["poll"], entries["longpoll"].seen + 1
    assert list(requests.values()) == [5, 5, poll.seen + poll.traffic.empty, polls, 1, 1]
    of_socket = entries["websocket"].seen * (2 + BODY)
    assert frames == dict.fromkeys(frames, 0) | {"WebSocket": of_socket}
    numbers = study.numbers(results)
    assert numbers["abril frames"] == f"{of_socket:,}"
    assert numbers["abril frame"] == f"{of_socket / 5:,.0f}"
    assert numbers["abril polls"] == str(polls)
    assert int(numbers["abril handshake"]) == responses["WebSocket"]
    # The same as a browser's requests are, by their templates.
    port = run.target("serve.py", results.entries[0].variant).port
    assert up["reload"] == 5 * len(request(f"127.0.0.1:{port}", "/", template=NAVIGATE))
    response, rest = divmod(responses["reload of /data only"], 5)
    assert rest == 0
    assert responses["short poll"] == poll.seen * response + NOTHING_NEW * poll.traffic.empty


def test_shootout_until_there_are_no_more_files(run: Run) -> None:
    study = Shootout(step=20, samples=3, limit=60_000, files=145)
    results = made(run, study)
    assert results.extra["ended_by"] == "descriptors"
    steps = results.extra["steps"]
    assert [step["clients"] for step in steps] == [20, 40]
    assert [len(step["milliseconds"]) for step in steps] == [3, 3]
    assert tables_of(study, results)


def test_shootout_until_it_takes_too_long(run: Run) -> None:
    results = made(run, Shootout(step=20, samples=3, limit=0.0))
    assert results.extra["ended_by"] == "latency"
    assert len(results.extra["steps"]) == 1
    capacity, _ = tables_of(Shootout(), results)
    assert capacity.rows[-1][:2] == ["Python, serve.py", "0"]


@pytest.mark.parametrize(
    ("ended", "held", "note"),
    [
        ({"ended_by": "latency"}, "2", "took too long"),
        ({"ended_by": "descriptors", "limit": 1000}, "≥ 3", "may not open more files"),
        ({"limit": 1000}, "≥ 3", "It ended early."),
    ],
)
def test_how_the_shootout_ended(ended: dict[str, Any], held: str, note: str) -> None:
    """Three steps, the last with a p95 of 600 ms."""
    results = nothing()
    steps = [{"clients": 1000 * step, "milliseconds": [200.0 * step] * 20} for step in (1, 2, 3)]
    results.extra = {"steps": steps, "limit": 500, "files": FILES, **ended}
    capacity, every = tables_of(Shootout(), results)
    assert capacity.rows[-1] == ["Python, serve.py", held, "measured here"]
    assert every.rows[1] == ["2,000", "400.0", "400.0", "400.0"]
    assert note in capacity.notes[0]
    numbers = Shootout().numbers(results)
    assert numbers.pop("shootout held") == held.removeprefix("≥ ") + ",000"
    limit = str(results.extra["limit"])
    names = ("step", "limit", "samples", "p95", "files")
    values = ("1,000", limit, "20", "600.0", "20,000")
    assert numbers == {f"shootout {name}": text for name, text in zip(names, values, strict=True)}


def test_a_shootout_that_cannot_go_on_says_where(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise WrongResponse("the server closed a socket")

    monkeypatch.setattr(Subscribers, "join", fail)
    run.results = nothing()
    with pytest.raises(Failed, match="shootout, 20 clients: the server closed a socket"):
        Shootout(step=20, samples=3).measure(run)


def polled(clients: int, *, requests: int, seen: int, seconds: float = 2.0) -> list[Result]:
    """Return two changes: bodies of 100 bytes, headers of 700."""
    empty = requests - seen
    polls = Traffic(requests=requests, empty=empty, up=500 * requests, down=300 * seen)
    poll, socket = (
        Result("serve.py", name, True, clients, 1.0, 0.0, published=2)
        for name in ("poll", "websocket")
    )
    return [
        replace(
            poll, period=1.0, seen=seen, coalesced=2 * clients - seen, traffic=polls,
            notified_ms=[400.0, 600.0], seconds=seconds,
        ),
        replace(
            socket, seen=2 * clients, notified_ms=[1.0, 3.0], seconds=1.1,
            traffic=Traffic(messages=2 * clients, down=102 * 2 * clients),
        ),
    ]  # fmt: skip


def test_kaazing_where_the_machine_does_not_keep_up() -> None:
    results = nothing()
    results.entries = polled(1000, requests=2000, seen=2000)
    results.entries += polled(10_000, requests=10_000, seen=8000, seconds=4.0)
    traffic, latency = tables_of(Kaazing(), results)
    numbers = {
        name.removeprefix("kaazing "): number for name, number in Kaazing().numbers(results).items()
    }
    sizes = {"headers": "700", "request headers": "500", "data": "100", "poll": "800"}
    rates = {"rate": "2,500", "due": "10,000", "due headers": "56.0", "coalesced": "60%"}
    assert numbers == sizes | rates | {"message": "102", "ratio": "350", "most": "10,000"}
    thousand, _, *_, computed, _ = traffic.rows
    assert thousand == ["1,000", "measured", "polling", "1,000", "5.60", "5.34", "6.6", "6.40"]
    assert computed[:7] == ["100,000", "computed", "polling", "100,000", "560", "534", "665"]
    assert [row[2] for row in latency.rows] == ["500.0", "2.0"] * 2


def test_kaazing_computes_from_clients_that_the_machine_kept_up_with() -> None:
    """From the fewest clients, where it kept up with none."""
    results = nothing()
    results.entries = polled(1000, requests=1500, seen=1500)
    results.entries += polled(2000, requests=4000, seen=4000)
    assert "of 2,000." in Kaazing().tables(results)[0].notes[0]
    results.entries[2].traffic.requests = 3000
    assert "of 1,000." in Kaazing().tables(results)[0].notes[0]


def test_what_was_not_measured_any_more_is_left_out() -> None:
    results = nothing()
    results.entries = polled(1000, requests=2000, seen=2000)[1:]
    results.entries.append(Result("serve.py", "poll", True, 1000, 1.0, 0.0))
    assert Kaazing().tables(results) == []
    assert Pimentel().tables(results) == []

    results.entries = polled(1, requests=2, seen=2)
    [section] = Pimentel().tables(results)
    assert len(section.rows) == 2
    [section] = tables_of(Abril(), results)
    assert [row[0] for row in section.rows] == ["short poll", "WebSocket"]


def test_one_client_polls_at_another_moment_in_each_turn() -> None:
    drifting = Grid([], rounds=4, drifting=True)
    assert [drifting.phase(number) for number in range(4)] == [0.125, 0.375, 0.625, 0.875]
    assert Grid([], rounds=4).phase(3) == 0.5
