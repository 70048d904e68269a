"""The headless clients are right: they count what passes, and a wrong server is never timed."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager

import pytest

from pushlab.measure import clock
from pushlab.measure.driver import DistantAudience, Posting, ServerDied, Trial, Venue, take_turn
from pushlab.measure.results import Bill, Cell
from pushlab.measure.servers import SERVERS, started
from pushlab.measure.verification import verify
from pushlab.measure.ways import WAYS, Way
from pushlab.measure.wire import WrongAnswer
from tests.conftest import ROOT, Program, Server, eventually, starting
from tests.relay import Relay

Seat = Callable[[Way], DistantAudience]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server whose data only we change."""
    with starting() as start:
        yield start("serve.py", "--source", "http")


@pytest.fixture(scope="module")
def venue(server: Server) -> Venue:
    """The same, for measuring."""
    venue = venue_at(server.port)
    venue.warm_up()
    return venue


def venue_at(port: int) -> Venue:
    return Venue(Posting("127.0.0.1", port), host="127.0.0.1", port=port)


@pytest.fixture
def audience() -> Iterator[DistantAudience]:
    """A process of headless browsers."""
    with closing(DistantAudience()) as audience:
        yield audience


def cell(way: Way, *, clients: int = 3, pace: float = 0.2, **more: float) -> Cell:
    period = pace / 2 if way.transport == "poll" else None
    distance = more.pop("distance", 0.0)
    return Cell(
        "serve.py", way.transport, way.carry, clients, pace, distance, period=period, **more
    )  # fmt: skip


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.title)
def test_every_way_is_right(way: Way, venue: Venue, audience: DistantAudience) -> None:
    verify(way, venue, audience)


@pytest.mark.parametrize("name", [name for name in SERVERS if name != "serve.py"])
def test_on_every_server(name: str, audience: DistantAudience) -> None:
    with started(name) as process:
        venue = venue_at(process.port)
        venue.process = process
        for transport in ("poll", "longpoll", "sse", "websocket"):
            verify(Way(transport, carry=True), venue, audience)
        before = venue.cpu()
        for _ in range(20):
            venue.publisher.change()
        after = venue.cpu()
        assert before is not None
        assert after is not None
        assert 20 * 50 < after - before < 20 * 100_000  # microseconds: it is this process that works
        assert (venue.memory() or 0) > 10 * 1024 * 1024


@contextmanager
def wrong(fault: str) -> Iterator[Venue]:
    """Run a server that is wrong in this way."""
    program = Program(str(ROOT / "tests" / "forgetful.py"), "0", fault)
    try:
        eventually(lambda: program.out)
        yield venue_at(int(program.out[0].rpartition(":")[2]))
    finally:
        program.stop()


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        ("amnesia", "was not told within"),
        ("silence", "was not told within"),
        ("stutter", "was not told within|after reading"),
    ],
)
@pytest.mark.parametrize("transport", ["longpoll", "sse", "websocket"])
def test_a_wrong_server_is_not_measured(
    fault: str, why: str, transport: str, audience: DistantAudience, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pushlab.measure.verification.PATIENCE", 0.7)
    with wrong(fault) as venue, pytest.raises(WrongAnswer, match=why):
        verify(Way(transport, carry=True), venue, audience)


def measured(venue: Venue, audience: DistantAudience, cell: Cell, *, changes: int = 2) -> Cell:
    """Return the cell, after a turn of so many changes."""
    trial = Trial(cell, venue, audience)
    with trial.attended():
        take_turn([trial], venue, changes=changes)
    return cell


def test_bytes_are_those_of_the_wire_and_the_same_in_every_run(
    venue: Venue, audience: DistantAudience
) -> None:
    """What `python -m pushlab.measure.wire` counts for one browser, one message at a time."""
    costs = json.loads((ROOT / "docs" / "results" / "wire.json").read_text())["costs"]
    for way in WAYS:
        runs = [measured(venue, audience, cell(way), changes=2) for _ in range(2)]
        assert runs[0].bill == runs[1].bill
        name = way.title.replace("Short polling", "short poll").replace("Long polling", "long poll")
        one = costs[name.replace("signal", "signal then fetch")]
        vain = costs["short poll, nothing new"] if way.transport == "poll" else None
        for run in runs:
            assert (run.seen, run.coalesced, run.lost, run.published) == (6, 0, 0, 2)
            assert len(run.known) == len(run.had) == 6
            assert all(0 < known <= had for known, had in zip(run.known, run.had, strict=True))
        bill, times = runs[0].bill, runs[0].seen
        if vain is None:
            assert (bill.requests, bill.up, bill.down) == tuple(
                times * one[what] for what in ("requests", "up", "down")
            )
            assert bill.empty == 0
        elif way.carry:  # every other question is in vain
            assert bill.empty == times
            assert bill.requests == times * (one["requests"] + vain["requests"])
            assert bill.up == times * (one["up"] + vain["up"])
            assert bill.down == times * (one["down"] + vain["down"])
        assert bill.messages == (times if way.transport in ("sse", "websocket") else 0)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.title)
def test_every_byte_that_passes_is_counted(
    way: Way, server: Server, audience: DistantAudience
) -> None:
    """A relay that knows nothing of HTTP counts the same."""
    with Relay(server.port) as relay:
        venue = Venue(Posting("127.0.0.1", server.port), host="127.0.0.1", port=relay.port)
        one = cell(way)
        trial = Trial(one, venue, audience)
        settled: list[Bill] = []
        with trial.attended():
            take_turn([trial], venue, changes=2)
            # The answer to `open`, what settling cost, and the turn: all that there was.
            settled.append(one.bill)
            up, down = (sum(getattr(each, way) for each in relay.connections) for way in ("up", "down"))
        paid = audience.paid
        assert (paid.up + paid.down + paid.keepalive) == up + down
        assert (up, down) == (paid.up, paid.down) or paid.keepalive


def test_a_slow_reader_of_a_push_falls_behind_and_one_that_asks_does_not(
    venue: Venue, audience: DistantAudience
) -> None:
    """Twenty changes within 0.4 s, of which a browser can show one in 0.1 s."""
    push, ask = (
        measured(venue, audience, cell(way, clients=2, pace=0.02, handling=0.1), changes=20)
        for way in (Way("websocket", carry=True), Way("longpoll", carry=True))
    )
    assert push.waiting + push.seen == 2 * 20
    assert push.waiting > 2 * 10
    assert push.lost == push.coalesced == 0
    assert ask.waiting <= 2
    assert ask.coalesced > 2 * 10
    assert max(ask.had) < 400 or max(ask.had) < max(push.had)


def test_distance_is_in_the_times(venue: Venue, audience: DistantAudience) -> None:
    far = measured(venue, audience, cell(Way("websocket", carry=False), clients=2, distance=80.0))
    assert min(far.known) >= 40
    assert min(far.had) >= 3 * 40
    assert far.lost == 0
    kinds = [kind for kind, *_ in far.trace]
    assert kinds.count("frame") == kinds.count("fetch") == 2
    assert far.trace_changes[0] == 0
    assert len(far.trace_changes) == 2


def test_cursors_of_one_length(venue: Venue) -> None:
    """Bytes must not depend on whether a run crosses from reading 999 to 1000."""
    while venue.newest < 995:
        venue.publisher.change()
    venue.keep_lengths(10)
    assert venue.newest == 999


def test_a_server_that_dies_is_said_to_have_died(audience: DistantAudience) -> None:
    with started("serve.py") as process:
        venue = venue_at(process.port)
        venue.process = process
        trial = Trial(cell(Way("websocket", carry=True)), venue, audience)
        with trial.attended():
            process.kill()
            with pytest.raises(ServerDied):
                take_turn([trial], venue, changes=2)


def test_two_clocks_of_one_machine_agree(server: Server) -> None:
    assert abs(clock.offset("127.0.0.1", server.port, name=f"127.0.0.1:{server.port}")) < 0.05


def test_a_server_without_a_clock(server: Server) -> None:
    with pytest.raises(WrongAnswer, match="does not tell the time"):
        clock.offset("127.0.0.1", server.port, name="elsewhere.example")
