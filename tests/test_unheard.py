"""Peers of whom nothing more is heard: they are given up, and meanwhile nobody waits for them.

In tests/conversing.py they are pinged every second.
"""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress

import psutil
import pytest

from tests.clients import RawSocket
from tests.conftest import ROOT, Server, eventually, starting

#: Readings published meanwhile, at least, and seconds within which nine in ten must be told. Who
#: waited for such a peer would wait for seconds.
UPDATES = 20
TOLD_WITHIN = 0.5


@pytest.fixture
def pinging() -> Iterator[Server]:
    with starting() as start:
        yield start("tests/conversing.py")


def members(server: Server) -> int:
    return int(server.http.get("/members").body)


def told(server: Server, witness: RawSocket, text: str) -> float:
    """Publish; return the seconds until the witness knows."""
    began = time.monotonic()
    assert server.http.request("POST", "/push", text.encode()).status == 200
    while witness.json()["value"].get("text") != text:
        pass
    return time.monotonic() - began


def others_are_told_until(
    server: Server, text: str, gone: Callable[[], bool], *, timeout: float = 15
) -> None:
    delays: list[float] = []
    with RawSocket(server.port, "/push") as witness:
        deadline = time.monotonic() + timeout
        while len(delays) < UPDATES or not gone():
            assert time.monotonic() < deadline, "it is not given up"
            delays.append(told(server, witness, f"{len(delays):4}{text}"))
            time.sleep(0.02)
    assert sorted(delays)[len(delays) * 9 // 10] < TOLD_WITHIN, delays


def test_deaf_peers_are_found_out(pinging: Server) -> None:
    """They read all they are sent, and never answer a ping."""
    descriptors = psutil.Process(pinging.process.pid).num_fds()
    with ExitStack() as stack:
        deaf = [stack.enter_context(RawSocket(pinging.port, path))
                for path in ("/push", "/push", *["/echo"] * 20)]  # fmt: skip
        ended = []

        def read_to_the_end(each: RawSocket) -> None:
            with suppress(ConnectionError):
                while each.frame() is not None:
                    pass
            ended.append(each)

        readers = [threading.Thread(target=read_to_the_end, args=[each]) for each in deaf]
        for reader in readers:
            reader.start()
        others_are_told_until(pinging, "", lambda: len(ended) == len(deaf))
        for reader in readers:
            reader.join()
        # The server has let go, although the peers have not.
        eventually(lambda: psutil.Process(pinging.process.pid).num_fds() <= descriptors)


@pytest.mark.parametrize("size", [10, 15_000])
def test_a_frozen_process_is_found_out(pinging: Server, size: int) -> None:
    """Its kernel still acknowledges what the server sends, as long as there is room."""
    descriptors = psutil.Process(pinging.process.pid).num_fds()
    program = (
        "import sys, threading\n"
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
            others_are_told_until(pinging, "x" * size, lambda: members(pinging) == 1)
            eventually(lambda: psutil.Process(pinging.process.pid).num_fds() <= descriptors)
        finally:
            frozen.kill()
