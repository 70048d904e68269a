"""Far ports: all bytes arrive, in order, and not before the distance allows."""

import hashlib
import os
import random
import select
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

import psutil
import pytest

from lab.far_ports import FarPort, far_ports
from pushlab.hosting.lifecycle import StartupError
from tests.clients import HANG_TIMEOUT, RESET
from tests.conftest import Program, eventually, takes

Handler = Callable[[socket.socket], None]


@pytest.fixture(autouse=True)
def _relays_print_no_errors(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """After every test: no relay has printed an error, and none is left."""
    yield
    assert capfd.readouterr().err == ""
    assert not [each for each in psutil.Process().children() if "relay.py" in str(each.cmdline())]


def echo(client: socket.socket) -> None:
    """Send everything back, up to the end."""
    while data := client.recv(64 * 1024):
        client.sendall(data)


def timed_echo(times: list[float]) -> Handler:
    """Return an echo that notes when each piece arrives."""

    def echo(client: socket.socket) -> None:
        while data := client.recv(100):
            times.append(time.monotonic())
            client.sendall(data)

    return echo


def ask(client: socket.socket, message: bytes = b"hello") -> float:
    """Send to an echo and receive it; return the seconds that took."""
    began = time.monotonic()
    client.sendall(message)
    assert read(client, len(message)) == message
    return time.monotonic() - began


def connect(port: int, host: str = "127.0.0.1") -> socket.socket:
    client = socket.create_connection((host, port), timeout=HANG_TIMEOUT)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client


def read(client: socket.socket, size: int | None = None) -> bytes:
    """Return that many bytes, or all up to the end."""
    pieces, missing = [], size or sys.maxsize
    while missing and (piece := client.recv(min(missing, 64 * 1024))):
        pieces.append(piece)
        missing -= len(piece)
    return b"".join(pieces)


@contextmanager
def serving(handle: Handler, host: str = "127.0.0.1") -> Iterator[int]:
    """Run a server that handles each client in a thread; yield its port."""
    family, *_, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
    listener = socket.create_server(address, family=family, backlog=200)

    def serve(client: socket.socket) -> None:
        with client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            handle(client)

    def accept() -> None:
        with suppress(OSError):  # closed at the end of the test
            while True:
                client, _ = listener.accept()
                client.settimeout(HANG_TIMEOUT)
                threads.append(threading.Thread(target=serve, args=(client,)))
                threads[-1].start()

    threads = [threading.Thread(target=accept)]
    threads[0].start()
    with listener:
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)  # wakes `accept`
    for thread in threads:
        thread.join(HANG_TIMEOUT)
        assert not thread.is_alive()


@contextmanager
def far(handle: Handler, milliseconds: float, host: str = "127.0.0.1") -> Iterator[FarPort]:
    """Run such a server, and open a far port."""
    with (
        serving(handle, host) as port,
        far_ports([milliseconds], host=host, port=port) as (opened,),
    ):
        yield opened


@contextmanager
def sending(client: socket.socket, data: bytes) -> Iterator[None]:
    """Send during the `with`."""
    sender = threading.Thread(target=client.sendall, args=(data,))
    sender.start()
    yield
    sender.join(HANG_TIMEOUT)


@pytest.mark.parametrize("milliseconds", [0, 40])
def test_all_bytes_arrive_in_order_in_both_directions(milliseconds: float) -> None:
    up, down = random.randbytes(5_000_000), random.randbytes(7_000_000)
    received = []

    def exchange(client: socket.socket) -> None:
        with sending(client, down):
            received.append(read(client, len(up)))

    with far(exchange, milliseconds) as port, connect(port.port) as client, sending(client, up):
        assert read(client, len(down)) == down
    assert received == [up]


@pytest.mark.parametrize("milliseconds", [0, 30, 100.5])
def test_each_direction_takes_half_of_the_distance(milliseconds: float) -> None:
    there: list[float] = []
    with far(timed_echo(there), milliseconds) as port, connect(port.port) as client:

        def round_trip() -> float:
            sent = time.monotonic()
            assert ask(client) >= milliseconds / 1000
            came = time.monotonic()
            assert there[-1] - sent >= milliseconds / 2000
            assert came - there[-1] >= milliseconds / 2000 - 0.001  # it was sent after that time
            return came - sent

        for _ in range(6):
            takes(milliseconds / 1000, round_trip)


@pytest.mark.parametrize("milliseconds", [0, 200])
def test_opening_a_connection_takes_a_round_trip_before_the_first_byte(milliseconds: float) -> None:
    """On a real network connect() waits for it; here the first bytes are delayed instead."""
    there: list[float] = []
    trip = milliseconds / 2000
    with far(timed_echo(there), milliseconds) as port:

        def first_and_second() -> float:
            there.clear()
            began = time.monotonic()
            with connect(port.port) as client:
                ask(client, b"first")
                first = time.monotonic()
                assert ask(client, b"second") >= 2 * trip
            assert there[0] - began >= 3 * trip
            assert first - began >= 4 * trip
            assert there[1] - first >= trip
            return time.monotonic() - began

        takes(6 * trip, first_and_second)


def test_bytes_that_are_sent_later_are_not_delayed_by_the_opening() -> None:
    with far(echo, 200) as port, ExitStack() as stack:

        def open_and_wait() -> float:
            client = stack.enter_context(connect(port.port))
            time.sleep(0.25)  # the time itself is what is tested
            return ask(client)

        takes(0.2, open_and_wait)


@pytest.mark.parametrize("ends", [False, True])
def test_a_server_sends_first_when_the_connection_is_open(ends: bool) -> None:
    """The last of the opening's three trips leads to the server; its first bytes are the fourth."""

    def greet(client: socket.socket) -> None:
        if not ends:
            client.sendall(b"hello")
            client.recv(1)

    with far(greet, 200) as port:

        def greeting() -> float:
            began = time.monotonic()
            with connect(port.port) as client:
                assert client.recv(5) == (b"" if ends else b"hello")
                return time.monotonic() - began

        takes(0.4, greeting)


def test_the_end_of_a_clients_bytes_waits_for_the_opening_too() -> None:
    ended: list[float] = []

    def listen(client: socket.socket) -> None:
        assert client.recv(1) == b""
        ended.append(time.monotonic())

    with far(listen, 200) as port:

        def end() -> float:
            began = time.monotonic()
            with connect(port.port) as client:
                client.shutdown(socket.SHUT_WR)
                assert client.recv(1) == b""
            return ended[-1] - began

        takes(0.3, end)


@pytest.mark.parametrize("direction", ["up", "down"])
def test_small_pieces_keep_their_order_and_their_intervals(direction: str) -> None:
    sent: list[float] = []
    came: list[float] = []
    received: list[bytes] = []

    def send(to: socket.socket) -> None:
        for number in range(60):
            sent.append(time.monotonic())
            to.sendall(bytes([number]))
            time.sleep(0.005)
        to.shutdown(socket.SHUT_WR)

    def note(origin: socket.socket) -> None:
        while data := origin.recv(100):
            received.append(data)
            came.extend([time.monotonic()] * len(data))

    at_client, at_server = (send, note) if direction == "up" else (note, send)

    def handle(client: socket.socket) -> None:
        client.sendall(client.recv(1))
        at_server(client)

    def delay() -> float:
        for each in (sent, came, received):
            each.clear()
        with connect(port.port) as client:
            client.sendall(b"!")
            assert client.recv(1) == b"!", "open, so that the opening delays nothing more"
            at_client(client)
            assert client.recv(1) == b""
        assert b"".join(received) == bytes(range(60))
        delays = [there - here for here, there in zip(sent, came, strict=True)]
        assert min(delays) >= 0.03
        one_by_one = len(received) > 6
        return statistics.median(delays) if one_by_one else max(delays)

    with far(handle, 60) as port:
        takes(0.03, delay)


def test_a_response_in_two_pieces_waits_for_no_acknowledgement() -> None:
    """Such as headers and a body. The delayed acknowledgement of the first would take 40 ms."""

    def respond(client: socket.socket) -> None:
        while client.recv(100):
            client.sendall(b"head")
            time.sleep(0.002)
            client.sendall(b"body")

    with far(respond, 10) as port, connect(port.port) as client:

        def request() -> float:
            sent = time.monotonic()
            client.sendall(b"request")
            assert read(client, 8) == b"headbody"
            return time.monotonic() - sent

        takes(0.012, lambda: statistics.median(request() for _ in range(15)), late=0.028)


def test_a_half_closed_client_receives_the_whole_response() -> None:
    request, response = random.randbytes(300_000), random.randbytes(2_000_000)

    def respond_at_the_end(client: socket.socket) -> None:
        client.sendall(hashlib.sha256(read(client)).digest() + response)

    with far(respond_at_the_end, 60) as port, connect(port.port) as client:
        client.sendall(request)
        sent = time.monotonic()
        client.shutdown(socket.SHUT_WR)
        assert read(client) == hashlib.sha256(request).digest() + response
        assert time.monotonic() - sent >= 0.06


def test_a_reset_arrives_after_the_bytes() -> None:
    received: list[tuple[bytes, float]] = []

    def receive_until_reset(client: socket.socket) -> None:
        data = client.recv(100)
        with pytest.raises(ConnectionResetError):
            client.recv(100)
        received.append((data, time.monotonic()))

    with far(receive_until_reset, 100) as port:
        client = connect(port.port)
        client.sendall(b"last bytes")
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        reset = time.monotonic()
        client.close()
        eventually(lambda: received)
    data, when = received[0]
    assert data == b"last bytes"
    assert when - reset >= 0.05


def test_backpressure_reaches_the_sender_and_nothing_is_lost() -> None:
    piece = random.randbytes(64 * 1024)
    blocked, sent = threading.Event(), []

    def send_until_blocked(client: socket.socket) -> None:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * 1024)
        client.setblocking(False)
        while select.select([], [client], [], 0.5)[1]:
            sent.append(client.send(piece))
        client.settimeout(HANG_TIMEOUT)
        blocked.set()
        client.sendall(b"the end")

    with far(send_until_blocked, 20) as port, socket.socket() as client:
        relay = psutil.Process(port._process.pid)
        before = relay.memory_info().rss
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
        client.settimeout(HANG_TIMEOUT)
        client.connect(("127.0.0.1", port.port))
        assert blocked.wait(HANG_TIMEOUT)
        assert sum(sent) < 100_000_000, "the kernel's buffers, and a megabyte"
        assert relay.memory_info().rss - before < 4_000_000
        assert read(client) == b"".join(piece[:size] for size in sent) + b"the end"


def test_without_a_server_the_client_is_closed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with far_ports([100], host="127.0.0.1", port=port) as (opened,):

        def refusal() -> float:
            """The seconds for a SYN, and its refusal."""
            began = time.monotonic()
            with connect(opened.port) as client, suppress(ConnectionResetError):
                assert client.recv(1) == b""
            return time.monotonic() - began

        takes(0.1, refusal)


def test_many_connections_do_not_delay_each_other() -> None:
    """Not even if some of them are stuck."""

    def handle(client: socket.socket) -> None:
        if client.recv(1) == b"e":
            echo(client)
        else:
            with suppress(OSError):  # the client never reads
                while True:
                    client.sendall(bytes(64 * 1024))

    with far(handle, 100) as port, ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(connect(port.port)).sendall(b"s")
        clients = [stack.enter_context(connect(port.port)) for _ in range(60)]
        for client in clients:
            client.sendall(b"e")

        def median_delay() -> float:
            began, took = [], []
            for number, client in enumerate(clients):
                began.append(time.monotonic())
                client.sendall(b"%d" % number)
            for number, client in enumerate(clients):
                assert int(read(client, len(str(number)))) == number
                took.append(time.monotonic() - began[number])
            assert min(took) >= 0.1
            return statistics.median(took)

        takes(0.1, median_delay, late=0.5)


def test_without_connections_it_ends_at_once() -> None:
    def close() -> float:
        with far(echo, 10_000) as port:
            began = time.monotonic()
            port.close()
            took = time.monotonic() - began
            with pytest.raises(ConnectionRefusedError):
                connect(port.port)
        return took

    takes(0, close, late=1)


def test_bytes_under_way_arrive_although_it_closes() -> None:
    received = []

    def close_all(client: socket.socket) -> None:
        received.append(client.recv(100))
        client.sendall(b"the end")

    with far(close_all, 300) as port, connect(port.port) as client:
        client.sendall(b"hello")
        client.shutdown(socket.SHUT_WR)
        port.close()
        assert read(client) == b"the end"
    assert received == [b"hello"]


def test_clients_that_connected_before_it_closes_are_served() -> None:
    with far(echo, 200) as port, ExitStack() as stack:
        relay = psutil.Process(port._process.pid)
        relay.suspend()
        clients = [stack.enter_context(connect(port.port)) for _ in range(25)]
        for client in clients:
            client.sendall(b"hello")
            client.shutdown(socket.SHUT_WR)
        port.shut_down()
        relay.resume()
        for client in clients:
            assert read(client) == b"hello"


def test_a_client_that_stays_is_aborted() -> None:
    with far(echo, 20) as port, connect(port.port) as client:
        ask(client)
        port.close()
        with suppress(ConnectionResetError):
            assert client.recv(1) == b""


PARENT = """
import sys
from lab.far_ports import far_ports

with far_ports([100, 50], host="127.0.0.1", port=int(sys.argv[1])) as ports:
    print(*(far.port for far in ports), flush=True)
    sys.stdin.read()
"""


def test_it_ends_with_its_parent_even_if_that_is_killed() -> None:
    with serving(echo) as server:
        parent = Program("-c", PARENT, str(server), stdin=subprocess.PIPE)
        try:
            eventually(lambda: parent.out or parent.process.poll() is not None)
            relays = psutil.Process(parent.process.pid).children()
            assert len(relays) == 2
            with connect(int(parent.out[0].split()[0])) as client:
                client.sendall(b"not in vain")
                assert read(client, 3) == b"not"
                parent.process.kill()
                client.shutdown(socket.SHUT_WR)
                assert read(client) == b" in vain"
        finally:
            parent.process.kill()
            parent.wait()
        eventually(lambda: not any(map(is_alive, relays)))
    assert parent.log == ""


def is_alive(process: psutil.Process) -> bool:
    """Tell whether it runs; in some containers a dead orphan stays a zombie."""
    with suppress(psutil.NoSuchProcess):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False


def test_it_leaves_ctrl_c_to_the_server_and_ends_on_sigterm() -> None:
    with far(echo, 20) as port, connect(port.port) as client:
        relay = psutil.Process(port._process.pid)
        assert os.getpgid(relay.pid) != os.getpgid(0), "the terminal's Ctrl-C does not reach it"
        relay.send_signal(signal.SIGINT)
        ask(client)
        relay.send_signal(signal.SIGTERM)
        client.sendall(b"the end")
        client.shutdown(socket.SHUT_WR)
        assert read(client) == b"the end"
        assert relay.wait(HANG_TIMEOUT) == 0


def test_the_ports_follow_that_of_the_server_if_free() -> None:
    def found() -> bool:
        with serving(echo) as server, ExitStack() as stack:
            try:
                stack.enter_context(socket.create_server(("127.0.0.1", server + 2)))
                ports = stack.enter_context(far_ports([0] * 3, host="127.0.0.1", port=server))
            except (OSError, OverflowError):
                return False
            first, second, third = (each.port for each in ports)
            for each in ports:
                with connect(each.port) as client:
                    ask(client)
            assert second != server + 2
            return (first, third) == (server + 1, server + 3)

    eventually(found)  # other programs open ports, too

    with far_ports([0, 0], host="127.0.0.1", port=65535) as ports:
        assert len({each.port for each in ports}) == 2, "beyond the last port, others"


def addresses() -> list[str]:
    """Return this machine's addresses, of loopback and others."""
    found = {
        each.address.partition("%")[0]
        for interface in psutil.net_if_addrs().values()
        for each in interface
        if each.family in (socket.AF_INET, socket.AF_INET6)
    }
    return sorted(address for address in found if not address.startswith("fe80"))


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["ipv4", "ipv6"])
def test_the_server_sees_the_address_that_the_client_used(family: socket.AddressFamily) -> None:
    """A client that did not use loopback gets none of its rights."""
    seen: list[tuple[str, str]] = []

    def note(client: socket.socket) -> None:
        seen.append((client.getsockname()[0], client.getpeername()[0]))

    mine = [each for each in addresses() if (":" in each) == (family == socket.AF_INET6)]
    everywhere = "::" if family == socket.AF_INET6 else "0.0.0.0"
    if not mine:
        everywhere, mine = "127.0.0.1", ["127.0.0.1"]  # a machine without IPv6
    elif family == socket.AF_INET and sys.platform == "linux":
        mine.append("127.0.0.2")
    with far(note, 10, everywhere) as port:
        for address in mine:
            with connect(port.port, address) as client:
                assert client.recv(1) == b""
    assert [server for server, _ in seen] == mine
    for server, peer in seen:
        assert peer == server or server == "127.0.0.2"


def test_a_host_may_be_a_name() -> None:
    with far(echo, 5, "localhost") as port, connect(port.port, "localhost") as client:
        ask(client)


PATCHED = """
from gevent import monkey

monkey.patch_all()

import socket, sys, time
import gevent
from gevent.server import StreamServer
from lab.far_ports import far_ports

ticks = 0

def tick():
    global ticks
    while True:
        ticks += 1
        gevent.sleep(0.001)

server = StreamServer(("127.0.0.1", 0), lambda client, _: client.sendall(client.recv(100)))
server.start()
gevent.spawn(tick)
with far_ports([100], host="127.0.0.1", port=server.server_port) as (far,):
    opened = ticks
    with socket.create_connection(("127.0.0.1", far.port)) as client:
        began = time.monotonic()
        client.sendall(b"hello")
        assert client.recv(100) == b"hello"
        assert time.monotonic() - began >= 0.1
    ticks = 0
assert opened > 1, "greenlets ran while it started"
assert ticks > 1, "greenlets ran while it ended"
assert "asyncio" not in sys.modules, "only the relay imports it"
"""


def test_its_parent_may_be_patched_by_gevent() -> None:
    parent = Program("-W", "error", "-c", PATCHED)
    assert parent.wait() == 0, parent.log
    assert parent.log == ""


def test_an_address_that_is_not_here_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    with (
        pytest.raises(StartupError) as ended,
        far_ports([9, 99], host="nowhere.invalid", port=5000),
    ):
        pass
    assert str(ended.value) == "", "the relay has printed why"
    lines = capfd.readouterr().err.splitlines()
    assert len(set(lines)) == 1
    assert lines[0].startswith("Cannot listen on nowhere.invalid for a far port: ")


def test_a_relay_that_cannot_start_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(StartupError, match="Cannot start the relay of a far port: No such file"):
        FarPort(10, host="127.0.0.1", server_port=5000, prefer=0)


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ("--help", 0),
        ("--server 5000", 2),
        ("--server 65536 --milliseconds 10", 2),
        ("--server 5000 --milliseconds nan", 2),
        ("--server 5000 --milliseconds 10 --port -1", 2),
    ],
)
def test_its_own_command_line(options: str, status: int) -> None:
    relay = Program("-m", "lab.relay", *options.split())
    assert relay.wait() == status
    assert "--milliseconds" in "".join([*relay.out, *relay.err])
    assert "Traceback" not in relay.log


def test_too_many_connections_do_no_harm() -> None:
    """They wait for a descriptor, or are closed; the relay continues."""

    def echo_until_reset(client: socket.socket) -> None:
        with suppress(ConnectionResetError):
            echo(client)

    with serving(echo_until_reset) as server:
        relay = Program(
            "-m", "lab.relay", "--server", str(server), "--milliseconds", "10",
            stdin=subprocess.PIPE, before="ulimit -n 100",
        )  # fmt: skip
        eventually(lambda: relay.out or relay.process.poll() is not None)
        port = int(relay.out[0])
        with ExitStack() as stack:
            clients = [stack.enter_context(connect(port)) for _ in range(120)]
            for client in clients:
                with suppress(OSError):
                    client.sendall(b"hello")
            assert read(clients[0], 5) == b"hello"
            eventually(lambda: relay.err)
            busy = sum(psutil.Process(relay.process.pid).cpu_times()[:2])
            time.sleep(0.5)
            assert sum(psutil.Process(relay.process.pid).cpu_times()[:2]) - busy < 0.2

        def is_served() -> bool:
            with connect(port) as client, suppress(ConnectionError):
                client.sendall(b"hello")
                return read(client, 5) == b"hello"
            return False

        eventually(is_served)  # when the closed connections are removed
        assert relay.process.stdin is not None
        relay.process.stdin.close()
        assert relay.wait() == 0
    assert relay.log.count("\n") == 1, relay.log
    assert "out of system resource" in relay.log
