"""Native threads: our threaded server, and `flask run`."""

import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest

from pushlab.hosting.threaded_server import freeze
from pushlab.hosting.threaded_sockets import SelectorThread, ThreadChannel, ThreadConnection
from pushlab.websocket.middleware import close_all
from tests.clients import (
    HANG_TIMEOUT,
    UPGRADE,
    LabPage,
    RawSocket,
    Wire,
    handshake,
)
from tests.conftest import ROOT, Program, Server, Start, eventually
from tests.hosting import Hosted

PROGRAM = "servers/threads.py"


@pytest.fixture(params=["plain", "TLS"])
def threads(request: pytest.FixtureRequest, start: Start, tls_options: tuple[str, ...]) -> Start:
    """Start servers/threads.py, without TLS and with it."""
    tls = tls_options if request.param == "TLS" else ()
    return lambda *options: start(PROGRAM, "--source", "http", *tls, *options)


def threads_of(server: Program) -> int:
    return int(psutil.Process(server.process.pid).num_threads())


def test_nothing_imports_gevent(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class Hide:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if any(each in name for each in ('gevent', 'greenlet', 'flask_sockets')):\n"
        "            print('imported', name, file=sys.stderr)\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Hide())\n"
    )
    server = Server(PROGRAM, environment={"PYTHONPATH": str(tmp_path)})
    for path in ("/", "/data", "/update", "/code/websocket", "/healthz"):
        assert server.http.get(path).status == 200
    with RawSocket(server.port) as push, LabPage(server.ws) as page:
        push.json()
        page.clock()
    assert server.stop() == 0
    assert server.log == ""


def test_a_push_socket_costs_no_thread(threads: Start) -> None:
    server = threads()
    with ExitStack() as stack:
        sockets = [stack.enter_context(server.websocket())]
        sockets[0].json()
        eventually(lambda: threads_of(server) <= 6)
        for _ in range(200):
            sockets.append(stack.enter_context(server.websocket()))
        for each in sockets[1:]:
            each.json()
        eventually(lambda: threads_of(server) <= 6)
    eventually(lambda: len(psutil.Process(server.process.pid).net_connections()) == 1)


def test_a_connection_closed_at_once_leaves_no_descriptor(threads: Start) -> None:
    """Even if the hub closes it before Werkzeug does."""
    server = threads()
    with server.websocket() as push:
        push.json()
    eventually(lambda: threads_of(server) <= 6)
    before = server.descriptors
    for _ in range(100):
        with server.open_socket() as hasty:
            hasty.sendall(handshake("/update"))
    eventually(lambda: server.descriptors <= before)


def test_ctrl_c_ends_sockets_and_streams(threads: Start) -> None:
    """As SIGTERM does, which the contract tests."""
    server = threads()
    stream = server.send_get("/update", "Accept: text/event-stream")
    assert stream.recv(10) == b"HTTP/1.1 2"
    with (
        server.websocket() as push,
        server.websocket("/lab") as page,
        ThreadPoolExecutor() as pool,
    ):
        push.json()
        page.json()
        codes = [pool.submit(client.close_code) for client in (push, page)]
        server.process.send_signal(signal.SIGINT)
        received = b""
        while piece := stream.recv(4096):
            received += piece
        assert received.endswith(b"0\r\n\r\n")
        stream.close()
        assert server.wait() == 0
        assert [code.result() for code in codes] == [1001, 1001]
        assert server.log == ""


def test_a_silent_connection_delays_no_other(threads: Start) -> None:
    """Neither in its TLS handshake nor in its headers."""
    for timeout in ("3600", "1"):
        server = threads("--head-timeout", timeout)
        silent = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(20)]
        with server.websocket() as client:
            client.json()
        for each in silent:
            if timeout == "1":
                assert each.recv(1) == b"", "it is closed in the end"
            each.close()


def test_a_lane_is_cut_and_counted(start: Start) -> None:
    server = start(PROGRAM, "--source", "http")
    with LabPage(server.ws) as page:
        with RawSocket(server.port, "/update?lane=a-websocket&carry=1") as push:
            push.json()
            sums = page.sums("a-websocket")
            assert sums["requests"] == 1
            page.do("cut", lane="a-websocket")
            assert push.frame() is None
        with Wire(server.port) as wire:
            wire.socket.sendall(b"GET /data?lane=a-websocket HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert wire.rest() == b""
        with Wire(server.port) as wire:
            wire.socket.sendall(
                b"GET /update?lane=b-sse HTTP/1.1\r\nHost: localhost\r\n"
                b"Accept: text/event-stream\r\n\r\n"
            )
            wire.until(b'"}\n\n\r\n')
            server.publish({})
            wire.until(b'"}\n\n\r\n')
            eventually(  # a thread counts after it has sent
                lambda: (
                    (sums := page.sums("b-sse"))
                    and (sums["up"], sums["down"]) == (wire.sent, wire.received)
                )
            )
            page.do("cut", lane="b-sse")
            assert wire.rest() == b""


def test_the_whole_server_is_frozen(start: Start) -> None:
    """By a thread that holds the interpreter's lock."""
    beats: list[float] = []
    done = threading.Event()

    def beat() -> None:
        while not done.wait(0.001):
            beats.append(time.monotonic())

    beating = threading.Thread(target=beat)
    beating.start()
    eventually(lambda: len(beats) > 5)
    freeze(0.5)
    before = len(beats)
    eventually(lambda: len(beats) > before + 1)
    done.set()
    beating.join()
    assert max(after - before for before, after in pairwise(beats)) >= 0.5


# The thread that watches sockets.


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    yield ours, theirs
    theirs.close()


def test_a_closed_channel_is_not_called(pair: tuple[socket.socket, socket.socket]) -> None:
    """Nor is another socket called that has got its descriptor."""
    watch = SelectorThread()
    called: list[str] = []
    for _ in range(200):
        ours, theirs = socket.socketpair()
        channel = ThreadChannel(ours, watch)
        closed = threading.Event()
        channel.on_close(closed.set)
        channel.watch(called.append, "old", writing=False)
        channel.close()
        assert closed.wait(HANG_TIMEOUT)
        assert ours.fileno() == -1
        channel.close()
        channel.watch(called.append, "old", writing=False)
        theirs.close()
    readable = threading.Event()
    channel = ThreadChannel(pair[0], watch)

    def receive(event: threading.Event) -> None:
        channel.receive(10)
        event.set()

    channel.watch(receive, readable, writing=False)
    pair[1].send(b"x")
    assert readable.wait(HANG_TIMEOUT)
    assert called == []
    channel.close()


def test_a_callback_that_fails_does_not_stop_the_others(
    pair: tuple[socket.socket, socket.socket], caplog: pytest.LogCaptureFixture
) -> None:
    watch = SelectorThread()
    ours, theirs = socket.socketpair()
    broken, closed = ThreadChannel(ours, watch), threading.Event()
    broken.on_close(closed.set)
    broken.watch(lambda number: 1 // number, 0, writing=True)
    assert closed.wait(HANG_TIMEOUT)
    assert "ZeroDivisionError" in caplog.text
    readable = threading.Event()
    channel = ThreadChannel(pair[0], watch)
    channel.watch(threading.Event.set, readable, writing=True)
    assert readable.wait(HANG_TIMEOUT)
    channel.close()
    theirs.close()


# Under `flask run`.


class FlaskRun(Hosted):
    """`flask run`, as in a terminal."""

    def __init__(self, app: str, *arguments: str, options: Any = ("--source", "http")) -> None:
        command = ("flask", "--app", app, "run", "-p", "{port}", *arguments)
        super().__init__(*command, options=options)

    def interrupt(self) -> int:
        """Press Ctrl-C: the terminal signals the reloader and its child."""
        process = psutil.Process(self.process.pid)
        for each in [*process.children(recursive=True), process]:
            each.send_signal(signal.SIGINT)
        return self.wait()


@pytest.mark.parametrize("options", [[], ["--debug"]])
def test_flask_run(options: list[str]) -> None:
    server = FlaskRun(PROGRAM, *options)
    assert server.http.get("/data").status == 200
    with RawSocket(server.port) as push, LabPage(server.ws) as page:
        push.json()
        assert page.wait_for("lab")["metered"] is False
        page.do("watch", lanes=["a-poll"])
        assert page.wait_for("pace") == "irregular"
        page.do("cut", lane="a-poll")
        assert "does not count" in page.wait_for("error")
        assert not any(message.get("meters") for message in page.received)
        newest = server.publish({"number": 1})
        assert push.json()["cursor"] == newest
        with ThreadPoolExecutor(1) as pool:
            code = pool.submit(push.close_code)
            assert server.interrupt() == 0
            assert code.result() == 1001
    assert "Traceback" not in server.log
    assert server.log.count(" 101 -") == 2


def test_the_source_runs_once_where_it_serves(tmp_path: Path) -> None:
    """With the reloader, two processes import the app."""
    counted = tmp_path / "counted"
    counting = tmp_path / "counting.py"
    counting.write_text(
        "import os, runpy, sys\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "from lab import sources\n"
        "def clock(pace, clock=sources.clock):\n"
        f"    with open({str(counted)!r}, 'a') as file:\n"
        "        file.write(f'{os.getpid()}\\n')\n"
        "    return clock(pace)\n"
        "sources.SOURCES['clock'] = clock\n"
        f"app = runpy.run_path({str(ROOT / PROGRAM)!r}, run_name='hosted')['app']\n"
        "@app.get('/fail')\n"
        "def fail():\n"
        "    raise RuntimeError('on purpose')\n"
    )
    program = FlaskRun(str(counting), "--debug", options=("--source", "clock", "--every", "0.05"))
    for _ in range(10):
        assert program.http.get("/data").status == 200
    with RawSocket(program.port) as push:
        first, second = push.json(), push.json()
        assert first != second
    [child] = psutil.Process(program.process.pid).children()
    assert counted.read_text().split() == [str(child.pid)]
    failed = program.http.get("/fail")  # the debugger's page, not ours
    assert failed.status == 500
    assert b"Werkzeug Debugger" in failed.body
    with RawSocket(program.port) as push:
        push.json()
        counting.touch()  # which restarts it
        assert push.close_code() == 1001
    eventually(lambda: len(set(counted.read_text().split())) == 1 and program.responds())
    with RawSocket(program.port) as push:
        push.json()
    eventually(lambda: len(counted.read_text().split()) == 2)
    assert program.interrupt() == 0


def test_without_threads_a_websocket_is_rejected() -> None:
    program = FlaskRun(PROGRAM, "--without-threads")
    response = program.http.get("/update", headers=UPGRADE)
    assert response.status == 501
    assert "threads" in response.json["error"]
    assert program.interrupt() == 0


def test_importing_the_app_changes_no_signal_handler() -> None:
    code = (
        "import signal, runpy\n"
        f"app = runpy.run_path('{PROGRAM}', run_name='hosted')['app']\n"
        "from werkzeug.test import Client\n"
        "print(Client(app).get('/data').status_code)\n"
        "print(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True,
                          timeout=HANG_TIMEOUT, env={**os.environ}, check=False)  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "200\nTrue\n", "")


def test_without_a_token_only_this_machine_may_publish() -> None:
    """Whatever `flask run --host` says, which our options lack."""
    server = FlaskRun("servers/threads", "--host", "0.0.0.0")
    assert server.http.post("/data", {"n": 1}).status == 201
    response = server.http.post("/data", {"n": 2}, headers={"X-Forwarded-For": "203.0.113.9"})
    assert response.status == 403
    assert "PUSHLAB_TOKEN" in response.json["error"]
    assert server.interrupt() == 0


def test_flask_run_listens_on_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    server = Program("-m", "flask", "--app", "servers/threads", "run", "--host", f"unix://{path}")
    with socket.socket(socket.AF_UNIX) as client:
        # The file exists a moment before the server listens.
        eventually(lambda: client.connect_ex(str(path)) == 0)
        client.sendall(b"GET /data HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert client.recv(4096).startswith(b"HTTP/1.1 200 ")
    server.process.send_signal(signal.SIGINT)
    assert server.wait() == 0
    assert "Traceback" not in server.log


def test_flask_run_takes_no_certificate_of_ours() -> None:
    server = Program("-m", "flask", "--app", "servers/threads", "run",
                     environment={"PUSHLAB_OPTIONS": "--certfile cert.pem"})  # fmt: skip
    assert server.wait() == 1
    assert "--cert and --key" in server.log
    assert "Traceback" not in server.log


def test_a_malformed_url_is_a_bad_request(start: Start) -> None:
    server = start("servers/threads.py")
    with server.open_socket() as client:
        client.sendall(b"GET http://[::1 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert client.recv(4096).startswith(b"HTTP/1.1 400 ")


def test_a_connection_that_is_being_sent_to_gets_its_close_frame_after_that() -> None:
    """As a connection whose thread has not run yet."""
    ours, client = socket.socketpair()
    connection = ThreadConnection()
    connection.accepted, connection._socket = True, ThreadChannel(ours, SelectorThread())
    client.settimeout(HANG_TIMEOUT)
    with connection._sending:
        closing = threading.Thread(target=close_all, args=[[connection]])
        closing.start()
        closing.join(0.1)
        assert closing.is_alive()
    assert client.recv(100) == bytes([0x88, 2]) + struct.pack("!H", 1001)
    closing.join(HANG_TIMEOUT)
    assert connection.closed
    client.close()
    ours.close()


def test_a_blocked_connection_does_not_delay_a_shutdown() -> None:
    connection = ThreadConnection()
    with connection._sending:
        closing = threading.Thread(target=close_all, args=[[connection]], daemon=True)
        closing.start()
        closing.join(HANG_TIMEOUT)
        assert not closing.is_alive()
