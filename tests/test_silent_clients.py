"""Clients that never reply are dropped, and delay no other.

tests/conversing.py pings them every second.
"""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress

import pytest

from tests.clients import HANG_TIMEOUT, RawSocket
from tests.conftest import ROOT, Server, Start, eventually

#: Readings published meanwhile, at least. Nine in ten must arrive within this many seconds, and so
#: many times what they take without silent clients; a server that waited would take seconds.
UPDATES = 20
RECEIVED_WITHIN, TIMES_SLOWER = 0.4, 5


@pytest.fixture
def pinging(start: Start) -> Server:
    return start("tests/conversing.py")


def publish_until(server: Server, text: str, dropped: Callable[[], bool]) -> float:
    """Publish until the silent clients are dropped; return another's delay."""
    delays: list[float] = []
    with RawSocket(server.port, "/push") as witness:
        deadline = time.monotonic() + HANG_TIMEOUT
        while len(delays) < UPDATES or not dropped():
            assert time.monotonic() < deadline, "the silent clients are not dropped"
            began, published = time.monotonic(), f"{len(delays):4}{text}"
            assert server.http.request("POST", "/push", published.encode()).status == 200
            while witness.json()["value"].get("text") != published:
                pass
            delays.append(time.monotonic() - began)
            time.sleep(0.02)
    return sorted(delays)[len(delays) * 9 // 10]


def test_clients_that_read_but_never_reply_are_dropped(pinging: Server) -> None:
    usual, descriptors = publish_until(pinging, "", lambda: True), pinging.descriptors
    with ExitStack() as stack:
        silent = [stack.enter_context(RawSocket(pinging.port, path))
                  for path in ("/push", "/push", *["/echo"] * 20)]  # fmt: skip
        ended = []

        def read_to_the_end(each: RawSocket) -> None:
            with suppress(ConnectionError):
                each.last_frame()
            ended.append(each)

        readers = [threading.Thread(target=read_to_the_end, args=[each]) for each in silent]
        for reader in readers:
            reader.start()
        delay = publish_until(pinging, "", lambda: len(ended) == len(silent))
        assert delay < RECEIVED_WITHIN + TIMES_SLOWER * usual
        for reader in readers:
            reader.join()
        # The server has closed its sockets, although the clients have not.
        eventually(lambda: pinging.descriptors <= descriptors)


@pytest.mark.parametrize("size", [10, 15_000])
def test_a_frozen_client_is_dropped(pinging: Server, size: int) -> None:
    """Its kernel still acknowledges bytes, while there is room."""
    text = "x" * size
    usual, descriptors = publish_until(pinging, text, lambda: True), pinging.descriptors
    program = (
        "import sys\n"
        "from tests.clients import RawSocket\n"
        f"sockets = [RawSocket({pinging.port}, path) for path in ('/push', '/push', '/echo')]\n"
        "print('connected', flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE) as frozen:  # fmt: skip
        try:
            assert frozen.stdout is not None
            assert frozen.stdout.readline() == b"connected\n"
            frozen.send_signal(signal.SIGSTOP)
            delay = publish_until(
                pinging, text, lambda: pinging.http.get("/subscribers").body == b"1"
            )
            assert delay < RECEIVED_WITHIN + TIMES_SLOWER * usual
            eventually(lambda: pinging.descriptors <= descriptors)
        finally:
            frozen.kill()
