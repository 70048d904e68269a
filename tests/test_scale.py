"""Two thousand browsers on one server."""

import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.clients import RESET, RawSocket, handshake
from tests.conftest import Server, Start, eventually
from tests.test_connections import NOBODY

BROWSERS = 2000
#: So that no browser is dropped for silence before it is read from.
OPTIONS = ("--source", "http", "--ping-interval", "3600")


@pytest.fixture(autouse=True)
def _descriptors() -> None:
    """Let this process open that many sockets, if it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < BROWSERS + 500:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, BROWSERS + 500), hard))


@pytest.fixture
def crowd(start: Start) -> Iterator[tuple[Server, list[RawSocket]]]:
    server = start("serve2.py", *OPTIONS)
    with ExitStack() as stack:
        yield server, [stack.enter_context(RawSocket(server.port)) for _ in range(BROWSERS)]


def test_two_thousand_browsers_take_two_kilobytes_each(start: Start) -> None:
    server = start("serve.py", *OPTIONS)
    with ExitStack() as stack:
        for _ in range(100):  # what the server needs only once
            with RawSocket(server.port) as warm:
                warm.json()
        before = server.memory
        browsers = [stack.enter_context(RawSocket(server.port)) for _ in range(BROWSERS)]
        for _ in range(3):
            newest = server.publish({"text": "x" * 1000})
            for browser in browsers:
                browser.read_to_cursor(newest)
        assert (server.memory - before) / BROWSERS <= 2048
        # Changes in quick succession may be coalesced, but each browser receives the last one.
        newest = [server.publish({"number": number}) for number in range(50)][-1]
        for browser in browsers:
            browser.read_to_cursor(newest)


def test_a_low_limit_on_open_files_is_raised() -> None:
    """Many systems start a process with 256, and allow more."""
    server = Server("serve.py", *OPTIONS, before="ulimit -Sn 200")
    with ExitStack() as stack:
        browsers = [stack.enter_context(RawSocket(server.port)) for _ in range(300)]
        newest = server.publish({})
        for browser in browsers:
            browser.read_to_cursor(newest)
    assert server.stop() == 0
    assert server.log == ""


def test_browsers_that_never_read_or_vanish_delay_no_other(
    crowd: tuple[Server, list[RawSocket]],
) -> None:
    """The other thousand receive each change, although nobody is dropped for silence."""
    server, browsers = crowd
    silent, listening = browsers[:1000], browsers[1000:]
    for number in range(10):
        if number == 5:
            for browser in silent[:500]:
                browser.reset()
        newest = server.publish({"number": number})
        for browser in listening:
            browser.read_to_cursor(newest)


#: What short-lived connections send, and whether they end by a reset.
KINDS = {
    "nothing": b"",
    "data": b"GET /data HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "data, through Flask": b"GET /data HTTP/1.1\r\nHost: 127.0.0.1\r\nX_Unusual: 1\r\n\r\n",
    "half a request": b"GET /data HTTP/1.1\r\nHost: 127",
    "poll": b"GET /update?after=CURSOR HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "poll, HTTP/1.0": b"GET /update?after=CURSOR HTTP/1.0\r\n\r\n",
    "stream": b"GET /update HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n\r\n",
    "websocket": handshake("/update"),
}


@pytest.mark.parametrize("resets", [False, True], ids=["closed", "reset"])
def test_short_lived_connections_leave_nothing(start: Start, resets: bool) -> None:
    """A leak of 300 bytes for each of any kind would be seen."""
    server = start("tests/owners.py", "--source", "http")
    cursor = server.cursor.encode()

    def come_and_go(count: int, text: bytes) -> None:
        for _ in range(count // 100):
            clients = [server.open_socket() for _ in range(100)]
            for client in clients:
                client.sendall(text.replace(b"CURSOR", cursor))
                if resets:
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            for client in clients:
                client.close()
            eventually(lambda: server.http.get("/owners").json == NOBODY)

    def growth(text: bytes) -> int:
        before = server.memory
        come_and_go(600, text)
        return server.memory - before

    for kind, text in KINDS.items():
        # More at a time than before need memory once; what leaks grows each time.
        assert any(growth(text) <= 600 * 300 for _ in range(8)), kind
