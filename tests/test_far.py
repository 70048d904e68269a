"""Far ports of the programs: where they are, what is printed, how they end."""

import re
import signal
import time

import psutil
import pytest

from lab.settings import parse
from tests.clients import HANG_TIMEOUT, Http, RawSocket
from tests.conftest import Program, Server, Start, eventually
from tests.hosting import with_limits


def far_ports(server: Server, count: int) -> dict[float, int]:
    """Return the far ports that the server prints, by distance in milliseconds."""
    eventually(lambda: len(server.out) == 1 + count)
    lines = [re.fullmatch(r"([\d.]+) ms away: \S+:(\d+)\n", line) for line in server.out[1:]]
    assert all(lines), server.out
    return {float(line[1]): int(line[2]) for line in lines if line}


def test_there_is_one_port_200_ms_away(start: Start) -> None:
    server = start("serve.py", "--source", "http", "--far", "200")
    ((milliseconds, port),) = far_ports(server, 1).items()
    assert milliseconds == 200
    begun = time.monotonic()
    assert Http("127.0.0.1", port).get("/data").json == server.http.get("/data").json
    assert time.monotonic() - begun >= 0.2


def test_it_is_the_default(program: str) -> None:
    running = Program(program, "--port", "0")
    try:
        eventually(lambda: len(running.out) == 2)
        assert re.fullmatch(r"200 ms away: http://127\.0\.0\.1:\d+\n", running.out[1])
    finally:
        assert running.stop() == 0


def test_none_means_none(start: Start) -> None:
    server = start("serve.py", "--far", "none")
    assert server.http.get("/healthz").status == 200
    assert not psutil.Process(server.process.pid).children()
    assert len(server.out) == 1


def test_several_distances(start: Start) -> None:
    server = start("serve.py", "--source", "http", "--far", "20", "--far", "0.5", "--far", "20")
    ports = far_ports(server, 2)
    assert list(ports) == [20, 0.5]
    for port in ports.values():
        assert Http("127.0.0.1", port).get("/data").status == 200


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_stopping_server_closes_with_1001_through_a_far_port(
    start: Start, how: signal.Signals
) -> None:
    server = start("serve.py", "--far", "100")
    (port,) = far_ports(server, 1).values()
    with RawSocket(port) as socket:
        socket.json()
        server.process.send_signal(how)
        assert socket.close_code() == 1001
    assert server.wait() == 0


def test_without_connections_it_ends_at_once(start: Start) -> None:
    server = start("serve.py", "--far", "500", environment=with_limits(SHUTDOWN_TIMEOUT=3600))
    far_ports(server, 1)
    assert server.stop() == 0


def test_no_relay_outlives_its_server(start: Start) -> None:
    server = Server("serve.py", "--far", "100")
    far_ports(server, 1)
    relays = psutil.Process(server.process.pid).children()
    assert len(relays) == 1
    server.process.kill()
    server.wait()
    assert psutil.wait_procs(relays, timeout=HANG_TIMEOUT)[1] == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        *(
            ([f"--far={far}"], "neither a number of milliseconds above 0 and up to 2000 nor none")
            for far in ("", "x", "0", "-1", "2001", "1e3", "nan", "0.0001", "200ms")
        ),
        (["--far", "none", "--far", "200"], "none excludes every other --far"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_bad_distance_is_one_line(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse(options)
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
