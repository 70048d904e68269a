"""The fan-out benchmark works, and times no wrong response."""

import json
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import docutils.core
import pytest

from bench.clients.http import WrongResponse
from bench.fanout import benchmark, experiments, servers
from bench.fanout.report import GOALS, TITLES, Report
from bench.fanout.subscribers import Subscribers, subscribers
from tests.clients import HANG_TIMEOUT

CLIENTS = 50


def test_a_small_run_is_plausible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(benchmark, "PUBLISHED", tmp_path)
    # Fewer than what makes a sample steady: what is tested is how it comes about.
    monkeypatch.setattr(experiments, "NOTIFICATIONS", 200)
    monkeypatch.setattr(experiments, "FETCHES", 80)
    options = f"--clients {CLIENTS} --rounds 2 --long-polls 20 --max-sockets 60 --update-docs"
    benchmark.main(options.split())
    found = json.loads((tmp_path / "fanout.json").read_text())
    assert found["versions"]["Python"]
    assert found["machine"]["cores"]
    report = Report.from_json((tmp_path / "fanout.json").read_text())
    medians = {figure.what: figure.median for figure in report.figures}
    assert set(medians) == set(TITLES)
    # A send costs at least a system call; Pushlab's share of a telling is more than nothing.
    assert 0.5 < medians["floor"] < medians["change"] < 10_000
    for request in ("GET /data", "long-poll cycle", "handshake"):
        assert 5 < medians[request] < 100_000
    assert 0 < medians["last received"] < 10_000
    assert -1000 < medians["memory"] < 100_000
    table = report.ours()
    docutils.core.publish_string(table, settings_overrides={"halt_level": 2, "report_level": 2})
    shown = capsys.readouterr().out
    for title in TITLES.values():
        assert title in table
        assert title in shown


def test_goals_and_servers_are_there() -> None:
    assert {goal.what for goal in GOALS} <= set(TITLES)
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
