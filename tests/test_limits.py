"""Limits of requests and connections: number, time, size, host, purpose."""

import json
import re
import resource
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from pushlab import limits
from tests.clients import HANG_TIMEOUT, UPGRADE, RawSocket, handshake, open_websocket, read_all
from tests.conftest import Server, Start, eventually, starting
from tests.hosting import start_server
from tests.test_programs import is_one_clear_line, rejection

HOST = "127.0.0.1"


class Response(NamedTuple):
    """All that is received; status None if it is nothing."""

    status: int | None
    head: bytes
    body: bytes

    @property
    def error(self) -> str:
        assert b"content-type: application/json" in self.head.lower()
        return str(json.loads(self.body)["error"])


def read(sock: socket.socket) -> Response:
    """Read to the end of the connection, which must come."""
    data = read_all(sock)
    if not data:
        return Response(None, b"", b"")
    head, _, body = data.partition(b"\r\n\r\n")
    return Response(int(head.split()[1]), head, body)


def connection(server: Server, host: str = HOST) -> socket.socket:
    return server.wrap(socket.create_connection((host, server.port), HANG_TIMEOUT))


def send(server: Server, request: bytes, *, host: str = HOST) -> Response:
    with connection(server, host) as sock:
        with suppress(ConnectionError):
            sock.sendall(request)
        return read(sock)


def get(host: str | None, *headers: str, path: str = "/data") -> bytes:
    lines = [f"GET {path} HTTP/1.1", *headers, "Connection: close", "", ""]
    if host is not None:
        lines.insert(1, f"Host: {host}")
    return "\r\n".join(lines).encode("latin-1")


# Number.


def open_connections(
    server: Server, stack: ExitStack, count: int
) -> list[RawSocket | socket.socket]:
    """Open push sockets, half requests, and silent connections."""
    opened: list[RawSocket | socket.socket] = []
    for number in range(count):
        if number % 3 == 0:
            opened.append(stack.enter_context(server.websocket()))
        else:
            sock = stack.enter_context(connection(server))
            sock.sendall(b"GET /data HTTP/1.1\r\nHo" if number % 3 == 1 else b"")
            opened.append(sock)
    return opened


def accepted(server: Server) -> RawSocket | None:
    """Return a new push socket, None if it is rejected.

    Threads count connections a moment later.
    """
    client = server.websocket()
    if client.status == 101:
        return client
    client.close()
    return None


@pytest.mark.parametrize(
    "name", ["serve.py", "serve.py tls", "servers/threads.py", "servers/threads.py tls"]
)
def test_a_full_server_rejects_with_503(name: str, certificate_folder: Path) -> None:
    options = ("--max-clients", "9", "--head-timeout", "600")
    server = start_server(name, certificate_folder, *options)
    with ExitStack() as stack:
        opened = open_connections(server, stack, 9)
        for request in [get(HOST), handshake("/update")] * 10:
            response = send(server, request)
            assert response.status == 503
            assert response.error
            assert b"connection: close" in response.head.lower()
            length = re.search(rb"(?i)content-length: (\d+)", response.head)
            assert length
            assert int(length[1]) == len(response.body)
        for each in opened[:3]:  # a push socket, half a request, silence
            each.close()
            eventually(lambda: send(server, get(HOST)).status == 200)
            stack.enter_context(eventually(lambda: accepted(server)))
            eventually(lambda: send(server, get(HOST)).status == 503)
    assert server.stop() == 0
    assert "Traceback" not in server.log, server.log


def test_rejected_clients_that_are_silent_delay_no_other(start: Start) -> None:
    server = start("serve.py", "--max-clients", "1")
    with RawSocket(server.port) as push, ExitStack() as stack:
        silent = [stack.enter_context(connection(server)) for _ in range(50)]
        assert send(server, get(HOST)).status == 503
        push.ping()
        for each in silent:
            assert read(each).status in (None, 503)


def test_a_full_server_still_serves_its_connections(start: Start) -> None:
    server = start("serve.py", "--source", "http", "--max-clients", "3")
    with RawSocket(server.port) as push, connection(server) as keep_alive, connection(server):
        keep_alive.sendall(b"GET /data HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert keep_alive.recv(65536).startswith(b"HTTP/1.1 200")
        assert "cursor" in push.json()
        assert send(server, get(HOST)).status == 503
        headers = b"Host: 127.0.0.1\r\nContent-Length: 8"
        keep_alive.sendall(b"POST /data HTTP/1.1\r\n" + headers + b'\r\n\r\n{"n": 1}')
        assert keep_alive.recv(65536).startswith(b"HTTP/1.1 201")
        assert "cursor" in push.json()
        push.ping()


def test_a_full_server_stops_cleanly() -> None:
    server = Server("serve.py", "--max-clients", "2")
    with RawSocket(server.port), RawSocket(server.port):
        assert send(server, get(HOST)).status == 503
        assert server.stop() == 0
    assert server.log == ""


def test_rejected_clients_leave_no_memory(start: Start) -> None:
    server = start("serve.py", "--source", "http", "--max-clients", "1")
    with RawSocket(server.port) as push:
        push.json()
        for _ in range(100):
            assert send(server, get(HOST)).status == 503
        before = server.memory
        for _ in range(1000):
            assert send(server, get(HOST)).status == 503
        assert server.memory - before < 2_000_000
        push.ping()


def test_by_default_the_limit_on_open_files_limits_connections() -> None:
    """The server keeps some descriptors for itself."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 1000)), hard))
    server = Server("serve.py", "--source", "http", before="ulimit -n 500")
    with ExitStack() as stack:
        first = stack.enter_context(RawSocket(server.port))
        first.json()
        opened = 1
        for _ in range(600):
            sock = stack.enter_context(connection(server))
            with suppress(ConnectionError):
                sock.sendall(handshake("/update"))
                status = sock.recv(12)
                assert status in (b"HTTP/1.1 101", b"HTTP/1.1 503")
                opened += status == b"HTTP/1.1 101"
        assert 250 <= opened < 500
        first.ping()
    eventually(lambda: send(server, get(HOST)).status == 200)
    assert server.stop() == 0
    assert server.log == ""


def assert_bad(option: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    error = rejection(["--port=0", f"{option}={value}"], capsys)
    assert is_one_clear_line(error), error
    assert option in error
    assert "unrecognized" not in error


@pytest.mark.parametrize("option", ["--max-clients", "--head-timeout"])
@pytest.mark.parametrize("value", ["x", "0", "-1", "", "nan", "1e99"])
def test_a_bad_limit_is_one_line(
    option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert_bad(option, value, capsys)


# Time.


@pytest.fixture(scope="module")
def hurried() -> Iterator[Server]:
    with starting() as start:
        yield start("serve.py", "--source", "http", "--head-timeout", "1")


@contextmanager
def at_least_the_timeout() -> Iterator[None]:
    """Fail if this takes less than what `hurried` waits for headers."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began > 0.95


def check_closed(sock: socket.socket) -> None:
    """Fail unless the server closes, perhaps with 408."""
    assert read(sock).status in (None, 408)


HALVES = {
    "a letter": b"G",
    "half a line": b"GET /data",
    "a line": b"GET /data HTTP/1.1\r\n",
    "a header": b"GET /data HTTP/1.1\r\nHost: 127.0.0.1\r\n",
    "a handshake": handshake("/update")[:-2],
    "a POST": b"POST /data HTTP/1.1\r\nContent-Length: 2\r\n",
    "nonsense": b"\xff",
}


def test_incomplete_headers_time_out(hurried: Server) -> None:
    with ThreadPoolExecutor(len(HALVES)) as pool:  # all at once, as each takes a second

        def check(head: bytes) -> None:
            with at_least_the_timeout(), connection(hurried) as sock:
                sock.sendall(head)
                check_closed(sock)

        assert len(list(pool.map(check, HALVES.values()))) == len(HALVES)


def test_headers_sent_byte_by_byte_time_out(hurried: Server) -> None:
    def send_slowly(sock: socket.socket) -> None:
        for byte in get(HOST, "X-Long: " + "x" * 1000):
            sock.send(bytes([byte]))
            time.sleep(0.02)

    with at_least_the_timeout(), connection(hurried) as sock, pytest.raises(ConnectionError):
        send_slowly(sock)


def test_a_thousand_incomplete_headers_time_out(hurried: Server) -> None:
    before = hurried.memory
    with ExitStack() as stack:
        halves = [stack.enter_context(connection(hurried)) for _ in range(1000)]
        for half in halves:
            half.sendall(b"GET /data HTTP/1.1\r\nHo")
        assert send(hurried, get(HOST)).status == 200
        for half in halves:
            check_closed(half)
    assert hurried.memory - before < 50_000_000


def test_the_next_request_has_the_same_timeout(hurried: Server) -> None:
    """A connection may be idle for longer between two requests."""
    with connection(hurried) as sock:
        request = b"GET /data HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
        for _ in range(2):
            sock.sendall(request)
            assert sock.recv(65536).startswith(b"HTTP/1.1 200")
            time.sleep(1.2)
        with at_least_the_timeout():
            sock.sendall(request[:-2])
            check_closed(sock)


def test_bodies_polls_and_push_sockets_have_longer(hurried: Server) -> None:
    cursor = hurried.cursor
    with RawSocket(hurried.port) as push, connection(hurried) as body, connection(hurried) as poll:
        push.json()
        body.sendall(b"POST /data HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
                     b"Content-Length: 8\r\n\r\n{")  # fmt: skip
        poll.sendall(get(HOST, path=f"/update?after={cursor}&timeout=2"))
        assert read(poll).status == 204
        push.ping()
        body.sendall(b'"n": 1}')
        assert read(body).status == 201


# Size.

#: So many lines of headers, and those of a handshake.
MANY = [f"X-{number}: x" for number in range(limits.MAX_HEADER_LINES)]
USUAL = handshake("/update").count(b"\r\n") - 2


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
        (get(HOST, *MANY[2:]), {200}),
        (get(HOST, *MANY[1:]), {431}),
        (handshake("/update", changes=dict.fromkeys(MANY[USUAL - 1 :], "x")), {431}),
    ],
    ids=["a long path", "a long header", "50 headers", "a path of 9 kB", "a path of 100 kB",
         "a value of 70 kB", "a name of 70 kB", "1000 headers", "450 kB of headers",
         "100 headers", "101 headers", "101 headers of a handshake"],
)  # fmt: skip
def test_request_lines_and_headers_have_a_size_limit(
    server: Server, request_: bytes, statuses: set[int]
) -> None:
    logged = len(server.log)
    assert send(server, request_).status in statuses
    assert "Traceback" not in server.log[logged:]


def test_headers_without_end_are_not_kept(server: Server) -> None:
    server.http.get("/data")
    before = server.memory
    with connection(server) as sock, suppress(ConnectionError):
        sock.sendall(b"GET /data HTTP/1.1\r\n")
        for number in range(10_000):
            sock.sendall(b"X-%d: " % number + b"x" * 1000 + b"\r\n")
        pytest.fail("ten megabytes of headers were accepted")
    assert server.memory - before < 2_000_000


# Host names.

LOOPBACK = ["localhost", "localhost:{port}", "LocalHost", "a.localhost", "a.b.localhost:{port}",
            "127.0.0.1", "127.0.0.1:{port}", "127.0.0.1:1", "127.1.2.3", "[::1]",
            "[::1]:{port}"]  # fmt: skip
ALLOWED = ["allowed.example", "ALLOWED.example:{port}", "other.example:80"]
ELSEWHERE = ["evil.example", "evil.example:{port}", "localhost.evil.example",
             "127.0.0.1.evil.example", "evillocalhost", "128.0.0.1", "10.0.0.1", "0.0.0.0",
             "127.0.0.256", "2130706433", "0x7f.1", "allowed.example.evil.example",
             "x.allowed.example", "[::2]", "[::ffff:10.0.0.1]:{port}"]  # fmt: skip
MALFORMED = ["127.0.0.1@evil.example", "[::1", "localhost:x", "localhost/", "a b", "\xe4 "]


@pytest.fixture(scope="module")
def named() -> Iterator[Server]:
    with starting() as start:
        yield start("serve.py", "--source", "http",
                    "--allow-host", "Allowed.example", "--allow-host", "other.example")  # fmt: skip


@pytest.mark.parametrize("host", [*LOOPBACK, *ALLOWED])
def test_names_of_this_machine_are_accepted(named: Server, host: str) -> None:
    host = host.format(port=named.port)
    assert send(named, get(host)).status == 200
    with RawSocket(named.port, changes={"Host": host}) as push:
        assert push.status == 101


@pytest.mark.parametrize("host", [*ELSEWHERE, *MALFORMED])
def test_other_names_are_misdirected(named: Server, host: str) -> None:
    """Against DNS rebinding: a page's host name that comes to mean 127.0.0.1."""
    statuses = (400, 421) if host in MALFORMED else (421,)
    host = host.format(port=named.port)
    for path in ("/", "/data", "/update", "/nowhere", "/healthz", "/static/style.css"):
        response = send(named, get(host, path=path))
        assert response.status in statuses, path
        assert response.status == 400 or response.error
    for origin in (None, f"http://{host}"):
        with RawSocket(named.port, changes={"Host": host, "Origin": origin}) as push:
            assert push.status in statuses
            assert push.status == 400 or b'"error"' in push.body


@pytest.mark.parametrize("method", ["POST", "PUT", "HEAD", "OPTIONS"])
def test_other_names_are_misdirected_whatever_the_method(named: Server, method: str) -> None:
    before = named.cursor
    body = None if method == "HEAD" else b"{}"
    response = named.http.request(method, "/data", body, headers={"Host": "evil.example"})
    assert response.status == 421
    assert named.cursor == before


def test_a_server_on_every_interface_accepts_any_name(start: Start) -> None:
    server = start("serve.py", "--host", "0.0.0.0")
    for host in ("example.org", "10.0.0.1", "localhost"):
        assert send(server, get(host)).status == 200


@pytest.mark.parametrize("listening", ["localhost", "127.0.0.2", "::1"])
def test_any_loopback_address_accepts_loopback_names(start: Start, listening: str) -> None:
    server = start("serve.py", "--host", listening)
    for host, status in [("localhost", 200), ("127.0.0.2", 200), ("evil.example", 421)]:
        assert send(server, get(host), host=listening).status == status


@pytest.mark.parametrize("name", ["", "http://a.example", "a.example/", "a b", "a:80", "*"])
def test_a_bad_name_is_one_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert_bad("--allow-host", name, capsys)


# Purpose.


@pytest.mark.parametrize(
    "method", ["POST", "PUT", "HEAD", "OPTIONS", "DELETE", "PATCH", "get", "CONNECT", "TRACE"]
)
@pytest.mark.parametrize("path", ["/update", "/data"])
def test_only_get_opens_a_websocket(server: Server, path: str, method: str) -> None:
    logged = len(server.log)
    request = handshake(path, HOST, {"method": method, "Connection": "Upgrade, close"})
    response = send(server, request)
    # Methods are case-sensitive (RFC 9110 section 9.1).
    assert response.status == (501 if method == "get" else 400)
    assert method in ("HEAD", "CONNECT") or response.error
    assert "Traceback" not in server.log[logged:]


def test_an_upgrade_to_another_protocol_is_ignored(server: Server) -> None:
    for name in ("h2c", "websockets", "TLS/1.0, HTTP/1.1", ""):
        headers = {**UPGRADE, "Upgrade": name}
        assert server.http.get("/data", headers=headers).status == 200
        assert server.http.post("/data", {}, headers=headers).status == 201


def test_clients_within_the_limits_are_served(start: Start) -> None:
    server = start("serve.py", "--max-clients", "10", "--head-timeout", "1")
    for _ in range(30):
        with open_websocket(f"{server.ws}/update") as push:
            assert push.recv(HANG_TIMEOUT)
        assert server.http.get("/").status == 200
