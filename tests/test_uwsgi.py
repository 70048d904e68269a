"""uWSGI, on its gevent loop and with threads: what is special there, and how it is stopped."""

import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType

import pytest

from bench.servers import free_port
from tests.clients import BINARY, CLOSE, PING, PONG, TEXT, UPGRADE, Http, LabPage, RawSocket, frame
from tests.conftest import ROOT, UNVERIFIED, Program, Server, ending_well, eventually
from tests.transports import sequence

UWSGI = str(Path(sys.executable).parent / "uwsgi")
INIS = ("uwsgi.ini", "uwsgi-threads.ini")
SLOTS = {"uwsgi.ini": "gevent = 1000", "uwsgi-threads.ini": "threads = 100"}


class Hosted(Server):
    """The app on uWSGI, at a port that its ready line tells."""

    def __init__(
        self,
        *arguments: str,
        options: str = "--source http",
        environment: Mapping[str, str] = MappingProxyType({}),
        before: str = ":",
    ) -> None:
        Program.__init__(
            self,
            *arguments,
            command=[UWSGI],
            environment={"PORT": "0", "PUSHLAB_OPTIONS": options, **environment},
            before=before,
        )
        self.url = self._url()
        self.port = int(self.url.rpartition(":")[2])
        self.http = Http("127.0.0.1", self.port)


Host = Callable[..., Hosted]


@pytest.fixture
def host() -> Iterator[Host]:
    """Start servers; each must in the end stop with status 0, and without a traceback."""
    servers: list[Hosted] = []

    def host(*arguments: str, **more: str | Mapping[str, str]) -> Hosted:
        servers.append(Hosted(*arguments, **more))  # type: ignore[arg-type]
        return servers[-1]

    with ending_well(servers):
        yield host


@pytest.fixture(scope="module", params=INIS)
def ini(request: pytest.FixtureRequest) -> str:
    """Each of the two ways: its configuration."""
    return f"servers/{request.param}"


@pytest.fixture(scope="module")
def server(ini: str) -> Iterator[Hosted]:
    """One for all tests that want nothing special of it."""
    server = Hosted(ini)
    with ending_well([server]):
        yield server


def changed(ini: str, folder: Path, *changes: tuple[str, str], more: str = "") -> str:
    """Return the path of another configuration, with these changes."""
    text = (ROOT / ini).read_text().replace("%d..", str(ROOT))
    for old, new in changes:
        assert text.count(old) == 1
        text = text.replace(old, new)
    path = folder / Path(ini).name
    path.write_text(f"{text}\n{more}\n")
    return str(path)


def with_slots(ini: str, folder: Path, slots: int) -> str:
    """Return the path of a configuration with so few requests at once."""
    old = SLOTS[Path(ini).name]
    return changed(ini, folder, (old, f"{old.partition(' ')[0]} = {slots}"))


def refused(*arguments: str, **environment: str) -> str:
    """Return what uWSGI says last when it does not start, which is one line of ours."""
    program = Program(*arguments, command=[UWSGI], environment={"PORT": "0", **environment})
    assert program.wait() != 0
    assert "Traceback" not in program.log
    assert program.out == []
    return program.err[-1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_everyone_is_told_when_it_stops(host: Host, ini: str, number: signal.Signals) -> None:
    server = host(ini)
    newest = server.publish({"n": 1})
    with (
        RawSocket(server.port) as push,
        RawSocket(server.port, "/lab") as lab,
        socket.create_connection(("127.0.0.1", server.port), 5) as stream,
    ):
        push.json()
        stream.sendall(
            b"GET /update HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n"
        )
        assert b"retry" in stream.recv(4096)
        poll = server.ask(f"/update?after={newest}&timeout=50")
        assert server.http.get("/data").status == 200, "what was asked before is being done by now"
        time.sleep(0.1)  # or a thread is just about to
        begun = time.monotonic()
        server.process.send_signal(number)
        assert push.close_code() == lab.close_code() == 1001
        push.close()
        lab.close()
        assert poll.recv(4096).startswith(b"HTTP/1.1 204 ")
        poll.close()
        while stream.recv(4096):
            pass
    assert server.wait() == 0
    assert time.monotonic() - begun < 3


def test_with_a_master_process_everyone_is_told_too(host: Host, ini: str) -> None:
    server = host(ini, "--master")
    with RawSocket(server.port) as push:
        push.json()
        server.process.terminate()
        assert push.close_code() == 1001
    assert server.wait() == 0


@pytest.mark.parametrize("path", ["/update", "/lab"])
def test_pongs_and_closes_bring_back_what_they_answer(server: Hosted, path: str) -> None:
    """What uWSGI's own frames would not: it sends empty pongs, and closes without a code."""
    with RawSocket(server.port, path) as opened:
        opened.send(frame(PING, b"who is there"))
        heard = [opened.frame()]
        while heard[-1] != (PONG, b"who is there"):
            assert heard[-1] is not None
            heard.append(opened.frame())
        opened.send(frame(CLOSE, b"\x0f\xa2bye"))
        while (answer := opened.frame()) is not None and answer[0] != CLOSE:
            pass
        assert answer == (CLOSE, b"\x0f\xa2bye")
        assert opened.frame() is None


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (frame(TEXT, b"unmasked", masked=False), 1002),
        (frame(TEXT, b"\xff\xfe"), 1007),
        (frame(TEXT, length=2**33), 1009),
    ],
    ids=["unmasked", "UTF-8", "size"],  # masks are random
)
@pytest.mark.parametrize("path", ["/update", "/lab"])
def test_broken_rules_are_named(server: Hosted, path: str, sent: bytes, code: int) -> None:
    with RawSocket(server.port, path) as opened:
        opened.send(sent)
        assert opened.close_code() == code


def test_messages_in_fragments_stay_apart(host: Host, ini: str) -> None:
    """uWSGI's own frames would give the fragment of one client to the next that sends one."""
    server = host(ini, environment={"APP": "examples.echo:app"})
    with RawSocket(server.port, "/echo") as one, RawSocket(server.port, "/echo") as other:
        one.send(frame(TEXT, b"a secret ", fin=False))
        other.send(frame(TEXT, b"no ", fin=False))
        other.send(frame(0, b"news"))
        assert other.frame() == (TEXT, b"no news")
        one.send(frame(0, b"of mine"))
        assert one.frame() == (TEXT, b"a secret of mine")


def test_push_sockets_hold_no_request(host: Host, ini: str, tmp_path: Path) -> None:
    """300 browsers on 8 threads, or 8 greenlets, and there is still room for requests."""
    server = host(with_slots(ini, tmp_path, 8))
    opened = [RawSocket(server.port) for _ in range(300)]
    for browser in opened:
        browser.json()
    newest = server.publish({"n": 1})
    assert [browser.json() for browser in opened] == [{"cursor": newest}] * 300
    for browser in opened:
        browser.close()
    with RawSocket(server.port) as another:
        assert another.json() == {"cursor": newest}


@pytest.mark.alone
def test_a_push_socket_costs_a_few_kilobytes(host: Host, ini: str) -> None:
    server = host(ini)
    opened = [RawSocket(server.port) for _ in range(200)]  # every thread has served by then
    before = server.memory
    opened += [RawSocket(server.port) for _ in range(1000)]
    assert (server.memory - before) / 1000 < 4096
    for browser in opened:
        browser.close()


def test_who_leaves_an_event_stream_makes_room(host: Host, ini: str, tmp_path: Path) -> None:
    server = host(with_slots(ini, tmp_path, 2), options="--source clock --every 0.1")
    for _ in range(5):
        streams = [socket.create_connection(("127.0.0.1", server.port), 5) for _ in range(2)]
        for stream in streams:
            stream.sendall(
                b"GET /update HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n"
            )
            assert b"retry" in stream.recv(4096)
            stream.close()
    assert server.http.get("/data").status == 200
    assert "error" not in server.log.lower()


def test_an_event_stream_is_told_at_once(server: Hosted) -> None:
    with socket.create_connection(("127.0.0.1", server.port), 5) as stream:
        stream.sendall(
            b"GET /update HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n"
        )
        heard = stream.recv(4096)
        while b"\ndata:" not in heard:
            heard += stream.recv(4096)
        assert b"\r\nConnection: close\r\n" in heard
        begun = time.monotonic()
        newest = server.publish({"n": 1})
        while newest.encode() not in heard:
            heard += stream.recv(4096)
        assert time.monotonic() - begun < 0.5


def test_another_app_from_another_directory(host: Host, ini: str, tmp_path: Path) -> None:
    server = host(
        str(ROOT / ini),
        options="",
        environment={"APP": "examples.echo:app", "PYTHONPATH": ""},
        before=f"cd {shlex.quote(str(tmp_path))}",
    )
    assert server.out == [f"examples.echo:app is at {server.url} (Ctrl-C stops it)\n"]
    with RawSocket(server.port, "/echo") as opened:
        for opcode, payload in ((TEXT, b"text"), (BINARY, b"\x00\xff"), (TEXT, b"x" * 60_000)):
            opened.send(frame(opcode, payload))
            assert opened.frame() == (opcode, payload)
        server.process.terminate()
        assert opened.close_code() == 1001
    assert server.wait() == 0


def test_who_may_come_is_checked(server: Hosted) -> None:
    foreign = {**UPGRADE, "Origin": "http://elsewhere.test"}
    assert server.http.get("/update", headers=foreign).status == 403
    assert server.http.get("/data", headers={"Host": "elsewhere.test"}).status == 421
    assert server.http.get("/nowhere", headers=UPGRADE).status == 404


def test_several_processes_are_refused(host: Host, ini: str) -> None:
    server = host(ini, "--master", "--processes", "2")
    for headers in ({}, UPGRADE):
        answer = server.http.get("/update", headers=headers)
        assert answer.status == 503
        assert "several processes" in answer.json["error"]


def test_the_source_runs_once(host: Host, ini: str) -> None:
    every = 0.1
    server = host(ini, options=f"--source clock --every {every}")

    def newest(_: int = 0) -> int:
        return sequence(server.http.get("/data").json["cursor"])

    begun = time.monotonic()
    with ThreadPoolExecutor(20) as pool:  # the first request starts it, and all are that
        first = min(pool.map(newest, range(20)))
    last = eventually(lambda: (now := newest()) >= first + 10 and now)
    assert last - first <= (time.monotonic() - begun) / every + 3, "two would make twice as many"


def test_lines_of_standard_input_are_the_data(ini: str) -> None:
    environment = {"PORT": "0", "PUSHLAB_OPTIONS": "--source stdin"}
    program = Program(ini, command=[UWSGI], environment=environment, stdin=subprocess.PIPE)
    try:
        eventually(lambda: program.out)
        http = Http("127.0.0.1", int(program.out[0].partition(" (")[0].rpartition(":")[2]))
        http.get("/data")
        assert program.process.stdin is not None
        program.process.stdin.write('{"n": 1}\n')
        program.process.stdin.flush()
        eventually(lambda: http.get("/data").json["value"] == {"n": 1})
    finally:
        assert program.stop() == 0


def test_the_page_can_freeze_it(host: Host, ini: str) -> None:
    server = host(ini, options="")
    with LabPage(server.ws) as lab:
        assert lab.hear("lab")["metered"] is False
        lab.do("freeze")
        lab.hear("frozen")
        time.sleep(0.3)  # it says so just before
        begun = time.monotonic()
        assert server.http.get("/data").status == 200
        assert time.monotonic() - begun > 3


def test_a_port_in_use_is_one_line(ini: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        said = refused(ini, PORT=str(taken.getsockname()[1]))
    assert "Address already in use" in said


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"PORT": "http"}, "Invalid value for '--port': 'http' is not a port number"),
        ({"PUSHLAB_OPTIONS": "--every never"}, "'never' is not a number of seconds"),
        ({"PUSHLAB_OPTIONS": "--certfile cert.pem"}, "--certfile is not for uWSGI"),
        ({"APP": "nowhere:app"}, "There is no app nowhere:app: No module named 'nowhere'."),
        ({"APP": "serve:nothing"}, "There is no app serve:nothing"),
    ],
)
def test_what_cannot_be_is_one_line(ini: str, environment: dict[str, str], said: str) -> None:
    assert said in refused(ini, **environment)


def test_an_app_for_gevent_does_not_run_on_threads() -> None:
    assert "made for gevent" in refused("servers/uwsgi-threads.ini", APP="serve:app")


def test_tls_within_the_worker_is_refused(ini: str, certificate: tuple[str, str]) -> None:
    said = refused(ini, "--https-socket", ",".join(("127.0.0.1:0", *certificate)))
    assert said.startswith("With https-socket the TLS is uWSGI's")


def test_tls_by_uwsgis_router(
    host: Host, ini: str, certificate: tuple[str, str], tmp_path: Path
) -> None:
    """It decrypts in a process of its own, and tells the worker in uWSGI's protocol."""
    lines = (ROOT / ini).read_text().splitlines()
    sockets = [line for line in lines if line.startswith("http-socket")]
    port = free_port()
    router = ",".join((f"https = 127.0.0.1:{port}", *certificate))
    more = f"{router}\nhttp-websockets = true"
    host(changed(ini, tmp_path, *((line, "") for line in sockets), more=more))

    def wrap(plain: socket.socket) -> socket.socket:
        return UNVERIFIED.wrap_socket(plain)

    with RawSocket(port, wrap=wrap) as opened:
        opened.json()
        opened.send(frame(PING, b"through the router"))
        assert opened.frame() == (PONG, b"through the router")
        opened.send(frame(CLOSE, b"\x03\xe8"))
        assert opened.close_code() == 1000


def test_a_kept_alive_connection_is_taken_for_good(host: Host, tmp_path: Path) -> None:
    """With http11-socket uWSGI goes on reading what it does not close. (Not with gevent, where
    its http11-socket hangs by itself.)"""
    port = free_port()
    server = host(
        changed("servers/uwsgi-threads.ini", tmp_path, more=f"http11-socket = 127.0.0.1:{port}")
    )
    with RawSocket(port) as opened:
        opened.json()
        for number in range(100):
            opened.send(frame(PING, b"%d" % number))
            assert opened.frame() == (PONG, b"%d" % number)
            time.sleep(0.001)
    assert server.http.get("/data").status == 200
