"""WebSockets of hub and routes: acceptance, closing, silence, shutdown.

test_conformance.py has RFC 6455 as tables.
"""

import itertools
import struct
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from socket import SO_LINGER, SOL_SOCKET

import pytest

from tests.clients import (
    CLOSE,
    HANG_TIMEOUT,
    PING,
    PONG,
    RESET,
    TEXT,
    RawSocket,
    close_frame,
    frame,
    handshake,
    open_websocket,
    read_all,
)
from tests.conftest import Server, Start, eventually
from tests.hosting import start_server, with_limits

BOTH = ("/echo", "/push")


#: tests/routes.py on each of our servers.
PLAIN = ("tests/conversing.py", "tests/threaded.py")


@pytest.fixture(scope="module", params=PLAIN)
def failing(request: pytest.FixtureRequest, certificate_folder: Path) -> Iterator[Server]:
    """A server for tests that make it log errors."""
    server = start_server(request.param, certificate_folder)
    yield server
    assert server.stop() == 0


QUIET = (*PLAIN, "tests/threaded.py tls")


@contextmanager
def without_log(name: str, folder: Path, **limits: float) -> Iterator[Server]:
    """Start a server on which nothing may be logged."""
    server = start_server(name, folder, environment=with_limits(**limits))
    yield server
    assert server.stop() == 0
    assert server.log == ""


@pytest.fixture(scope="module", params=QUIET)
def quiet(request: pytest.FixtureRequest, certificate_folder: Path) -> Iterator[Server]:
    """A server on which nothing may be logged, and no client is pinged."""
    with without_log(request.param, certificate_folder, PING_INTERVAL=3600) as server:
        yield server


@pytest.fixture(scope="module", params=QUIET)
def pinging(request: pytest.FixtureRequest, certificate_folder: Path) -> Iterator[Server]:
    """A server that pings its clients every second, and waits two for the pong."""
    often = {"PING_INTERVAL": 1, "PONG_TIMEOUT": 2}
    with without_log(request.param, certificate_folder, **often) as server:
        yield server


@pytest.fixture
def gevent(start: Start) -> Server:
    return start("tests/conversing.py")


def subscribers(server: Server) -> int:
    return int(server.http.get("/subscribers").body)


# Acceptance.


def test_pages_of_allowed_origins_may_connect(start: Start) -> None:
    origins = ("--allow-origin", "https://A.example", "--allow-origin", "http://b:8080")
    server = start("serve.py", *origins)
    for origin, status in [("https://a.example", 101), ("http://b:8080", 101),
                           ("http://a.example", 403), ("http://b", 403)]:  # fmt: skip
        with RawSocket(server.port, changes={"Origin": origin}) as socket:
            assert socket.status == status, origin


@pytest.mark.parametrize(
    ("path", "status"), [("/reject", 403), ("/elsewhere", 302), ("/fail/at-once", 500),
                         ("/nowhere", 404)],
)  # fmt: skip
def test_a_route_can_reject_before_the_101(failing: Server, path: str, status: int) -> None:
    with failing.websocket(path) as socket:
        assert socket.status == status


def test_a_socket_that_its_route_does_not_use_is_closed(quiet: Server) -> None:
    with quiet.websocket("/untouched") as socket:
        assert socket.status == 101
        assert socket.close_code() == 1000


def test_frames_sent_with_the_handshake_are_not_lost(quiet: Server) -> None:
    early = b"".join(frame(TEXT, b"%d" % number + b"x" * 400) for number in range(35))
    assert len(early) > 8192  # more than the reader's buffer, within one record of TLS
    with quiet.websocket("/echo", early=early) as client:
        for number in range(35):
            assert client.frame() == (TEXT, b"%d" % number + b"x" * 400)
    with quiet.websocket("/push", early=frame(PING, b"early")) as client:
        client.read_until((PONG, b"early"))


def test_messages_of_another_library_come_back(gevent: Server) -> None:
    with open_websocket(f"{gevent.ws}/echo") as socket:
        for message in ("", "€" * 20_000, b"", b"\x00\xff" * 30_000, b"x" * 65536):
            socket.send(message)
            assert socket.recv(HANG_TIMEOUT) == message
        socket.send(["Lorem ", "", "ipsum ", "€"])
        assert socket.recv(HANG_TIMEOUT) == "Lorem ipsum €"


def test_routes_of_flask_sockets() -> None:
    server = Server("tests/conversing.py")
    with server.websocket("/echo/3") as client:
        client.send(frame(TEXT, b"x"))
        assert [client.frame() for _ in range(3)] == [(TEXT, b"x")] * 3
    with server.websocket("/echo/x") as client:
        assert client.status == 404
    with server.websocket("/fail2/at-once") as client:
        assert client.status == 500
    with server.websocket("/fail2/later") as client:
        client.send(frame(TEXT, b"x"))
        assert client.close_code() == 1011
    eventually(lambda: server.log.count("KeyError: 'on purpose'") == 2)
    assert server.stop() == 0


def test_many_senders_do_not_mix_their_frames(quiet: Server) -> None:
    """While another thread echoes, which breaks bare TLS sockets."""
    with quiet.websocket("/many-senders") as client:
        received: dict[bytes, int] = {}
        numbers = [b"%d" % number for number in range(300)]
        one_at_a_time = threading.Lock()

        def send(opcode: int, payload: bytes) -> None:
            with one_at_a_time:
                client.send(frame(opcode, payload))

        with ThreadPoolExecutor(1) as pool:
            pool.submit(lambda: list(map(send, itertools.repeat(TEXT), numbers)))
            echoes: list[bytes] = []
            while sum(received.values()) < 200 or len(echoes) < 300:
                got = client.frame()
                assert got is not None
                opcode, payload = got
                if opcode == PING:
                    send(PONG, payload)
                    continue
                assert opcode == TEXT
                if payload[:1].isdigit():
                    echoes.append(payload)
                else:
                    assert payload == payload[:1] * 100_000
                    received[payload[:1]] = received.get(payload[:1], 0) + 1
        assert echoes == numbers
        assert received == {bytes([letter]): 20 for letter in b"abcdefghij"}


# Closing.


@pytest.mark.parametrize("code", [1000, 1008, 3456, 4002])
def test_a_route_closes_with_a_code_and_a_reason(quiet: Server, code: int) -> None:
    with quiet.websocket(f"/close/{code}") as socket:
        assert socket.close_payload() == struct.pack("!H", code) + b"server says so"


def test_sending_after_close_ends_the_route(failing: Server) -> None:
    with failing.websocket("/after-close") as socket:
        assert socket.close_code() == 1000


def test_an_error_in_a_route_is_1011_and_other_requests_go_on(failing: Server) -> None:
    with failing.websocket("/fail/later") as socket:
        socket.send(frame(TEXT, b"x"))
        assert socket.close_code() == 1011
    eventually(lambda: "RuntimeError: on purpose" in failing.log)
    with failing.websocket("/echo") as socket:
        socket.send(frame(TEXT, b"still here"))
        assert socket.frame() == (TEXT, b"still here")
        socket.send(close_frame(1000))
        assert socket.close_code() == 1000


@pytest.mark.parametrize("path", BOTH)
def test_a_reset_is_not_an_error(quiet: Server, path: str) -> None:
    for early in (b"", frame(TEXT, b"half a frame")[:5]):
        quiet.websocket(path, early=early).reset()
    eventually(lambda: subscribers(quiet) == 0)


@pytest.mark.parametrize("path", [*BOTH, "/untouched", "/close/4000"])
def test_a_reset_before_the_101_is_not_an_error(quiet: Server, path: str) -> None:
    for early in (b"", frame(TEXT, b"half a frame")[:5]) * 10:
        hasty = quiet.open_socket()
        hasty.sendall(handshake(path) + early)
        hasty.setsockopt(SOL_SOCKET, SO_LINGER, RESET)
        hasty.close()
    eventually(lambda: subscribers(quiet) == 0)


def test_a_full_hub_closes_with_1013(quiet: Server) -> None:
    eventually(lambda: subscribers(quiet) == 0)
    opened = [quiet.websocket("/push") for _ in range(4)]
    eventually(lambda: subscribers(quiet) == 4)
    with quiet.websocket("/push") as fifth:
        assert fifth.close_code() == 1013
    opened.pop().close()
    eventually(lambda: subscribers(quiet) < 4)
    opened.append(quiet.websocket("/push"))
    assert "cursor" in opened[-1].json()
    for each in opened:
        each.close()


# Silence.


@pytest.mark.parametrize("path", BOTH)
def test_the_server_pings_and_a_pong_keeps_the_connection(pinging: Server, path: str) -> None:
    with pinging.websocket(path) as socket:
        pings = 0
        while pings < 4:
            opcode, payload = socket.frame() or pytest.fail("dropped although it replied")
            if opcode == PING:
                pings += 1
                socket.send(frame(PONG, payload))


def publish_large(server: Server) -> str:
    """Publish a reading that fills buffers; return its text."""
    text = f"{next(NUMBERS):5}" + "x" * 15_000
    assert server.http.request("POST", "/push", text.encode()).status == 200
    return text


NUMBERS = itertools.count()


def test_a_client_that_never_reads_delays_no_other(quiet: Server) -> None:
    """Nor is it dropped: it is not pinged."""
    eventually(lambda: subscribers(quiet) == 0)
    with quiet.websocket("/push", receive_buffer=4096) as slow, \
            quiet.websocket("/push") as other:  # fmt: skip
        assert slow.status == 101
        other.json()
        for _ in range(100):
            assert publish_large(quiet) == other.json()["value"]["text"]


def test_a_client_that_never_reads_is_dropped(pinging: Server) -> None:
    eventually(lambda: subscribers(pinging) == 0)
    with pinging.websocket("/push", receive_buffer=4096) as slow:
        assert slow.status == 101
        sent = sum(len(publish_large(pinging)) for _ in range(100))
        # It does not get to its pings...
        eventually(lambda: publish_large(pinging) and subscribers(pinging) == 0)
        # ...having been sent far less than was published.
        assert len(read_all(slow.socket)) < 300_000 < sent


@pytest.mark.parametrize(
    "name", ["serve.py", "serve.py tls", "servers/threads.py", "servers/threads.py tls"]
)
def test_a_client_that_reads_late_gets_the_newest_and_no_backlog(
    name: str, certificate_folder: Path
) -> None:
    """And it delays no other client."""
    server = start_server(name, certificate_folder, "--source", "http")
    path = "/update?carry=1"
    with server.websocket(path, receive_buffer=4096) as late, server.websocket(path) as other:
        late.json(), other.json()
        before = server.memory
        for number in range(200):  # long before the first ping
            server.publish({"number": number, "text": "x" * 15_000})
            assert other.json()["value"]["number"] == number
        assert server.memory - before < 3_000_000
        numbers: list[int] = []
        while not numbers or numbers[-1] < 199:
            numbers.append(late.json()["value"]["number"])
        assert numbers == sorted(set(numbers))
        assert len(numbers) < 20
        late.ping(b"still whole")
    assert server.stop() == 0
    assert server.log == ""


def test_a_client_that_pings_and_never_reads_costs_nothing(quiet: Server) -> None:
    before = quiet.memory
    with quiet.websocket("/push", receive_buffer=4096) as flood:
        flood.socket.settimeout(0.5)
        try:
            for _ in range(2000):
                flood.send(frame(PING, b"x" * 125) * 100)
        except OSError:
            pass  # the server no longer reads from it, or has dropped it
        assert quiet.memory - before < 4_000_000
    with quiet.websocket("/push") as other:
        assert "cursor" in other.json()


# Shutdown.


def test_a_client_that_does_not_reply_delays_no_other_at_shutdown() -> None:
    server = Server("serve.py", "--source", "http")
    cursor = server.publish({"n": 1})
    polls = [server.send_get(f"/update?after={cursor}") for _ in range(3)]
    with RawSocket(server.port) as silent, \
            open_websocket(f"{server.ws}/update") as socket:  # fmt: skip
        silent.json(), socket.recv(HANG_TIMEOUT)  # earlier requests have been accepted by now
        stopping = threading.Thread(target=server.stop)
        stopping.start()
        while (got := silent.frame()) is not None and got[0] != CLOSE:
            pass
        assert got == (CLOSE, b"\x03\xe9")  # 1001
        with pytest.raises(Exception, match="1001"):
            socket.recv(HANG_TIMEOUT)
        for poll in polls:
            assert poll.recv(4096).startswith(b"HTTP/1.1 204 ")
            poll.close()
        stopping.join()
    assert server.process.returncode == 0
    assert server.log == ""
