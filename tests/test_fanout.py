"""The fan-out benchmark works, and times no wrong response."""

import json
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import docutils.core
import pytest

from bench.clients.chromium import request
from bench.clients.http import WrongResponse
from bench.clients.worker import LoadGenerator
from bench.fanout import benchmark, experiments, servers
from bench.fanout.report import BY_FLASK, GOALS, NOT_REMEMBERED, OURS, Report
from bench.fanout.subscribers import Subscribers, subscribers
from tests.clients import HANG_TIMEOUT

CLIENTS = 50


def test_a_small_run_is_plausible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(benchmark, "PUBLISHED", tmp_path)
    # Fewer than what makes a sample steady: what is tested is how it comes about.
    monkeypatch.setattr(experiments, "NOTIFICATIONS", 200)
    options = f"--clients {CLIENTS} --rounds 1 --max-sockets 60 --update-docs"
    benchmark.main(options.split())
    found = json.loads((tmp_path / "fanout.json").read_text())
    assert found["versions"]["Python"]
    assert found["machine"]["cores"]
    report = Report.from_json((tmp_path / "fanout.json").read_text())
    medians = {(figure.server, figure.what): figure.median for figure in report.figures}
    ours = {what: median for (server, what), median in medians.items() if server == OURS}
    # A send costs at least a system call; Pushlab's share of a change is more than nothing.
    assert 0.5 < ours["floor"] < 10_000
    for kind in experiments.KINDS:
        # What publishing costs is subtracted: by few browsers, that is more than all the rest.
        assert -1000 < ours[kind.cost] < 10_000
        assert 5 < ours[kind.opening] < 100_000
        assert 5 < medians[BY_FLASK, kind.opening] < 100_000
        for when in ("", ", after the changes", ", over TLS"):
            assert -1000 < ours[f"memory per {kind.one}{when}"] < 100_000
    assert ours["GET /data"] > 5
    assert 5 < medians[NOT_REMEMBERED, "GET /data"] < 100_000
    shown = capsys.readouterr().out
    for table in (report.ours(), report.side_by_side(), report.in_floors()):
        docutils.core.publish_string(table, settings_overrides={"halt_level": 2, "report_level": 2})
    for goal in GOALS:
        assert goal.title in shown or goal.against
        assert goal.found(report) or goal.against


def test_goals_and_servers_are_there() -> None:
    names = {server.name for server in servers.OTHER_SERVERS}
    assert {goal.against for goal in GOALS} - {""} <= names
    for server in servers.OTHER_SERVERS:
        assert (servers.SCRIPTS / server.command[0]).exists()


def right(sockets: Sequence[socket.socket], frame: bytes) -> None:
    for sock in sockets:
        sock.sendall(frame)


def one_closed(sockets: Sequence[socket.socket], frame: bytes) -> None:
    right(sockets[1:], frame)
    sockets[0].shutdown(socket.SHUT_RDWR)


def one_other(sockets: Sequence[socket.socket], frame: bytes) -> None:
    right(sockets[1:], frame)
    right(sockets[:1], frame.replace(b"floor123", b"floor321"))


Broadcast = Callable[[Sequence[socket.socket], bytes], None]


@contextmanager
def five_subscribers(
    broadcast: Broadcast, *, timeout: float = HANG_TIMEOUT
) -> Iterator[Subscribers]:
    """Have five subscribers of a floor that broadcasts like this."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:

        def serve() -> None:
            sockets = [listener.accept()[0] for _ in range(6)]
            with suppress(ConnectionResetError):
                while frame := sockets[0].recv(4096):
                    broadcast(sockets[1:], frame)
                    sockets[0].sendall(frame)
            for sock in sockets:
                sock.close()

        thread = threading.Thread(target=serve)
        thread.start()
        with subscribers(listener.getsockname()[1], "floor", timeout=timeout) as those:
            those.join(5, "frames")
            yield those
        thread.join()


def test_the_right_frame_is_timed() -> None:
    with five_subscribers(right) as those:
        for _ in range(3):
            assert 0 < those.broadcast() < HANG_TIMEOUT


AGAIN = "floor123-101 came after reading 101"


def test_no_two_requests_are_alike_if_they_are_varied() -> None:
    """Nothing that a server remembers of requests is of use then."""
    generator = LoadGenerator()
    same = request("localhost", "/update?after=a-1")
    assert generator.vary(same) == same
    generator.is_varied = True
    lines, blocks = zip(*(generator.vary(same).split(b"\r\n", 1) for _ in range(1000)), strict=True)
    assert len(set(lines)) == len(set(blocks)) == 1000
    assert lines[0].startswith(b"GET /update?after=a-1&n=")
    assert generator.vary(request("localhost", "/data")).startswith(b"GET /data?n=")


@pytest.mark.parametrize(
    ("broadcast", "why"),
    [
        (one_other, r"published floor123-101, received \['floor123-101', 'floor321-101'\]"),
        (lambda those, frame: right(those[1:], frame), "4 of 5 received it"),
        (lambda those, frame: right([*those, those[1]], frame), AGAIN),
        (lambda those, frame: right([*those[1:], those[1]], frame), AGAIN),
        (one_closed, "the server closed a connection"),
    ],
)
def test_a_wrong_broadcast_is_not_timed(broadcast: Broadcast, why: str) -> None:
    def broadcast_twice() -> None:
        with five_subscribers(broadcast, timeout=3) as those:
            for _ in range(2):
                those.broadcast()

    with pytest.raises(WrongResponse, match=why):
        broadcast_twice()


def test_without_a_compiler_there_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SystemExit, match=r"bench.fanout: the floor is .* install a C compiler"):
        benchmark.main(["--clients", "5"])
    assert capsys.readouterr().out == ""


def test_without_options_it_measures_the_published_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The defaults pass through the options' own types."""

    class MeasuredError(Exception):
        pass

    def measure(clients: list[int], **_: object) -> Report:
        raise MeasuredError(clients)

    monkeypatch.setattr(benchmark, "measure", measure)
    with pytest.raises(MeasuredError, match=r"\[1000, 5000\]"):
        benchmark.main([])
