"""Two thousand browsers on one server: all are told, none is waited for, none costs much."""

import resource
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.clients import RawSocket
from tests.conftest import Server, Start

pytestmark = pytest.mark.alone

BROWSERS = 2000


@pytest.fixture(autouse=True)
def _descriptors() -> None:
    """Let this process open that many sockets, if it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < BROWSERS + 500:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, BROWSERS + 500), hard))


@pytest.fixture
def crowd(start: Start) -> Iterator[tuple[Server, list[RawSocket]]]:
    server = start("serve2.py", "--source", "http")
    with ExitStack() as stack:
        yield server, [stack.enter_context(RawSocket(server.port)) for _ in range(BROWSERS)]


def test_two_thousand_browsers_hear_every_newest_cursor_at_two_kilobytes_each(start: Start) -> None:
    server = start("serve.py", "--source", "http")
    with ExitStack() as stack:
        for _ in range(100):  # what is needed once, not once per browser
            with RawSocket(server.port) as warm:
                warm.json()
        before = server.memory
        browsers = [stack.enter_context(RawSocket(server.port)) for _ in range(BROWSERS)]
        for _ in range(3):
            newest = server.publish({"text": "x" * 1000})
            for browser in browsers:
                while browser.json()["cursor"] != newest:
                    pass
        assert (server.memory - before) / BROWSERS <= 2048
        # A quick run of changes may be coalesced, but everyone comes to know the last one.
        newest = [server.publish({"number": number}) for number in range(50)][-1]
        for browser in browsers:
            while browser.json()["cursor"] != newest:
                pass


def test_a_low_limit_on_open_files_is_raised() -> None:
    """Many systems start a process with 256 or 1024; what it may have is more."""
    server = Server("serve.py", "--source", "http", before="ulimit -Sn 200")
    with ExitStack() as stack:
        browsers = [stack.enter_context(RawSocket(server.port)) for _ in range(300)]
        newest = server.publish({})
        for browser in browsers:
            while browser.json()["cursor"] != newest:
                pass
    assert server.stop() == 0
    assert server.log == ""


def test_half_of_them_never_read_and_half_of_those_vanish(
    crowd: tuple[Server, list[RawSocket]],
) -> None:
    """The other thousand hear each change; server and log stay well (see the fixture)."""
    server, browsers = crowd
    silent, listening = browsers[:1000], browsers[1000:]
    slowest = 0.0
    for number in range(10):
        if number == 5:
            for browser in silent[:500]:  # without a goodbye, in the middle of it
                reset = struct.pack("ii", 1, 0)
                browser.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
                browser.close()
        began = time.monotonic()
        newest = server.publish({"number": number})
        for browser in listening:
            while browser.json()["cursor"] != newest:
                pass
        slowest = max(slowest, time.monotonic() - began)
    assert slowest < 5.0
