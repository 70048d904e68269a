"""How much of the server one may have: connections, time and bytes for a request, and by what name.

The rows of each table are requests, told apart from one another only by what is tested.
"""

import json
import re
import resource
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from typing import NamedTuple

import pytest
from websockets.sync.client import connect

from tests.clients import PING, PONG, UPGRADE, RawSocket, frame, handshake
from tests.conftest import Server, Start, eventually, starting
from tests.test_programs import is_one_clear_line, refusal

HOST = "127.0.0.1"


class Response(NamedTuple):
    """What came back before the server closed, or before the test had waited long enough."""

    status: int | None
    head: bytes
    body: bytes

    @property
    def error(self) -> str:
        assert b"content-type: application/json" in self.head.lower()
        return str(json.loads(self.body)["error"])


def read(sock: socket.socket) -> Response:
    """Read to the end of the connection, which must come."""
    data = b""
    with suppress(ConnectionResetError):
        while piece := sock.recv(65536):
            data += piece
    if not data:
        return Response(None, b"", b"")
    head, _, body = data.partition(b"\r\n\r\n")
    return Response(int(head.split()[1]), head, body)


def ask(server: Server, request: bytes, *, host: str = HOST) -> Response:
    with socket.create_connection((host, server.port), 10) as sock:
        with suppress(ConnectionError):
            sock.sendall(request)
        return read(sock)


def get(host: str | None, *headers: str, path: str = "/data") -> bytes:
    lines = [f"GET {path} HTTP/1.1", *headers, "Connection: close", "", ""]
    if host is not None:
        lines.insert(1, f"Host: {host}")
    return "\r\n".join(lines).encode("latin-1")


def assert_alive(push: RawSocket) -> None:
    push.send(frame(PING, b"still there"))
    while (got := push.frame()) != (PONG, b"still there"):
        assert got is not None


# How many.


def open_connections(
    server: Server, stack: ExitStack, count: int
) -> list[RawSocket | socket.socket]:
    """Connections of every kind: push sockets, half a request, and silence."""
    opened: list[RawSocket | socket.socket] = []
    for number in range(count):
        if number % 3 == 0:
            opened.append(stack.enter_context(RawSocket(server.port)))
        else:
            sock = stack.enter_context(socket.create_connection((HOST, server.port), 10))
            sock.sendall(b"GET /data HTTP/1.1\r\nHo" if number % 3 == 1 else b"")
            opened.append(sock)
    return opened


@pytest.mark.parametrize(
    "request_", [get(HOST), handshake("/update", HOST, {})], ids=["HTTP", "WebSocket"]
)
def test_one_too_many_is_told_so(start: Start, request_: bytes) -> None:
    server = start("serve.py", "--max-clients", "9")
    with ExitStack() as stack:
        opened = open_connections(server, stack, 9)
        for _ in range(20):
            answer = ask(server, request_)
            assert answer.status == 503
            assert answer.error
            assert b"connection: close" in answer.head.lower()
            length = re.search(rb"(?i)content-length: (\d+)", answer.head)
            assert length
            assert int(length[1]) == len(answer.body)
        for leaving in opened[:3]:  # a push socket, half a request, silence
            leaving.close()
            eventually(lambda: ask(server, get(HOST)).status == 200, timeout=3)
            stack.enter_context(with_room := RawSocket(server.port))
            assert with_room.status == 101
            eventually(lambda: ask(server, get(HOST)).status == 503, timeout=3)


def test_one_too_many_may_be_silent(start: Start) -> None:
    """It is not waited for longer than a moment, and keeps nobody else from being answered."""
    server = start("serve.py", "--max-clients", "1")
    with RawSocket(server.port) as push, ExitStack() as stack:
        silent = [stack.enter_context(socket.create_connection((HOST, server.port), 10))
                  for _ in range(50)]  # fmt: skip
        assert ask(server, get(HOST)).status == 503
        assert_alive(push)
        began = time.monotonic()
        for each in silent:
            assert read(each).status in (None, 503)
        assert time.monotonic() - began < 5


def test_a_full_server_still_serves_those_it_has(start: Start, program: str) -> None:
    server = start(program, "--source", "http", "--max-clients", "3")
    with RawSocket(server.port) as push, \
            socket.create_connection((HOST, server.port), 10) as keep_alive, \
            socket.create_connection((HOST, server.port), 10):  # fmt: skip
        keep_alive.sendall(b"GET /data HTTP/1.1\r\nHost: x\r\n\r\n".replace(b"x", HOST.encode()))
        assert keep_alive.recv(65536).startswith(b"HTTP/1.1 200")
        assert "cursor" in push.json()
        assert ask(server, get(HOST)).status == 503
        body = b'{"n": 1}'
        keep_alive.sendall(
            b"POST /data HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 8\r\n\r\n" + body
        )
        assert keep_alive.recv(65536).startswith(b"HTTP/1.1 201")
        assert "cursor" in push.json()
        assert_alive(push)


def test_a_full_server_says_goodbye() -> None:
    server = Server("serve.py", "--max-clients", "2")
    with RawSocket(server.port), RawSocket(server.port):
        assert ask(server, get(HOST)).status == 503
        assert server.stop() == 0
    assert server.log == ""


def test_many_too_many(start: Start) -> None:
    """A thousand that are turned away leave nothing behind."""
    server = start("serve.py", "--source", "http", "--max-clients", "1")
    with RawSocket(server.port) as push:
        push.json()
        for _ in range(100):
            assert ask(server, get(HOST)).status == 503
        before = server.memory
        for _ in range(1000):
            assert ask(server, get(HOST)).status == 503
        assert server.memory - before < 2_000_000
        assert_alive(push)


def test_by_default_there_is_room_up_to_the_limit_on_open_files() -> None:
    """Descriptors run out for connections, never for anything else: the server stays well."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 1000)), hard))
    server = Server("serve.py", "--source", "http", before="ulimit -n 500")
    with ExitStack() as stack:
        first = stack.enter_context(RawSocket(server.port))
        first.json()
        opened = 1
        for _ in range(600):
            sock = stack.enter_context(socket.create_connection((HOST, server.port), 10))
            with suppress(ConnectionError):
                sock.sendall(handshake("/update", HOST, {}))
                answer = sock.recv(12)
                assert answer in (b"HTTP/1.1 101", b"HTTP/1.1 503")
                opened += answer == b"HTTP/1.1 101"
        assert 250 <= opened < 500
        assert_alive(first)
    eventually(lambda: ask(server, get(HOST)).status == 200)
    assert server.stop() == 0
    assert server.log == ""


def assert_bad(option: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = refusal(["--port=0", f"{option}={value}"], capsys)
    assert is_one_clear_line(said), said
    assert option in said
    assert "unrecognized" not in said


@pytest.mark.parametrize("option", ["--max-clients", "--head-timeout"])
@pytest.mark.parametrize("value", ["x", "0", "-1", "", "nan", "1e99"])
def test_a_bad_limit_is_one_line(
    option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert_bad(option, value, capsys)


# How long.


@pytest.fixture(scope="module")
def impatient() -> Iterator[Server]:
    with starting() as start:
        yield start("serve.py", "--source", "http", "--head-timeout", "1")


def closed_after(sock: socket.socket) -> float:
    """Return the seconds until the server closes; at most 408 may be said before."""
    began = time.monotonic()
    assert read(sock).status in (None, 408)
    return time.monotonic() - began


HALVES = {
    "a letter": b"G",
    "half a line": b"GET /data",
    "a line": b"GET /data HTTP/1.1\r\n",
    "a header": b"GET /data HTTP/1.1\r\nHost: 127.0.0.1\r\n",
    "a handshake": handshake("/update", HOST, {})[:-2],
    "a POST": b"POST /data HTTP/1.1\r\nContent-Length: 2\r\n",
    "nonsense": b"\xff",
}


def test_half_a_head_has_its_time(impatient: Server) -> None:
    with ThreadPoolExecutor(len(HALVES)) as pool:  # all at once, for the time's sake

        def time_of(head: bytes) -> float:
            with socket.create_connection((HOST, impatient.port), 10) as sock:
                sock.sendall(head)
                return closed_after(sock)

        times = dict(zip(HALVES, pool.map(time_of, HALVES.values()), strict=True))
    assert all(0.5 < seconds < 3 for seconds in times.values()), times


def test_byte_by_byte_is_no_way_round(impatient: Server) -> None:
    with socket.create_connection((HOST, impatient.port), 10) as sock:
        began = time.monotonic()
        with suppress(ConnectionError):
            for byte in handshake("/update", HOST, {}) + b"x" * 1000:
                sock.send(bytes([byte]))
                time.sleep(0.02)
                if time.monotonic() - began > 3:
                    pytest.fail("it may go on for ever")
        assert time.monotonic() - began > 0.5


def test_a_thousand_halves_are_gone_in_time(impatient: Server) -> None:
    before = impatient.memory
    with ExitStack() as stack:
        halves = [stack.enter_context(socket.create_connection((HOST, impatient.port), 10))
                  for _ in range(1000)]  # fmt: skip
        for half in halves:
            half.sendall(b"GET /data HTTP/1.1\r\nHo")
        assert ask(impatient, get(HOST)).status == 200
        for half in halves:
            assert closed_after(half) < 4
    assert impatient.memory - before < 50_000_000


def test_the_next_request_has_the_same_time(impatient: Server) -> None:
    """Between two requests one may be idle for longer; in the middle of one, not."""
    with socket.create_connection((HOST, impatient.port), 10) as sock:
        request = b"GET /data HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
        for _ in range(2):
            sock.sendall(request)
            assert sock.recv(65536).startswith(b"HTTP/1.1 200")
            time.sleep(1.2)
        sock.sendall(request[:-2])
        assert 0.5 < closed_after(sock) < 3


def test_what_takes_long_for_good_reason_is_left_alone(impatient: Server) -> None:
    cursor = impatient.http.get("/data").json["cursor"]
    with RawSocket(impatient.port) as push, \
            socket.create_connection((HOST, impatient.port), 10) as body, \
            socket.create_connection((HOST, impatient.port), 10) as poll:  # fmt: skip
        push.json()
        body.sendall(b"POST /data HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
                     b"Content-Length: 8\r\n\r\n{")  # fmt: skip
        poll.sendall(get(HOST, path=f"/update?after={cursor}&timeout=2"))
        assert read(poll).status == 204
        assert_alive(push)
        body.sendall(b'"n": 1}')
        assert read(body).status == 201


# How much.


@pytest.mark.parametrize(
    ("request_", "statuses"),
    [
        (get(HOST, path="/data?" + "x" * 4000), {200}),
        (get(HOST, "Cookie: " + "x" * 4000), {200}),
        (get(HOST, *[f"X-{number}: x" for number in range(50)]), {200}),
        (get(HOST, path="/data?" + "x" * 9000), {414}),
        (get(HOST, path="/data?" + "x" * 100_000), {414}),
        (get(HOST, "Cookie: " + "x" * 70_000), {400, 431}),
        (get(HOST, "X" * 70_000 + ": x"), {400, 431}),
        (get(HOST, *[f"X-{number}: x" for number in range(1000)]), {400, 431}),
        (get(HOST, *[f"X-{number}: {'x' * 5000}" for number in range(90)]), {400, 431}),
    ],
    ids=["a long path", "a long header", "50 headers", "a path of 9 kB", "a path of 100 kB",
         "a value of 70 kB", "a name of 70 kB", "1000 headers", "450 kB of headers"],
)  # fmt: skip
def test_a_head_has_its_size(server: Server, request_: bytes, statuses: set[int]) -> None:
    logged = len(server.log)
    assert ask(server, request_).status in statuses
    assert "Traceback" not in server.log[logged:]


def test_a_head_without_end_is_not_kept(server: Server) -> None:
    server.http.get("/data")
    before = server.memory
    with socket.create_connection((HOST, server.port), 10) as sock, suppress(ConnectionError):
        sock.sendall(b"GET /data HTTP/1.1\r\n")
        for number in range(10_000):
            sock.sendall(b"X-%d: " % number + b"x" * 1000 + b"\r\n")
        pytest.fail("ten megabytes of headers were taken")
    assert server.memory - before < 2_000_000


# By what name.

LOOPBACK = [
    "localhost",
    "localhost:{port}",
    "LocalHost",
    "a.localhost",
    "a.b.localhost:{port}",
    "127.0.0.1",
    "127.0.0.1:{port}",
    "127.0.0.1:1",
    "127.1.2.3",
    "[::1]",
    "[::1]:{port}",
]
ALLOWED = ["allowed.example", "ALLOWED.example:{port}", "other.example:80"]
ELSEWHERE = [
    "evil.example",
    "evil.example:{port}",
    "localhost.evil.example",
    "127.0.0.1.evil.example",
    "evillocalhost",
    "128.0.0.1",
    "10.0.0.1",
    "0.0.0.0",
    "127.0.0.256",
    "2130706433",
    "0x7f.1",
    "allowed.example.evil.example",
    "x.allowed.example",
    "[::2]",
    "[::ffff:10.0.0.1]:{port}",
]
MALFORMED = ["127.0.0.1@evil.example", "[::1", "localhost:x", "localhost/", "a b", "\xe4 "]


@pytest.fixture(scope="module")
def named() -> Iterator[Server]:
    with starting() as start:
        yield start("serve.py", "--source", "http",
                    "--allow-host", "Allowed.example", "--allow-host", "other.example")  # fmt: skip


@pytest.mark.parametrize("host", [*LOOPBACK, *ALLOWED])
def test_names_of_this_machine(named: Server, host: str) -> None:
    host = host.format(port=named.port)
    assert ask(named, get(host)).status == 200
    with RawSocket(named.port, changes={"Host": host}) as push:
        assert push.status == 101


@pytest.mark.parametrize("host", [*ELSEWHERE, *MALFORMED])
def test_other_names_are_misdirected(named: Server, host: str) -> None:
    """A page from elsewhere whose name suddenly means 127.0.0.1 (DNS rebinding) gets nothing."""
    statuses = (400, 421) if host in MALFORMED else (421,)
    host = host.format(port=named.port)
    for path in ("/", "/data", "/update", "/nowhere", "/healthz", "/static/style.css"):
        answer = ask(named, get(host, path=path))
        assert answer.status in statuses, path
        assert answer.status == 400 or answer.error
    for origin in (None, f"http://{host}"):
        with RawSocket(named.port, changes={"Host": host, "Origin": origin}) as push:
            assert push.status in statuses
            assert push.status == 400 or b'"error"' in push.body


@pytest.mark.parametrize("method", ["POST", "PUT", "HEAD", "OPTIONS"])
def test_other_names_may_do_nothing_else(named: Server, method: str) -> None:
    before = named.http.get("/data").json["cursor"]
    body = None if method == "HEAD" else b"{}"
    answer = named.http.request(method, "/data", body, headers={"Host": "evil.example"})
    assert answer.status == 421
    assert named.http.get("/data").json["cursor"] == before


def test_a_server_for_others_has_any_name(start: Start) -> None:
    server = start("serve.py", "--host", "0.0.0.0")
    for host in ("example.org", "10.0.0.1", "localhost"):
        assert ask(server, get(host)).status == 200


@pytest.mark.parametrize("listening", ["localhost", "127.0.0.2", "::1"])
def test_whatever_loopback_it_listens_on(start: Start, listening: str) -> None:
    server = start("serve.py", "--host", listening)
    for host, status in [("localhost", 200), ("127.0.0.2", 200), ("evil.example", 421)]:
        assert ask(server, get(host), host=listening).status == status


@pytest.mark.parametrize("name", ["", "http://a.example", "a.example/", "a b", "a:80", "*"])
def test_a_bad_name_is_one_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert_bad("--allow-host", name, capsys)


# What for.


@pytest.mark.parametrize(
    "method", ["POST", "PUT", "HEAD", "OPTIONS", "DELETE", "PATCH", "get", "CONNECT", "TRACE"]
)
@pytest.mark.parametrize("path", ["/update", "/data"])
def test_only_get_opens_a_socket(server: Server, path: str, method: str) -> None:
    logged = len(server.log)
    request = handshake(path, HOST, {"method": method, "Connection": "Upgrade, close"})
    answer = ask(server, request)
    assert answer.status == 400
    assert method in ("HEAD", "CONNECT") or answer.error
    assert "Traceback" not in server.log[logged:]


@pytest.mark.parametrize("connection", [None, "", "close", "keep-alive", "upgrades", "no upgrade"])
@pytest.mark.parametrize("path", ["/update", "/data"])
def test_connection_must_say_so(server: Server, path: str, connection: str | None) -> None:
    with RawSocket(server.port, path, changes={"Connection": connection}) as push:
        assert push.status == 400
        assert b'"error"' in push.body


def test_an_upgrade_is_http_when_it_is_to_something_else(server: Server) -> None:
    for name in ("h2c", "websockets", "TLS/1.0, HTTP/1.1", ""):
        headers = {**UPGRADE, "Upgrade": name}
        assert server.http.post("/data", {}, headers=headers).status == 201


def test_clients_that_keep_to_it_notice_nothing(start: Start) -> None:
    server = start("serve.py", "--max-clients", "10", "--head-timeout", "1")
    for _ in range(30):
        with connect(f"{server.ws}/update") as push:
            assert push.recv(5)
        assert server.http.get("/").status == 200
