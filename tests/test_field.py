"""Inputs from public reports to projects of this kind, each with its siblings."""

import os
import select
import signal
import socket
import ssl
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from websockets import Subprotocol

from bench.servers import free_port
from pushlab import limits
from pushlab.hosting.log_lines import printable
from pushlab.wsgi.accept import prefers
from pushlab.wsgi.access import normalized_origin, origin_allowed
from pushlab.wsgi.proxy_headers import apply_forwarded, network
from tests.clients import (
    CLOSE,
    HANG_TIMEOUT,
    PING,
    PONG,
    RESET,
    Http,
    LabPage,
    RawSocket,
    frame,
    open_websocket,
    read_all,
)
from tests.conftest import ROOT, UNVERIFIED, Server, Start, eventually, starting
from tests.hosting import OWN, Hosted, start_server, with_limits

#: One with each code for connections: gunicorn's worker has that of serve.py.
SERVERS = ("serve.py", "servers/threads.py")
UWSGI = ("uwsgi gevent", "uwsgi threads")

GET = b"GET /data HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = b"POST /data HTTP/1.1\r\nHost: localhost\r\n"


# Credentials and origins.


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        ("Bearer s3cret", 201), ("bearer s3cret", 201), ("BEARER s3cret", 201),
        ("Bearer  s3cret", 201), ("Bearer s3cret ", 201), ("Bearer s3cre", 401),
        ("Bearer S3CRET", 401), ("Basic s3cret", 401), ("s3cret", 401), ("Bearer", 401),
        ("Bearer s3cret s3cret", 401), ("Bearer \xe9", 401), ("", 401), (None, 401),
    ],
)  # fmt: skip
def test_authorization(token_server: Server, authorization: str | None, status: int) -> None:
    headers = {} if authorization is None else {"Authorization": authorization}
    response = token_server.http.post("/data", {}, headers=headers)
    assert response.status == status
    assert response.headers.get("WWW-Authenticate") == ("Bearer" if status == 401 else None)


@pytest.fixture(scope="module")
def token_server() -> Iterator[Server]:
    server = Server("serve.py", "--source", "http", "--token", "s3cret")
    yield server
    assert server.stop() == 0


@pytest.mark.parametrize("token", [b"s3cret\n", b"s3 cret", b"\xc3\xa9", b"\xff", b"\t"])
def test_a_token_that_no_header_can_bring_is_refused_at_the_start(token: bytes) -> None:
    done = subprocess.run(
        [sys.executable, "serve.py", "--port", "0", "--source", "http"],
        cwd=ROOT, capture_output=True, env={**os.environb, b"PUSHLAB_TOKEN": token}, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.count(b"\n") == 1
    assert b"PUSHLAB_TOKEN" in done.stderr


@pytest.mark.parametrize(
    ("origin", "host", "allowed"),
    [
        ("https://example.org", "example.org", True),
        ("https://example.org", "example.org:443", True),
        ("https://example.org:443", "example.org", True),
        ("http://example.org", "example.org:80", True),
        ("HTTP://EXAMPLE.ORG", "example.org", True),
        ("https://example.org", "example.org:80", False),
        ("http://example.org", "example.org:443", False),
        ("http://example.org:8080", "example.org", False),
        ("https://other.example", "example.org", True),  # one of --allow-origin
        ("https://other.example:443", "example.org", True),
        ("https://other.example:8443", "example.org", False),
        ("null", "example.org", False),
        ("", "example.org", False),
        ("https://", "", False),
    ],
)
def test_an_origin_with_its_default_port_is_the_same(origin: str, host: str, allowed: bool) -> None:
    others = (normalized_origin("https://other.example:443"),)
    assert origin_allowed({"HTTP_ORIGIN": origin, "HTTP_HOST": host}, others) is allowed


@pytest.mark.parametrize(
    ("accept", "stream"),
    [
        ("text/event-stream", True), ("TEXT/Event-Stream", True), ("text/*", True),
        ("text/event-stream, */*;q=0.1", True), ("application/json, text/event-stream", True),
        ("text/event-stream;q=0", False), ("*/*", False), ("", False),
        ("text/event-stream;q=0.5, application/json", False), ("text/html, */*", False),
        ("text/event-stream-2", False),
    ],
)  # fmt: skip
def test_accept(accept: str, stream: bool) -> None:
    assert prefers("text/event-stream", accept) is stream


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("NaN", "the body is not JSON: NaN is no number there"),
        ('{"a":[-Infinity]}', "the body is not JSON: -Infinity is no number there"),
        ('{"a":1e999}', "the body is a number too large to be kept: 1e999"),
        (f'{{"a":{"1" * 5000}}}', "the body is a number of 5000 characters: 1111"),
        ('{"a":' * 3000, "the body is nested too deeply"),
        ("[]", "the body is not a JSON object"),
        ("1", "the body is not a JSON object"),
        ("{", "the body is not JSON: Expecting property name"),
        ("", "the body is not JSON: Expecting value"),
        (b"\xff", "the body is not JSON, as it is not text"),
    ],
)
def test_what_is_wrong_with_a_body(token_server: Server, body: str | bytes, error: str) -> None:
    before = token_server.cursor
    content = body if isinstance(body, bytes) else body.encode()
    response = token_server.http.post("/data", content, headers={"Authorization": "Bearer s3cret"})
    assert response.status == 400
    assert response.json["error"].startswith(error)
    assert token_server.cursor == before


# Logs and standard streams.


@pytest.mark.parametrize("text", ["\x1b]0;mine\x07\x1b[2J", "\x9b2J", "a\rb", "\u202e", "\ud800"])
def test_a_terminal_does_not_obey_a_log_line(text: str) -> None:
    assert all(" " <= character <= "~" for character in printable(text))


@pytest.mark.parametrize("program", SERVERS)
def test_control_characters_of_a_request_are_escaped(start: Start, program: str) -> None:
    server = start(program, "--log-level", "info")
    for target in ("/\x1b]0;mine\x07", "/\x9b2J"):
        with socket.create_connection(("127.0.0.1", server.port), HANG_TIMEOUT) as client:
            client.sendall(f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode("latin-1"))
            assert client.recv(12).startswith(b"HTTP/1.1 4")
    eventually(lambda: server.log.count("\n") >= 2)
    assert not any("\x00" <= character < " " for character in server.log.replace("\n", ""))
    assert "\x9b" not in server.log


@contextmanager
def serving(program: str, streams: str = "", **popen: Any) -> Iterator[Callable[[str], int]]:
    """Start a program whose output is not read; it must serve, and stop with status 0.

    Yields a function that returns the status of a path, or 0.
    """
    port = free_port()
    command = f'exec "$0" {program} --port {port} --far none --log-level info {streams}'
    process = subprocess.Popen(["sh", "-c", command, sys.executable], cwd=ROOT, **popen)
    http = Http("127.0.0.1", port)

    def status(path: str) -> int:
        with suppress(OSError):
            return http.get(path).status
        return 0

    try:
        assert eventually(lambda: status("/data")) == 200
        yield status
        process.terminate()
        assert process.wait(HANG_TIMEOUT) == 0
    finally:
        process.kill()


@pytest.mark.parametrize(
    ("program", "streams"),
    [
        *((SERVERS[0], streams) for streams in ("<&- >&- 2>&-", "<&-", ">/dev/full")),
        *((program, ">&- 2>/dev/full") for program in SERVERS),
    ],
)  # what opens closed streams is the same in both programs; they write their own first line
def test_standard_streams_that_are_closed_or_full(program: str, streams: str) -> None:
    with serving(program, streams):
        pass


@pytest.mark.parametrize("program", SERVERS)
def test_a_reader_of_the_output_that_is_gone(program: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with serving(program, stdout=writing):
        os.close(writing)


@pytest.mark.parametrize("program", SERVERS)
def test_logging_never_blocks_the_server(program: str) -> None:
    """Nothing reads standard error, and the log is longer than its pipe."""
    reading, writing = os.pipe()
    with serving(program, stdout=subprocess.DEVNULL, stderr=writing) as status:
        os.close(writing)
        for _ in range(100):
            assert status(f"/data?{'x' * 2000}") == 200
    os.close(reading)


# Standard input.


@pytest.mark.parametrize("program", SERVERS)
def test_standard_input_that_does_not_block(start: Start, program: str) -> None:
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    server = start(program, "--source", "stdin", stdin=reading)
    os.close(reading)

    def shows(text: str) -> bool:
        return bool(server.http.get("/data").json["value"] == {"line": text})

    for text in ("one", "two"):
        os.write(writing, f"{text}\n".encode())
        eventually(partial(shows, text))
    os.close(writing)


@pytest.mark.parametrize("program", SERVERS)
def test_many_lines_at_once_hold_up_nothing(start: Start, program: str) -> None:
    """The newest line arrives; what came before it is superseded, not queued."""
    server = start(program, "--source", "stdin", stdin=subprocess.PIPE)
    pipe = server.process.stdin
    assert pipe is not None
    pipe.write("".join(f"{number}\n" for number in range(100_000)))
    pipe.flush()
    eventually(lambda: server.http.get("/data").json["value"] == {"line": "99999"})
    assert int(server.http.get("/data").json["cursor"].rpartition("-")[2]) < 1000
    pipe.close()


@pytest.mark.parametrize(
    ("fault", "state"), [("raise", "failed"), ("unpublishable", "failed"), ("end", "ended")]
)
@pytest.mark.parametrize("program", SERVERS)
def test_a_source_that_stops_is_told(program: str, fault: str, state: str) -> None:
    server = Server("tests/broken_source.py", environment={"FAULT": fault, "PROGRAM": program})
    sentence = f"The source clock has {state}: the data does not change any more."

    def health() -> tuple[int, Any]:
        response = server.http.get("/healthz")
        return response.status, response.json

    eventually(lambda: health() == (503, {"error": sentence, "source": state}))
    assert server.http.get("/data").json["value"] == {"line": "the last one"}
    eventually(lambda: sentence in server.log)
    if state == "failed":
        eventually(lambda: "Traceback" in server.log)
    else:
        assert "Traceback" not in server.log
    assert f">{sentence}</p>" in server.http.get("/").body.decode()
    with LabPage(server.ws) as page:
        assert page.wait_for("source") == sentence
    assert server.stop() == 0


# Connections.


@pytest.fixture(scope="module", params=SERVERS)
def three_places(request: pytest.FixtureRequest) -> Iterator[Server]:
    # Neither an event stream's heartbeat nor the poll's end is to show that a client is gone.
    rare = with_limits(HEARTBEAT=3600, POLL_TIMEOUT=3600)
    options = ("--source", "http", "--max-connections", "3")
    with starting() as start:
        yield start(request.param, *options, environment=rare)


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("accept", ["*/*", "text/event-stream"])
def test_a_client_that_is_gone_frees_its_place(three_places: Server, accept: str, how: str) -> None:
    server = three_places
    eventually(lambda: server.responds("/data"))  # those of the test before may be in its places
    cursor = server.http.get("/data").json["cursor"]
    request = f"GET /update?after={cursor}&carry=1 HTTP/1.1\r\nHost: localhost\r\n"
    with ExitStack() as clients:
        held: list[socket.socket] = []

        def status() -> int:
            with suppress(OSError):
                return Http("127.0.0.1", server.port).get("/data").status
            return 0

        def is_held(client: socket.socket) -> bool:
            readable, _, _ = select.select([client], [], [], 0)
            return not readable or client.recv(12, socket.MSG_PEEK) != b"HTTP/1.1 503"

        def is_full() -> bool:
            # The request for the cursor may still have its place: then one client is rejected.
            if sum(map(is_held, held)) < 3:
                client = socket.create_connection(("127.0.0.1", server.port), HANG_TIMEOUT)
                held.append(clients.enter_context(client))
                client.sendall(f"{request}Accept: {accept}\r\n\r\n".encode())
                return False
            return status() == 503

        eventually(is_full)
        for client in held:
            if how == "reset":
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
        eventually(lambda: status() == 200)


@pytest.mark.parametrize("name", [*SERVERS, "serve.py tls", "servers/threads.py tls", *UWSGI])
def test_a_stream_that_is_not_read_keeps_few_readings(name: str, certificate_folder: Path) -> None:
    """The rest is coalesced: the kernel's buffers would hold 250 of 16 KiB."""
    # So that the client is not cut off before everything is published, however long that takes.
    patient = {**with_limits(RESPONSE_TIMEOUT=3600), "UWSGI_SOCKET_TIMEOUT": "3600"}
    server = start_server(name, certificate_folder, "--source", "http", environment=patient)
    with server.send_get("/update?carry=1", "Accept: text/event-stream") as stream:
        assert stream.recv(1)
        for _ in range(300):
            newest = server.publish({"text": "x" * 16_000})
        received = bytearray(b"\n")
        while f"id: {newest}\n".encode() not in received[-40_000:]:
            piece = stream.recv(65536)
            assert piece, "the stream ended"
            received += piece
        assert received.count(b"\nid: ") < 40
    assert server.stop() == 0


@pytest.fixture(scope="module", params=SERVERS)
def fresh(request: pytest.FixtureRequest, certificate_folder: Path) -> Iterator[tuple[Server, int]]:
    """A server, and its memory after the first request."""
    server = start_server(request.param, certificate_folder, "--source", "http")
    assert server.http.get("/data").status == 200
    yield server, memory(server)
    assert server.stop() == 0


@pytest.mark.parametrize(("first", "repeated"), [
    (b"", GET), (POST + b"Content-Length: 67108864\r\n\r\n", b"x" * 64),
    (GET.replace(b"GET", b"POST", 1), GET), (b"", b"GET /data\r\n\r\n"),
], ids=["requests", "a body", "a bad request", "HTTP/0.9"])  # fmt: skip
def test_64_megabytes_that_get_no_reader_are_not_taken(
    fresh: tuple[Server, int], first: bytes, repeated: bytes
) -> None:
    """The client does not read; the kernel's buffers are most of what is taken."""
    sent = first + repeated * (2**26 // len(repeated))
    server, before = fresh
    with socket.create_connection(("127.0.0.1", server.port), 1) as client:
        taken = 0
        with suppress(OSError):  # a time-out: no more is taken; or a reset
            while taken < len(sent):
                taken += client.send(memoryview(sent)[taken : taken + 2**16])
        assert taken < 2**24
        assert memory(server) - before < 2**22


def memory(server: Server) -> int:
    """Return the resident bytes of the server's processes."""
    root = psutil.Process(server.process.pid)
    return sum(each.memory_info().rss for each in (root, *root.children(recursive=True)))


@pytest.mark.parametrize("name", [*OWN, "serve.py tls", *UWSGI])
def test_a_body_that_never_ends_is_one_line(name: str, certificate_folder: Path) -> None:
    options, environment = ("--source", "http", "--log-level", "info"), with_limits(BODY_TIMEOUT=1)
    server = start_server(name, certificate_folder, *options, environment=environment)
    bodies = (b"Transfer-Encoding: chunked\r\n\r\n7\r\n{", b"Content-Length: 9\r\n\r\n{")
    ends: list[Callable[[socket.socket], object]] = [
        lambda client: client.shutdown(socket.SHUT_WR), reset,
    ]  # fmt: skip
    if name not in UWSGI:  # whose time-out is 30 seconds
        ends.append(read_all)
    for body in bodies:
        for end in ends:
            with server.open_socket() as client:
                client.sendall(POST + body)
                end(client)
                if end is not reset:
                    read_all(client)
    assert server.http.get("/data").status == 200
    assert server.stop() == 0
    assert "Traceback" not in server.log
    lines = [line for line in server.log.splitlines() if "POST" in line or "body" in line]
    assert len(lines) <= len(bodies) * len(ends)


def reset(client: socket.socket) -> None:
    """Close with a reset, as a crashed machine does."""
    socket.socket.setsockopt(client, socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    client.close()


@pytest.mark.parametrize("name", OWN)
def test_no_descriptors_left_is_one_line(name: str, certificate_folder: Path) -> None:
    server = start_server(
        name, certificate_folder,
        environment=with_limits(SPARE_DESCRIPTORS=0), before="ulimit -n 60",
    )  # fmt: skip
    with ExitStack() as stack:
        for _ in range(100):
            stack.enter_context(server.open_socket()).sendall(GET[:-2])
        eventually(lambda: "cannot accept connections" in server.log)
    eventually(server.responds)
    assert server.stop() == 0
    lines = server.log.splitlines()
    assert len(lines) == len(set(lines)) <= 2  # that of the server, and one of its source


#: tests/routes.py on every server that sets socket options.
ROUTES: dict[str, Callable[[], Server]] = {
    "gevent": lambda: Server("tests/conversing.py"),
    "threads": lambda: Server("tests/threaded.py"),
    "gunicorn": lambda: Hosted(
        "gunicorn", "-k", "pushlab.hosting.gunicorn.Worker", "-b", "127.0.0.1:{port}",
        "--no-control-socket", "tests.routes:app",
    ),
    **{
        ini: partial(Hosted, "uwsgi", f"servers/{ini}.ini", environment={"APP": "tests.routes:app"})
        for ini in ("uwsgi", "uwsgi-threads")
    },
}  # fmt: skip


@pytest.mark.parametrize("name", ROUTES)
def test_a_connection_whose_client_is_unreachable_ends(name: str) -> None:
    """The kernel gives up after TCP_USER_TIMEOUT, whatever is unacknowledged."""
    server = ROUTES[name]()
    with server.open_socket() as client:
        path = f"/user-timeout/{client.getsockname()[1]}"
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        client.shutdown(socket.SHUT_WR)
        milliseconds = int(limits.ACKNOWLEDGE_TIMEOUT * 1000)
        assert read_all(client).endswith(f"\r\n\r\n{milliseconds}".encode())
    assert server.stop() == 0


@pytest.mark.parametrize("name", ["SIGHUP", "SIGTERM", "SIGINT"])
@pytest.mark.parametrize("program", SERVERS)
def test_each_signal_closes_sockets_with_1001(program: str, name: str) -> None:
    server = Server(program)
    with RawSocket(server.port) as browser:
        browser.json()
        server.process.send_signal(signal.Signals[name])
        opcode, payload = browser.last_frame()
        assert (opcode, int.from_bytes(payload[:2], "big")) == (CLOSE, 1001)
    assert server.wait() == 0


# A process that stood still.


@contextmanager
def standing_still(server: Server, seconds: float) -> Iterator[None]:
    """Stop the server's processes, for so long after the block."""
    root = psutil.Process(server.process.pid)
    processes = [root, *root.children(recursive=True)]
    for process in processes:
        process.suspend()
    try:
        eventually(lambda: all(each.status() == psutil.STATUS_STOPPED for each in processes))
        yield
        time.sleep(seconds)
    finally:
        for process in processes:
            process.resume()


@pytest.mark.parametrize(
    ("program", "path"),
    [
        ("serve.py", "/update"), ("servers/threads.py", "/update"),
        ("examples/echo.py", "/echo"), ("examples/threads.py", "/echo"),
    ],
)  # fmt: skip
def test_a_pong_that_came_while_the_server_stood_still_counts(
    start: Start, program: str, path: str
) -> None:
    server = start(program, "--ping-interval", "1")
    with RawSocket(server.port, path) as browser:
        browser.read_until((PING, b""))
        with standing_still(server, 2.5):
            browser.send(frame(PONG))
        browser.ping()


#: What is sent before the server stands still, and what meanwhile.
HALVES = {
    "a request": (b"", GET),
    "a line": (GET[:20], GET[20:]),
    "headers": (GET[:-2], GET[-2:]),
    "a body": (POST + b"Content-Length: 8\r\n\r\n{", b'"n": 1}'),
    "a chunk": (POST + b"Transfer-Encoding: chunked\r\n\r\n8\r\n{", b'"n": 1}\r\n0\r\n\r\n'),
}


def client_hello() -> bytes:
    """Return the first bytes of a TLS handshake."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        UNVERIFIED.wrap_bio(incoming, outgoing).do_handshake()
    return outgoing.read()


@pytest.mark.parametrize("name", ["gunicorn", "serve.py tls", "servers/threads.py tls"])
def test_bytes_that_came_while_the_server_stood_still_count(
    name: str, certificate_folder: Path
) -> None:
    """Past the deadlines for headers, bodies, idle connections and the TLS handshake."""
    environment = with_limits(BODY_TIMEOUT=5, IDLE_TIMEOUT=5)
    options = ("--source", "http", "--header-timeout", "5")
    server = start_server(name, certificate_folder, *options, environment=environment)
    with ExitStack() as stack:

        def opened(kind: str) -> socket.socket:
            if kind != "TLS":
                return stack.enter_context(server.open_socket())
            address = "127.0.0.1", server.port
            return stack.enter_context(socket.create_connection(address, HANG_TIMEOUT))

        halves = dict(HALVES)
        if server.tls:
            halves["TLS"] = b"", client_hello()
        if "threads" not in name:  # which keep none alive
            halves["idle"] = GET, GET
        clients = {kind: opened(kind) for kind in halves}
        for kind, client in clients.items():
            client.sendall(halves[kind][0])
        if "idle" in clients:
            assert clients["idle"].recv(65536).startswith(b"HTTP/1.1 200")
        assert server.http.get("/data").status == 200  # and so all have been accepted
        with standing_still(server, 6):
            for kind, client in clients.items():
                client.sendall(halves[kind][1])
        received = {kind: client.recv(65536)[:11] for kind, client in clients.items()}
    assert received.pop("TLS", b"\x16")[:1] == b"\x16"
    assert received == dict.fromkeys(received, b"HTTP/1.1 20")
    assert server.stop() == 0
    assert "Traceback" not in server.log


# Proxies and subprotocols.


@pytest.mark.parametrize(
    ("address", "trusted", "applied"),
    [
        ("", ("unix",), True), ("", ("10.0.0.0/8",), False), ("10.1.2.3", ("10.0.0.0/8",), True),
        ("10.1.2.3", ("unix",), False), ("192.0.2.1", ("unix", "10.0.0.0/8"), False),
    ],
)  # fmt: skip
def test_what_a_trusted_proxy_forwards_is_applied(
    address: str, trusted: tuple[str, ...], applied: bool
) -> None:
    environ = {
        "REMOTE_ADDR": address, "HTTP_HOST": "inner", "SCRIPT_NAME": "", "PATH_INFO": "/data",
        "HTTP_X_FORWARDED_FOR": "203.0.113.9", "HTTP_X_FORWARDED_PREFIX": "/push",
    }  # fmt: skip
    apply_forwarded(environ, tuple(map(network, trusted)))
    assert (environ["REMOTE_ADDR"] == "203.0.113.9") is applied
    assert (environ["SCRIPT_NAME"] == "/push") is applied


APP = """
from gevent import monkey; monkey.patch_all()
from flask import Flask, request
from pushlab.hosting import gevent_server
app = Flask(__name__)
@app.route("/", websocket=True)
def talk():
    socket = request.environ["wsgi.websocket"]
    socket.accept("chat.2" if "chat.2" in socket.subprotocols else None)
    socket.send(str(socket.subprotocol))
    return ""
gevent_server.run(app, port=0)
"""


def test_a_route_can_choose_a_subprotocol(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    server = Server(str(tmp_path / "app.py"), "--far", "none")
    one, two = Subprotocol("chat.1"), Subprotocol("chat.2")
    for offered, chosen in (([one, two], two), ([one], None), (None, None)):
        with open_websocket(f"ws://127.0.0.1:{server.port}/", subprotocols=offered) as browser:
            assert browser.recv(HANG_TIMEOUT) == str(chosen)
            assert browser.subprotocol == chosen
    assert server.stop() == 0
