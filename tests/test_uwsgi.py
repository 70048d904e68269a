"""uWSGI, on its gevent loop and with threads."""

import re
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from bench.servers import free_port
from lab import instruments
from pushlab import limits
from tests.browsing import Browser
from tests.clients import (
    BINARY,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    UPGRADE,
    Http,
    LabPage,
    RawSocket,
    close_frame,
    exchange,
    frame,
    handshake,
)
from tests.conftest import ROOT, Program, Server, ending_well, eventually
from tests.hosting import BIN, Hosted
from tests.transports import EventStream, sequence

INIS = ("uwsgi.ini", "uwsgi-threads.ini")
SLOTS = {"uwsgi.ini": "gevent = 1000", "uwsgi-threads.ini": "threads = 100"}
HTTP = ("--source", "http")

Host = Callable[..., Hosted]


@pytest.fixture
def host() -> Iterator[Host]:
    """Start servers, which must end well."""
    servers: list[Server] = []

    def host(*arguments: str, options: tuple[str, ...] = HTTP, **more: Any) -> Hosted:
        servers.append(server := Hosted("uwsgi", *arguments, options=options, **more))
        return server

    with ending_well(servers):
        yield host


@pytest.fixture(scope="module", params=INIS)
def ini(request: pytest.FixtureRequest) -> str:
    """Each of the two configurations."""
    return f"servers/{request.param}"


@pytest.fixture(scope="module")
def server(ini: str) -> Iterator[Hosted]:
    """A server for all tests that need no options."""
    server = Hosted("uwsgi", ini, options=HTTP)
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
    """Return the path of a configuration with so few slots."""
    old = SLOTS[Path(ini).name]
    return changed(ini, folder, (old, f"{old.partition(' ')[0]} = {slots}"))


def uwsgi(*arguments: str, stdin: int = subprocess.DEVNULL, **environment: Any) -> Program:
    command, environment = [str(BIN / "uwsgi")], {"PORT": "0", **environment}
    return Program(*arguments, command=command, environment=environment, stdin=stdin)


def startup_error(*arguments: str, **environment: Any) -> str:
    """Return the last line of a uWSGI that failed to start."""
    program = uwsgi(*arguments, **environment)
    assert program.wait() != 0
    assert "Traceback" not in program.log
    assert program.out == []
    return program.err[-1]


def until_ready(program: Program) -> Http:
    """Wait for the line with the port, without a request."""
    eventually(lambda: program.out)
    return Http("127.0.0.1", int(re.findall(r":([0-9]+) ", program.out[0])[0]))


HOST, CHUNKS = "Host: localhost\r\n", "\r\n2\r\n{}\r\n0\r\n\r\n"
CHUNKED, LENGTH = "Transfer-Encoding: chunked\r\n", "Content-Length: 2\r\n"


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        ("GET /data\r\n\r\n", 400),
        ("\xff\xfe\r\n\r\n", 400),
        (f"\r\nGET /data HTTP/1.1\r\n{HOST}\r\n", 200),
        (f"GET data HTTP/1.1\r\n{HOST}\r\n", 400),
        (f"get /data HTTP/1.1\r\n{HOST}\r\n", 501),
        (f"GET /data HTTP/2.0\r\n{HOST}\r\n", 505),
        (f"GET /data tea\r\n{HOST}\r\n", 400),
        (f"GET /\x1b[2J HTTP/1.1\r\n{HOST}\r\n", 400),
        (f"CONNECT localhost:80 HTTP/1.1\r\n{HOST}\r\n", 501),
        (f"OPTIONS * HTTP/1.1\r\n{HOST}\r\n", 200),
        (f"GET http://localhost/d%61ta?x=1 HTTP/1.1\r\n{HOST}\r\n", 200),
        (f"GET http://example.org/data HTTP/1.1\r\n{HOST}\r\n", 421),
        ("GET /data HTTP/1.1\r\n\r\n", 400),
        ("GET /data HTTP/1.1\r\nHost : localhost\r\n\r\n", 400),
        (f"GET /data HTTP/1.1\r\n{HOST}{HOST}\r\n", 400),
        (f"GET /data HTTP/1.1\r\n{HOST}X-A: a\r\n b\r\n\r\n", 400),
        (f"GET /data HTTP/1.1\r\n{HOST}X-A: a\x00b\r\n\r\n", 400),
        (handshake("/update", "localhost", {"Origin ": "http://evil.example"}).decode(), 400),
        (handshake("/update", "localhost", {"X-A ": "a"}).decode(), 400),
        (f"POST /data HTTP/1.1\r\n{HOST}Content-Length: 2\r\n\r\n{{}}", 201),
        (f"POST /data HTTP/1.1\r\n{HOST}Content-Length: +2\r\n\r\n{{}}", 400),
        (f"POST /data HTTP/1.1\r\n{HOST}{LENGTH}{LENGTH}\r\n{{}}", 400),
        (f"POST /data HTTP/1.1\r\n{HOST}{LENGTH}{CHUNKED}{CHUNKS}", 400),
        (f"POST /data HTTP/1.1\r\n{HOST}{CHUNKED}{CHUNKS}", 411),
        (f"POST /data HTTP/1.1\r\n{HOST}{CHUNKED}\r\nzz\r\n", 411),
        (f"POST /data HTTP/1.1\r\n{HOST}Transfer-Encoding: gzip, chunked\r\n{CHUNKS}", 501),
        (f"POST /data HTTP/1.1\r\n{HOST}{LENGTH}Expect: tea\r\n\r\n{{}}", 417),
        ("\x16\x03\x01\x01\x40\x01\x00\x01\x3c\x03\x03" + "\x01" * 315, None),  # TLS
    ],
)
def test_what_uwsgis_parser_lets_pass(server: Hosted, sent: str, status: int | None) -> None:
    """And no traceback: the fixture looks for one."""
    response = exchange(server.port, sent.encode("latin-1"))
    assert (int(response.split()[1]) if response else None) == status
    assert response.count(b"\r\nDate: ") == (status is not None)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])  # SIGTERM is in the contract
def test_every_client_is_closed_when_it_stops(host: Host, ini: str, number: signal.Signals) -> None:
    server = host(ini)
    newest = server.publish({"n": 1})
    stream = EventStream(server)
    with RawSocket(server.port) as push, RawSocket(server.port, "/lab") as lab:
        push.json()
        poll = server.send_get(f"/update?after={newest}&timeout=50")
        server.until_idle()
        server.process.send_signal(number)
        assert push.close_code() == lab.close_code() == 1001
    assert poll.recv(4096).startswith(b"HTTP/1.1 204 ")
    poll.close()
    with pytest.raises(EOFError):
        list(iter(stream.event, None))
    stream.close()
    assert server.wait() == 0


def test_with_a_master_process_sockets_are_closed_too(host: Host, ini: str) -> None:
    server = host(ini, "--master")
    with RawSocket(server.port) as push:
        push.json()
        server.process.terminate()
        assert push.close_code() == 1001
    assert server.wait() == 0


def test_messages_in_fragments_stay_apart(host: Host, ini: str) -> None:
    """uWSGI's own frames would mix the fragments of two clients."""
    server = host(ini, environment={"APP": "examples.echo:app"})
    with RawSocket(server.port, "/echo") as one, RawSocket(server.port, "/echo") as other:
        one.send(frame(TEXT, b"a secret ", fin=False))
        other.send(frame(TEXT, b"no ", fin=False))
        other.send(frame(CONTINUATION, b"news"))
        assert other.frame() == (TEXT, b"no news")
        one.send(frame(CONTINUATION, b"of mine"))
        assert one.frame() == (TEXT, b"a secret of mine")


def test_push_sockets_hold_no_request(host: Host, ini: str, tmp_path: Path) -> None:
    """300 browsers on 8 threads or greenlets leave room."""
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


def test_an_event_stream_that_ends_makes_room(host: Host, ini: str, tmp_path: Path) -> None:
    server = host(with_slots(ini, tmp_path, 2), options=("--source", "clock", "--every", "0.1"))
    for _ in range(5):
        for stream in [EventStream(server) for _ in range(2)]:
            stream.close()
    assert server.http.get("/data").status == 200
    assert "error" not in server.log.lower()


def test_an_event_stream_is_not_buffered(server: Hosted) -> None:
    stream = EventStream(server)
    assert b"\r\nConnection: close\r\n" in stream.head
    stream.receive()
    newest = server.publish({"n": 1})
    # Long before a heartbeat, which would flush a buffer.
    assert stream.receive(timeout=0.8 * limits.HEARTBEAT) == {"cursor": newest}
    stream.close()


def test_another_app_from_another_directory(host: Host, ini: str, tmp_path: Path) -> None:
    server = host(
        str(ROOT / ini),
        options=(),
        environment={"APP": "examples.echo:app", "PYTHONPATH": ""},
        folder=tmp_path,
    )
    eventually(lambda: server.out)
    assert server.out == [f"examples.echo:app is at {server.url} (Ctrl-C stops it)\n"]
    with RawSocket(server.port, "/echo") as opened:
        for opcode, payload in ((TEXT, b"text"), (BINARY, b"\x00\xff"), (TEXT, b"x" * 60_000)):
            opened.send(frame(opcode, payload))
            assert opened.frame() == (opcode, payload)
        server.process.terminate()
        assert opened.close_code() == 1001
    assert server.wait() == 0


def test_several_processes_are_rejected(host: Host, ini: str) -> None:
    server = host(ini, "--master", "--processes", "2")
    for headers in ({}, UPGRADE):
        response = server.http.get("/update", headers=headers)
        assert response.status == 503
        assert "several processes" in response.json["error"]


def test_the_source_runs_once(ini: str) -> None:
    every = 0.1
    program = uwsgi(ini, PUSHLAB_OPTIONS=f"--source clock --every {every}")
    http = until_ready(program)

    def newest(_: int = 0) -> int:
        return sequence(http.get("/data").json["cursor"])

    began = time.monotonic()
    with ThreadPoolExecutor(20) as pool:  # the first request starts it, and each may be the first
        first = min(pool.map(newest, range(20)))
    last = eventually(lambda: (now := newest()) >= first + 10 and now)
    assert last - first <= (time.monotonic() - began) / every + 3, "two would make twice as many"
    assert program.stop() == 0, program.log


def test_lines_of_standard_input_are_the_data(ini: str) -> None:
    program = uwsgi(ini, stdin=subprocess.PIPE, PUSHLAB_OPTIONS="--source stdin")
    http = until_ready(program)
    http.get("/data")
    assert program.process.stdin is not None
    program.process.stdin.write('{"n": 1}\n')
    program.process.stdin.flush()
    eventually(lambda: http.get("/data").json["value"] == {"n": 1})
    assert program.stop() == 0


def test_the_page_can_freeze_it(host: Host, ini: str) -> None:
    server = host(ini, options=())
    with LabPage(server.ws) as lab:
        assert lab.wait_for("lab")["metered"] is False
        began = lab.clock()
        lab.do("freeze")
        lab.wait_for("frozen")
        assert server.http.get("/data").status == 200
        assert lab.clock() - began >= 1000 * instruments.FREEZE


def test_the_page_says_what_is_not_counted(host: Host, ini: str, browser: Browser) -> None:
    server = host(ini, options=())
    browser.open(f"{server.url}/#experiment=quiet")
    browser.until_live("[data-truth]")
    status = browser.find("[data-part=status]")
    eventually(lambda: status.text.startswith("This server does not count bytes"))
    assert not browser.find("[data-action=run]").is_enabled()


def test_a_port_in_use_is_one_line(ini: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        error = startup_error(ini, PORT=str(taken.getsockname()[1]))
    assert "Address already in use" in error


@pytest.mark.parametrize(
    ("environment", "error"),
    [
        ({"PORT": "http"}, "Invalid value for '--port': 'http' is not a port number"),
        ({"PUSHLAB_OPTIONS": "--every never"}, "'never' is not a number of seconds"),
        ({"PUSHLAB_OPTIONS": "--certfile cert.pem"}, "--certfile is not for uWSGI"),
        ({"APP": "nowhere:app"}, "There is no app nowhere:app: No module named 'nowhere'."),
        ({"APP": "serve:nothing"}, "There is no app serve:nothing"),
    ],
)
def test_a_startup_error_is_one_line(ini: str, environment: dict[str, str], error: str) -> None:
    assert error in startup_error(ini, **environment)


def test_an_app_for_gevent_does_not_run_on_threads() -> None:
    assert "made for gevent" in startup_error("servers/uwsgi-threads.ini", APP="serve:app")


def test_tls_within_the_worker_is_rejected(ini: str, certificate: tuple[str, str]) -> None:
    error = startup_error(ini, "--https-socket", ",".join(("127.0.0.1:0", *certificate)))
    assert error.startswith("With https-socket the TLS is uWSGI's")


def test_tls_by_uwsgis_router(
    host: Host, ini: str, certificate: tuple[str, str], tmp_path: Path
) -> None:
    """It decrypts in another process, which speaks uWSGI's protocol."""
    lines = (ROOT / ini).read_text().splitlines()
    sockets = [line for line in lines if line.startswith("http-socket")]
    port = free_port()
    router = ",".join((f"https = 127.0.0.1:{port}", *certificate))
    behind = free_port()
    more = f"{router}\nhttp-websockets = true\nsocket = 127.0.0.1:{behind}"
    path = changed(ini, tmp_path, *((line, "") for line in sockets), more=more)
    server = host(path, port=port, tls=True)
    with server.websocket() as opened:
        opened.json()
        opened.ping(b"through the router")
        opened.send(close_frame(1000))
        assert opened.close_code() == 1000
    # nginx's uwsgi_pass names the protocol of its own client.
    variables = {"REQUEST_METHOD": "GET", "REQUEST_URI": "/data", "PATH_INFO": "/data",
                 "SERVER_PROTOCOL": "HTTP/2.0", "HTTP_HOST": "localhost"}  # fmt: skip
    texts = [text.encode() for pair in variables.items() for text in pair]
    packet = b"".join(struct.pack("<H", len(text)) + text for text in texts)
    assert b" 200 OK\r\n" in exchange(behind, struct.pack("<BHB", 0, len(packet), 0) + packet)


def test_a_kept_alive_connection_becomes_a_websocket(host: Host, tmp_path: Path) -> None:
    """uWSGI's http11-socket reads on from connections that it keeps alive.

    With gevent http11-socket hangs by itself."""
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
