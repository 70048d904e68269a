"""The headless clients count right, and verify first."""

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace

import pytest

from bench import clock
from bench.clients.http import WrongResponse
from bench.clients.publisher import Posting
from bench.clients.worker import Worker
from bench.measurement import Measurement, take_turn
from bench.results import Result, Traffic
from bench.scenarios import VARIANTS, Variant
from bench.servers import SERVERS, started
from bench.target import ServerDied, Target
from bench.verify import verify
from tests.clients import HANG_TIMEOUT
from tests.conftest import ROOT, Program, Server, eventually, starting
from tests.relay import Relay


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server whose data only we change."""
    with starting() as start:
        yield start("serve.py", "--source", "http")


@pytest.fixture(scope="module")
def target(server: Server) -> Iterator[Target]:
    """The same, for measuring."""
    with target_at(server.port) as target:
        target.warm_up()
        yield target


@pytest.fixture
def fresh_target() -> Iterator[Target]:
    """One whose cursors have two digits, as in docs/results/wire.json, whatever came before."""
    with starting() as start, target_at(start("serve.py", "--source", "http").port) as target:
        target.warm_up()
        yield target


@contextmanager
def target_at(port: int) -> Iterator[Target]:
    """A server, for measuring."""
    with closing(Posting("127.0.0.1", port)) as publisher:
        yield Target(publisher, host="127.0.0.1", port=port)


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    """A process of headless browsers."""
    with closing(Worker()) as worker:
        yield worker


def result(
    variant: Variant, *, clients: int = 3, pace: float = 0.2, rtt_ms: float = 0.0, **more: float
) -> Result:
    period = pace / 2 if variant.transport == "poll" else None
    kind = ("serve.py", variant.transport, variant.carry)
    return Result(*kind, clients, pace, rtt_ms, period, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.title)
def test_every_variant_is_right(variant: Variant, target: Target, worker: Worker) -> None:
    verify(variant, target, worker)


@pytest.mark.parametrize("name", [name for name in SERVERS if name != "serve.py"])
def test_on_every_server(name: str, worker: Worker) -> None:
    with started(name) as process, target_at(process.inner_port) as target:
        target.process, target.port = process, process.port
        target.name = f"127.0.0.1:{process.port}"
        for transport in ("poll", "longpoll", "sse", "websocket"):
            verify(Variant(transport, carry=True), target, worker)
        before = target.cpu()
        for _ in range(20):
            target.publisher.change()
        after = target.cpu()
        assert before is not None
        assert after is not None
        assert (
            20 * 50 < after - before < 20 * 100_000
        )  # microseconds: it is this process that works
        assert (target.memory() or 0) > 10 * 1024 * 1024


@contextmanager
def wrong(fault: str) -> Iterator[Target]:
    """Run a server with this fault."""
    program = Program(str(ROOT / "tests" / "forgetful.py"), "0", fault)
    try:
        eventually(lambda: program.out)
        with target_at(int(program.out[0].rpartition(":")[2])) as target:
            yield target
    finally:
        program.stop()


@pytest.mark.parametrize(
    ("fault", "transports", "why"),
    [
        ("amnesia", ("longpoll", "sse", "websocket"), "did not come within"),
        ("silence", ("longpoll", "sse", "websocket"), "did not come within"),
        ("stutter", ("websocket",), "did not come within|came after reading"),
    ],
)
def test_a_wrong_server_is_not_measured(
    fault: str, transports: tuple[str, ...], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.verify.DELIVERY_TIMEOUT", 0.7)
    with wrong(fault) as target:
        for transport in transports:
            with closing(Worker()) as worker, pytest.raises(WrongResponse, match=why):
                verify(Variant(transport, carry=True), target, worker)


def measured(
    target: Target, worker: Worker, result: Result, *, changes: int = 1, turns: int = 1
) -> Result:
    """Return the result, after so many turns."""
    with closing(Measurement(result, target, worker)) as measurement:
        measurement.connect()
        for _ in range(turns):
            take_turn([measurement], target, changes=changes)
    return result


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.title)
def test_bytes_are_those_of_the_wire_and_equal_in_every_run(
    variant: Variant, fresh_target: Target, worker: Worker
) -> None:
    """As many as `python -m bench.bytes_on_wire` counts per update."""
    costs = json.loads((ROOT / "docs" / "results" / "wire.json").read_text())["costs"]
    name = variant.title.replace("Short polling", "short poll").replace("Long polling", "long poll")
    one = costs[name.replace("signal", "signal then fetch")]
    vain = costs["short poll, nothing new"]

    def in_time() -> Result | None:
        """A run; None if the machine was so busy that a reading was superseded."""
        run = measured(fresh_target, worker, result(variant), turns=2)
        assert run.lost == 0
        return None if run.coalesced else run

    runs = [eventually(in_time) for _ in range(2)]
    for run in runs:
        assert (run.seen, run.coalesced, run.lost, run.published) == (6, 0, 0, 2)
        assert len(run.notified_ms) == len(run.received_ms) == 6
        assert all(
            0 < known <= had for known, had in zip(run.notified_ms, run.received_ms, strict=True)
        )
        traffic = run.traffic
        # HEAD and GET ask in vain for the same, but for one letter.
        empty = traffic.empty * (vain["up"] + (variant.transport == "poll" and not variant.carry))
        assert traffic.up == 6 * one["up"] + empty
        assert traffic.down == 6 * one["down"] + traffic.empty * vain["down"]
        assert traffic.requests == 6 * one["requests"] + traffic.empty
        assert traffic.messages == (6 if variant.transport in ("sse", "websocket") else 0)
    if variant.transport != "poll":  # which may have to ask once more where the machine is busy
        paid = [replace(run.traffic, keepalive=0) for run in runs]  # pings come when they come
        assert paid[0] == paid[1]
        assert paid[0].empty == 0


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.title)
def test_every_byte_that_passes_is_counted(
    variant: Variant, target: Target, worker: Worker
) -> None:
    """A relay that knows nothing of HTTP counts the same."""
    with Relay(target.port) as relay:
        address = {**target.address(variant.transport), "address": ["127.0.0.1", relay.port]}
        opened = worker.do("open", carry=variant.carry, clients=2, **address)
        opening = Traffic(**opened["traffic"])
        polls = variant.transport == "poll"
        worker.do("begin", begin_at=time.time(), ticks=3 * polls, period=0.05 * polls)
        target.publisher.change()
        found = worker.do("finish", sequence=target.newest, deadline=time.time() + HANG_TIMEOUT)
        turn = Traffic(**found["traffic"])
        assert found["lost"] == 0
        assert turn.bytes > 0
        eventually(
            lambda: (relay.up, relay.down) == (opening.up + turn.up, opening.down + turn.down)
        )
        worker.do("close")
        target.publisher.change()  # ends the polls of closed clients


def test_a_slow_reader_of_a_push_falls_behind_and_one_that_polls_does_not(
    target: Target, worker: Worker
) -> None:
    """Twenty changes, more than a browser can show meanwhile."""
    push, ask = (
        measured(
            target, worker, result(variant, clients=2, pace=0.02, processing_time=0.3), changes=20
        )
        for variant in (Variant("websocket", carry=True), Variant("longpoll", carry=True))
    )
    for found in (push, ask):
        assert found.seen + found.queued + found.coalesced == 2 * 20
        assert found.lost == 0
    assert push.coalesced == 0
    assert push.queued > ask.queued
    assert ask.queued <= 2
    assert ask.coalesced > 2 * 5


def test_distance_is_in_the_times(target: Target, worker: Worker) -> None:
    far = measured(
        target, worker, result(Variant("websocket", carry=False), clients=2, rtt_ms=80.0)
    )
    assert min(far.notified_ms) >= 40
    assert min(far.received_ms) >= 3 * 40
    assert far.lost == 0
    assert far.traffic.messages == far.traffic.requests == 2  # a frame and a fetch for each client


def test_cursors_of_one_length(target: Target) -> None:
    """Bytes must not depend on crossing from 999 to 1000."""
    while target.newest < 995:
        target.publisher.change()
    target.keep_lengths(10)
    assert target.newest == 999


def test_a_server_that_dies_is_reported() -> None:
    with (
        closing(Worker()) as worker,
        started("serve.py") as process,
        target_at(process.port) as target,
    ):
        target.process = process
        killed = result(Variant("websocket", carry=True))
        with closing(Measurement(killed, target, worker)) as measurement:
            measurement.connect()
            os.kill(process.pids[0], signal.SIGKILL)
            with pytest.raises(ServerDied):
                take_turn([measurement], target, changes=2)


def test_two_clocks_of_one_machine_agree(server: Server) -> None:
    name = f"127.0.0.1:{server.port}"
    eventually(lambda: abs(clock.offset("127.0.0.1", server.port, name=name)) < 0.05)


def test_a_server_without_a_clock(server: Server) -> None:
    with pytest.raises(WrongResponse, match="does not tell the time"):
        clock.offset("127.0.0.1", server.port, name="elsewhere.example")


def test_a_connection_that_was_idle_for_too_long_is_opened_again(worker: Worker) -> None:
    """A browser's next request takes another connection."""
    with starting() as start:
        server = start("serve.py", "--source", "http", "--head-timeout", "0.3")
        with target_at(server.port) as target, Relay(server.port) as relay:
            address = {**target.address("poll"), "address": ["127.0.0.1", relay.port]}
            worker.do("open", carry=True, clients=1, **address)
            eventually(lambda: relay.connections and relay.connections[0].closed.is_set())
            worker.do("begin", begin_at=time.time(), ticks=1, period=0.05)
            target.publisher.change()
            found = worker.do("finish", sequence=target.newest, deadline=time.time() + HANG_TIMEOUT)
            assert found["lost"] == 0
            assert len(relay.connections) == 2
