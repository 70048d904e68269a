"""The fan-out benchmark works end to end, and times no wrong answer."""

import json
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path

import docutils.core
import pytest

from bench.bytes_on_wire import WrongResponse
from bench.fanout import benchmark, experiments, servers
from bench.fanout.crowd import Crowd
from bench.fanout.report import GOALS, TITLES, Report

CLIENTS = 50


def test_a_small_run_is_plausible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(benchmark, "RESULTS", tmp_path)
    # Fewer than what makes a sample steady: what is tested is how it comes about.
    monkeypatch.setattr(experiments, "NOTIFICATIONS", 200)
    monkeypatch.setattr(experiments, "FETCHES", 80)
    options = f"--clients {CLIENTS} --rounds 2 --long-polls 20 --max-sockets 60 --update-docs"
    benchmark.main(options.split())
    found = json.loads((tmp_path / "fanout.json").read_text())
    assert found["versions"]["Python"]
    assert found["machine"]["cores"]
    medians = {figure["what"]: figure["median"] for figure in found["figures"]}
    assert set(medians) == set(TITLES)
    # A send costs at least a system call; Pushlab's share of a telling is more than nothing.
    assert 0.5 < medians["floor"] < medians["change"] < 10_000
    for request in ("GET /data", "long-poll cycle", "handshake"):
        assert 5 < medians[request] < 100_000
    assert 0 < medians["last received"] < 10_000
    assert -1000 < medians["memory"] < 100_000
    report = Report.from_json((tmp_path / "fanout.json").read_text())
    table = report.ours()
    docutils.core.publish_string(table, settings_overrides={"halt_level": 2, "report_level": 2})
    shown = capsys.readouterr().out
    for title in TITLES.values():
        assert title in table
        assert title in shown


def test_every_target_is_for_something_measured() -> None:
    assert {target.what for target in GOALS} <= set(TITLES)


def test_every_other_server_has_its_script() -> None:
    for server in servers.OTHER_SERVERS:
        assert (servers.SCRIPTS / server.script).exists()


def right(sockets: Sequence[socket.socket], frame: bytes) -> None:
    for sock in sockets:
        sock.sendall(frame)


def one_other(sockets: Sequence[socket.socket], frame: bytes) -> None:
    right(sockets[1:], frame)
    sockets[0].sendall(frame[:-3] + b'0"}')


def one_missing(sockets: Sequence[socket.socket], frame: bytes) -> None:
    right(sockets[1:], frame)


def one_twice_another_never(sockets: Sequence[socket.socket], frame: bytes) -> None:
    right(sockets[1:], frame)
    sockets[1].sendall(frame)


def one_closed(sockets: Sequence[socket.socket], frame: bytes) -> None:
    right(sockets[1:], frame)
    sockets[0].shutdown(socket.SHUT_RDWR)


Tell = Callable[[Sequence[socket.socket], bytes], None]


@pytest.fixture
def crowd_of() -> Iterator[Callable[[Tell], Crowd]]:
    """Have a crowd of five at a floor that tells it in some way."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        threads, crowds = [], []

        def serve(tell: Tell) -> None:
            sockets = [listener.accept()[0] for _ in range(6)]
            with suppress(ConnectionResetError):  # a crowd that was disappointed leaves in haste
                while frame := sockets[0].recv(4096):
                    tell(sockets[1:], frame)
                    sockets[0].sendall(frame)
            for sock in sockets:
                sock.close()

        def make(tell: Tell) -> Crowd:
            threads.append(threading.Thread(target=serve, args=[tell]))
            threads[-1].start()
            crowd = Crowd(listener.getsockname()[1], "floor", patience=0.5)
            crowds.append(crowd)
            crowd.join(5)
            return crowd

        yield make
        for crowd in crowds:
            crowd.close()
        for thread in threads:
            thread.join()


def test_the_right_frame_is_timed(crowd_of: Callable[[Tell], Crowd]) -> None:
    crowd = crowd_of(right)
    for number in (101, 102, 103):
        seconds, cursor = crowd.tell()
        assert cursor == f"floor123-{number}"
        assert 0 < seconds < 0.5


@pytest.mark.parametrize(
    ("tell", "why"),
    [
        (one_other, "heard"),
        (one_missing, "4 of 5 were told"),
        (one_twice_another_never, "told twice"),
        (one_closed, "closed a socket"),
    ],
)
def test_a_wrong_answer_is_not_timed(
    crowd_of: Callable[[Tell], Crowd], tell: Tell, why: str
) -> None:
    with pytest.raises(WrongResponse, match=why):
        crowd_of(tell).tell()
