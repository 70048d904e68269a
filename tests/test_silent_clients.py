"""Clients that never reply delay no other, and are dropped."""

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest

from tests.clients import RawSocket
from tests.conftest import ROOT, Server, Start, eventually
from tests.hosting import with_limits


@pytest.fixture(params=[3600, 0.5], ids=["seldom", "often"])
def server(start: Start, request: pytest.FixtureRequest) -> Server:
    """A server that pings its clients so seldom, or often, in seconds."""
    pings = with_limits(PING_INTERVAL=request.param, PONG_TIMEOUT=request.param)
    return start("tests/conversing.py", environment=pings)


@pytest.fixture
def pings_often(request: pytest.FixtureRequest) -> bool:
    return bool(request.node.callspec.params["server"] < 1)


def publish(server: Server, text: str) -> None:
    assert server.http.request("POST", "/push", text.encode()).status == 200


def check_news(server: Server, text: str) -> None:
    """Fail unless another client receives each reading, while no client is dropped."""
    with RawSocket(server.port, "/push") as witness:
        for number in range(20):
            publish(server, f"{number:4}{text}")
            while witness.json()["value"].get("text") != f"{number:4}{text}":
                pass


def publish_until(server: Server, text: str, condition: Callable[[], bool]) -> None:
    def published() -> bool:
        publish(server, text)
        return condition()

    eventually(published)


def test_clients_that_read_but_never_reply(server: Server, pings_often: bool) -> None:
    descriptors = server.descriptors
    with ExitStack() as stack:
        silent = [stack.enter_context(RawSocket(server.port, path))
                  for path in ("/push", "/push", *["/echo"] * 20)]  # fmt: skip
        if not pings_often:
            check_news(server, "")
            return
        ended = []

        def read_to_the_end(each: RawSocket) -> None:
            with suppress(ConnectionError):
                each.last_frame()
            ended.append(each)

        readers = [threading.Thread(target=read_to_the_end, args=[each]) for each in silent]
        for reader in readers:
            reader.start()
        publish_until(server, "", lambda: len(ended) == len(silent))
        for reader in readers:
            reader.join()
        # The server has closed its sockets, although the clients have not.
        eventually(lambda: server.descriptors <= descriptors)


@contextmanager
def frozen_client(server: Server) -> Iterator[None]:
    """A process with three WebSockets that has been stopped."""
    program = (
        "import sys\n"
        "from tests.clients import RawSocket\n"
        f"sockets = [RawSocket({server.port}, path) for path in ('/push', '/push', '/echo')]\n"
        "print('connected', flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE) as client:  # fmt: skip
        try:
            assert client.stdout is not None
            assert client.stdout.readline() == b"connected\n"
            client.send_signal(signal.SIGSTOP)
            yield
        finally:
            client.kill()


@pytest.mark.parametrize("size", [10, 15_000])
def test_a_frozen_client(server: Server, pings_often: bool, size: int) -> None:
    """Its kernel still acknowledges bytes, while there is room."""
    text, descriptors = "x" * size, server.descriptors
    with frozen_client(server):
        if not pings_often:
            check_news(server, text)
            return
        publish_until(server, text, lambda: server.http.get("/subscribers").body == b"0")
        eventually(lambda: server.descriptors <= descriptors)
