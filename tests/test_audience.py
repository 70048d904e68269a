"""The headless clients are right: they count what passes, and a wrong server is never timed."""

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace

import pytest

from bench import clock
from bench.bytes_on_wire import WrongAnswer
from bench.clients.publisher import Posting
from bench.driver import DistantAudience, Measurement, ServerDied, Target, take_turn
from bench.results import Cell, Traffic
from bench.servers import SERVERS, started
from bench.variants import WAYS, Variant
from bench.verify import verify
from tests.conftest import ROOT, Program, Server, eventually, starting
from tests.relay import Relay


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server whose data only we change."""
    with starting() as start:
        yield start("serve.py", "--source", "http")


@pytest.fixture(scope="module")
def venue(server: Server) -> Iterator[Target]:
    """The same, for measuring."""
    with venue_at(server.port) as venue:
        venue.warm_up()
        yield venue


@contextmanager
def venue_at(port: int) -> Iterator[Target]:
    """A server, for measuring."""
    with closing(Posting("127.0.0.1", port)) as publisher:
        yield Target(publisher, host="127.0.0.1", port=port)


@pytest.fixture
def audience() -> Iterator[DistantAudience]:
    """A process of headless browsers."""
    with closing(DistantAudience()) as audience:
        yield audience


def cell(
    way: Variant,
    *,
    clients: int = 3,
    pace: float = 0.2,
    distance: float = 0.0,
    handling: float = 0.0,
) -> Cell:
    return Cell(
        "serve.py", way.transport, way.carry, clients, pace, distance, handling=handling,
        period=pace / 2 if way.transport == "poll" else None,
    )  # fmt: skip


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.title)
def test_every_way_is_right(way: Variant, venue: Target, audience: DistantAudience) -> None:
    verify(way, venue, audience)


@pytest.mark.parametrize("name", [name for name in SERVERS if name != "serve.py"])
def test_on_every_server(name: str, audience: DistantAudience) -> None:
    with started(name) as process, venue_at(process.inner_port) as venue:
        venue.process, venue.port = process, process.port
        venue.name = f"127.0.0.1:{process.port}"
        for transport in ("poll", "longpoll", "sse", "websocket"):
            verify(Variant(transport, carry=True), venue, audience)
        before = venue.cpu()
        for _ in range(20):
            venue.publisher.change()
        after = venue.cpu()
        assert before is not None
        assert after is not None
        assert (
            20 * 50 < after - before < 20 * 100_000
        )  # microseconds: it is this process that works
        assert (venue.memory() or 0) > 10 * 1024 * 1024


@contextmanager
def wrong(fault: str) -> Iterator[Target]:
    """Run a server that is wrong in this way."""
    program = Program(str(ROOT / "tests" / "forgetful.py"), "0", fault)
    try:
        eventually(lambda: program.out)
        with venue_at(int(program.out[0].rpartition(":")[2])) as venue:
            yield venue
    finally:
        program.stop()


@pytest.mark.parametrize(
    ("fault", "transports", "why"),
    [
        ("amnesia", ("longpoll", "sse", "websocket"), "was not told within"),
        ("silence", ("longpoll", "sse", "websocket"), "was not told within"),
        ("stutter", ("websocket",), "was not told within|after reading"),
    ],
)
def test_a_wrong_server_is_not_measured(
    fault: str, transports: tuple[str, ...], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.verify.PATIENCE", 0.7)
    with wrong(fault) as venue:
        for transport in transports:
            with closing(DistantAudience()) as audience, pytest.raises(WrongAnswer, match=why):
                verify(Variant(transport, carry=True), venue, audience)


def measured(
    venue: Target, audience: DistantAudience, cell: Cell, *, changes: int = 1, turns: int = 1
) -> Cell:
    """Return the cell, after so many turns."""
    trial = Measurement(cell, venue, audience)
    with trial.attended():
        for _ in range(turns):
            take_turn([trial], venue, changes=changes)
    return cell


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.title)
def test_bytes_are_those_of_the_wire_and_the_same_in_every_run(
    way: Variant, venue: Target, audience: DistantAudience
) -> None:
    """What `python -m bench.bytes_on_wire` counts for one browser, one message at a time."""
    costs = json.loads((ROOT / "docs" / "results" / "wire.json").read_text())["costs"]
    name = way.title.replace("Short polling", "short poll").replace("Long polling", "long poll")
    one = costs[name.replace("signal", "signal then fetch")]
    vain = costs["short poll, nothing new"]
    runs = [measured(venue, audience, cell(way), turns=2) for _ in range(2)]
    for run in runs:
        assert (run.seen, run.coalesced, run.lost, run.published) == (6, 0, 0, 2)
        assert len(run.known) == len(run.had) == 6
        assert all(0 < known <= had for known, had in zip(run.known, run.had, strict=True))
        bill = run.bill
        # HEAD and GET ask in vain for the same, but for one letter.
        empty = bill.empty * (vain["up"] + (way.transport == "poll" and not way.carry))
        assert bill.up == 6 * one["up"] + empty
        assert bill.down == 6 * one["down"] + bill.empty * vain["down"]
        assert bill.requests == 6 * one["requests"] + bill.empty
        assert bill.messages == (6 if way.transport in ("sse", "websocket") else 0)
    if way.transport != "poll":  # which may have to ask once more where the machine is busy
        paid = [replace(run.bill, keepalive=0) for run in runs]  # pings come when they come
        assert paid[0] == paid[1]
        assert paid[0].empty == 0


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.title)
def test_every_byte_that_passes_is_counted(
    way: Variant, venue: Target, audience: DistantAudience
) -> None:
    """A relay that knows nothing of HTTP counts the same."""
    with Relay(venue.port) as relay:
        opening = Traffic(**audience.ask(
            "open", transport=way.transport, carry=way.carry, clients=2, handling=0.0,
            address=["127.0.0.1", relay.port], host=venue.name, after=venue.publisher.cursor,
        )["bill"])  # fmt: skip
        polls = way.transport == "poll"
        audience.ask("begin", begin_at=time.time(), ticks=3 * polls, period=0.05 * polls)
        venue.publisher.change()
        found = audience.ask("finish", sequence=venue.newest, deadline=time.time() + 5)
        turn = Traffic(**found["bill"])
        assert found["lost"] == 0
        assert turn.bytes > 0
        eventually(
            lambda: (relay.up, relay.down) == (opening.up + turn.up, opening.down + turn.down)
        )
        audience.ask("leave")
        venue.publisher.change()  # ends the polls of those who have left


def test_a_slow_reader_of_a_push_falls_behind_and_one_that_asks_does_not(
    venue: Target, audience: DistantAudience
) -> None:
    """Twenty changes, of which a browser can show the first few while they come."""
    push, ask = (
        measured(venue, audience, cell(way, clients=2, pace=0.02, handling=0.3), changes=20)
        for way in (Variant("websocket", carry=True), Variant("longpoll", carry=True))
    )
    for found in (push, ask):
        assert found.seen + found.waiting + found.coalesced == 2 * 20
        assert found.lost == 0
    assert push.coalesced == 0
    assert push.waiting > ask.waiting
    assert ask.waiting <= 2
    assert ask.coalesced > 2 * 5


def test_distance_is_in_the_times(venue: Target, audience: DistantAudience) -> None:
    far = measured(
        venue, audience, cell(Variant("websocket", carry=False), clients=2, distance=80.0)
    )
    assert min(far.known) >= 40
    assert min(far.had) >= 3 * 40
    assert far.lost == 0
    kinds = [kind for kind, *_ in far.trace]
    assert kinds.count("frame") == kinds.count("fetch") == 1
    assert far.trace_changes[0] == 0
    assert len(far.trace_changes) == 1


def test_cursors_of_one_length(venue: Target) -> None:
    """Bytes must not depend on whether a run crosses from reading 999 to 1000."""
    while venue.newest < 995:
        venue.publisher.change()
    venue.keep_lengths(10)
    assert venue.newest == 999


def test_a_server_that_dies_is_said_to_have_died(audience: DistantAudience) -> None:
    with started("serve.py") as process, venue_at(process.port) as venue:
        venue.process = process
        trial = Measurement(cell(Variant("websocket", carry=True)), venue, audience)
        with trial.attended():
            os.kill(process.pids[0], signal.SIGKILL)
            with pytest.raises(ServerDied):
                take_turn([trial], venue, changes=2)


def test_two_clocks_of_one_machine_agree(server: Server) -> None:
    assert abs(clock.offset("127.0.0.1", server.port, name=f"127.0.0.1:{server.port}")) < 0.05


def test_a_server_without_a_clock(server: Server) -> None:
    with pytest.raises(WrongAnswer, match="does not tell the time"):
        clock.offset("127.0.0.1", server.port, name="elsewhere.example")


def test_a_connection_that_was_idle_for_too_long_is_opened_anew(audience: DistantAudience) -> None:
    """A server gives up who is silent; a browser's next request takes another connection."""
    with starting() as start:
        server = start("serve.py", "--source", "http", "--head-timeout", "0.3")
        with venue_at(server.port) as venue, Relay(server.port) as relay:
            audience.ask(
                "open", transport="poll", carry=True, clients=1, handling=0.0,
                address=["127.0.0.1", relay.port], host=venue.name, after=venue.publisher.cursor,
            )  # fmt: skip
            eventually(lambda: relay.connections and relay.connections[0].over.is_set())
            audience.ask("begin", begin_at=time.time(), ticks=1, period=0.05)
            venue.publisher.change()
            found = audience.ask("finish", sequence=venue.newest, deadline=time.time() + 5)
            assert found["lost"] == 0
            assert len(relay.connections) == 2
