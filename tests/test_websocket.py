"""WebSockets of the hub, and of routes that converse: acceptance, closing, silence, shutdown.

test_conformance.py has RFC 6455 as tables.
"""

import itertools
import threading
import time
from collections.abc import Iterator
from socket import SO_LINGER, SOL_SOCKET, create_connection

import pytest
from websockets.sync.client import connect

from tests.clients import CLOSE, PING, PONG, RESET, TEXT, RawSocket, frame, handshake
from tests.conftest import Server, Start, eventually

BOTH = ("/echo", "/push")


@pytest.fixture(scope="module")
def failing() -> Iterator[Server]:
    """tests/conversing.py for tests that make it log errors."""
    server = Server("tests/conversing.py")
    yield server
    assert server.stop() == 0


@pytest.fixture(scope="module")
def quiet() -> Iterator[Server]:
    """The same, but nothing may be logged."""
    server = Server("tests/conversing.py")
    yield server
    assert server.stop() == 0
    assert server.log == ""


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
                         ("/fail2/at-once", 500), ("/echo/x", 404)],
)  # fmt: skip
def test_a_route_can_reject_before_the_101(failing: Server, path: str, status: int) -> None:
    with RawSocket(failing.port, path) as socket:
        assert socket.status == status


def test_a_socket_that_its_route_does_not_use_is_closed(quiet: Server) -> None:
    with RawSocket(quiet.port, "/untouched") as socket:
        assert socket.status == 101
        assert socket.close_code() == 1000


@pytest.mark.parametrize("path", BOTH)
def test_frames_sent_with_the_handshake_are_not_lost(quiet: Server, path: str) -> None:
    with RawSocket(quiet.port, path, early=frame(PING, b"early")) as socket:
        socket.read_until((PONG, b"early"))


def test_messages_of_another_library_come_back(quiet: Server) -> None:
    with connect(f"{quiet.ws}/echo") as socket:
        for message in ("", "€" * 20_000, b"", b"\x00\xff" * 30_000, b"x" * 65536):
            socket.send(message)
            assert socket.recv(5) == message
        socket.send(["Lorem ", "", "ipsum ", "€"])
        assert socket.recv(5) == "Lorem ipsum €"


def test_a_route_of_flask_sockets_takes_a_variable(quiet: Server) -> None:
    with connect(f"{quiet.ws}/echo/3") as socket:
        socket.send("x")
        assert [socket.recv(5) for _ in range(3)] == ["x"] * 3


def test_senders_do_not_mix_their_frames(quiet: Server) -> None:
    with connect(f"{quiet.ws}/many-senders", max_size=None) as socket:
        messages = sorted(str(socket.recv(5)) for _ in range(200))
    assert messages == sorted(letter * 100_000 for letter in "abcdefghij" * 20)


# Closing.


@pytest.mark.parametrize("code", [1000, 1008, 3456, 4002])
def test_a_route_closes_with_a_code_and_a_reason(quiet: Server, code: int) -> None:
    with connect(f"{quiet.ws}/close/{code}") as socket:
        with pytest.raises(Exception, match="server says so"):
            socket.recv(5)
        assert (socket.close_code, socket.close_reason) == (code, "server says so")


def test_sending_after_close_ends_the_route(failing: Server) -> None:
    with RawSocket(failing.port, "/after-close") as socket:
        assert socket.close_code() == 1000


@pytest.mark.parametrize("path", ["/fail/later", "/fail2/later"])
def test_an_error_in_a_route_is_1011(failing: Server, path: str) -> None:
    with RawSocket(failing.port, path) as socket:
        socket.send(frame(TEXT, b"x"))
        assert socket.close_code() == 1011
    eventually(lambda: "on purpose" in failing.log)


@pytest.mark.parametrize("path", BOTH)
def test_a_reset_is_not_an_error(quiet: Server, path: str) -> None:
    for early in (b"", frame(TEXT, b"half a frame")[:5]):
        RawSocket(quiet.port, path, early=early).reset()
    eventually(lambda: subscribers(quiet) == 0)


@pytest.mark.parametrize("path", [*BOTH, "/untouched", "/close/4000", "/echo/3"])
def test_a_reset_before_the_101_is_not_an_error(quiet: Server, path: str) -> None:
    for early in (b"", frame(TEXT, b"half a frame")[:5]) * 10:
        hasty = create_connection(("127.0.0.1", quiet.port))
        hasty.sendall(handshake(path, "127.0.0.1", {}) + early)
        hasty.setsockopt(SOL_SOCKET, SO_LINGER, RESET)
        hasty.close()
    eventually(lambda: subscribers(quiet) == 0)


def test_a_full_hub_closes_with_1013(quiet: Server) -> None:
    eventually(lambda: subscribers(quiet) == 0)
    opened = [RawSocket(quiet.port, "/push") for _ in range(4)]
    with RawSocket(quiet.port, "/push") as fifth:
        assert fifth.close_code() == 1013
    opened.pop().close()
    eventually(lambda: subscribers(quiet) < 4)
    opened.append(RawSocket(quiet.port, "/push"))
    assert "cursor" in opened[-1].json()
    for each in opened:
        each.close()


# Silence. In tests/conversing.py a ping comes at least every second.


@pytest.mark.parametrize("path", BOTH)
def test_the_server_pings_and_a_pong_keeps_the_connection(quiet: Server, path: str) -> None:
    with RawSocket(quiet.port, path) as socket:
        pings = 0
        while pings < 4:
            opcode, payload = socket.frame() or pytest.fail("dropped although it replied")
            if opcode == PING:
                pings += 1
                socket.send(frame(PONG, payload))


def test_a_client_that_never_reads_is_dropped_and_delays_no_other(quiet: Server) -> None:
    """Large readings fill the slow client's buffers; the other client receives each one."""
    eventually(lambda: subscribers(quiet) == 0)
    with RawSocket(quiet.port, "/push", receive_buffer=4096) as slow, \
            RawSocket(quiet.port, "/push") as other:  # fmt: skip
        assert slow.status == 101
        other.json()
        numbers = itertools.count()

        def publish() -> float:
            """Return the seconds until the other client, which replies to pings, has it."""
            text = f"{next(numbers):5}" + "x" * 15_000
            start = time.monotonic()
            quiet.http.request("POST", "/push", text.encode())
            assert other.json()["value"]["text"] == text
            return time.monotonic() - start

        assert max(publish() for _ in range(100)) < 1.0
        # The slow client does not get to its pings, and is dropped...
        eventually(lambda: publish() and subscribers(quiet) == 1)
        # ...having been sent far less than the 1.5 MB that the other client got.
        received = 0
        try:
            while data := slow.socket.recv(65536):
                received += len(data)
        except ConnectionResetError:
            pass
        assert received < 300_000


def test_a_client_that_reads_late_gets_the_newest_and_no_backlog(server: Server) -> None:
    with RawSocket(server.port, "/update?carry=1", receive_buffer=4096) as late:
        late.json()  # the newest reading before these
        for number in range(60):  # long before its next ping
            server.publish({"number": number, "text": "x" * 15_000})
        numbers: list[int] = []
        while not numbers or numbers[-1] < 59:
            numbers.append(late.json()["value"]["number"])
        assert numbers == sorted(set(numbers))
        assert len(numbers) < 20


def test_a_client_that_pings_and_never_reads_costs_nothing(quiet: Server) -> None:
    before = quiet.memory
    with RawSocket(quiet.port, "/push", receive_buffer=4096) as flood:
        flood.socket.settimeout(0.5)
        try:
            for _ in range(2000):
                flood.send(frame(PING, b"x" * 125) * 100)
        except OSError:
            pass  # the server no longer reads from it, or has dropped it
        assert quiet.memory - before < 4_000_000
    with RawSocket(quiet.port, "/push") as other:
        assert "cursor" in other.json()


# Shutdown.


def test_a_client_that_does_not_reply_delays_no_other_at_shutdown() -> None:
    server = Server("serve.py", "--source", "http")
    cursor = server.publish({"n": 1})
    polls = [server.send_get(f"/update?after={cursor}") for _ in range(3)]
    with RawSocket(server.port) as silent, connect(f"{server.ws}/update") as socket:
        silent.json(), socket.recv(5)  # earlier requests have been accepted by now
        began = time.monotonic()
        stopping = threading.Thread(target=server.stop)
        stopping.start()
        while (got := silent.frame()) is not None and got[0] != CLOSE:
            pass
        assert got == (CLOSE, b"\x03\xe9")  # 1001
        with pytest.raises(Exception, match="1001"):
            socket.recv(5)
        for poll in polls:
            assert poll.recv(4096).startswith(b"HTTP/1.1 204 ")
            poll.close()
        stopping.join()
    assert time.monotonic() - began < 5
    assert server.process.returncode == 0
    assert server.log == ""
