"""Far ports: all that is sent arrives, in order, and not before it has come the distance."""

import hashlib
import os
import random
import select
import signal
import socket
import statistics
import struct
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
from tests.clients import HANG_TIMEOUT
from tests.conftest import Program, eventually

Conversation = Callable[[socket.socket], None]

#: Seconds that a busy machine may at worst take longer than the distance.
LATE = 1.0


@pytest.fixture(autouse=True)
def _relays_say_nothing(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """Whatever comes to an end, and however: a relay prints nothing, and none is left."""
    yield
    assert capfd.readouterr().err == ""
    assert not [
        each for each in psutil.Process().children() if "distance.py" in str(each.cmdline())
    ]


def echo(client: socket.socket) -> None:
    """Send back whatever comes, up to its end."""
    while data := client.recv(64 * 1024):
        client.sendall(data)


def connect(port: int, host: str = "127.0.0.1") -> socket.socket:
    client = socket.create_connection((host, port), timeout=HANG_TIMEOUT)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client


def read(client: socket.socket, size: int | None = None) -> bytes:
    """Return that many bytes, or all that come."""
    pieces, missing = [], size or sys.maxsize
    while missing and (piece := client.recv(min(missing, 64 * 1024))):
        pieces.append(piece)
        missing -= len(piece)
    return b"".join(pieces)


@contextmanager
def serving(converse: Conversation, host: str = "127.0.0.1") -> Iterator[int]:
    """Run a server that has this conversation with each client; yield its port."""
    family, *_, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
    listener = socket.create_server(address, family=family, backlog=200)

    def serve(client: socket.socket) -> None:
        with client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            converse(client)

    def accept() -> None:
        with suppress(OSError):  # closed: the test is over
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
            listener.shutdown(socket.SHUT_RDWR)  # wakes who accepts
    for thread in threads:
        thread.join(HANG_TIMEOUT)
        assert not thread.is_alive()


@contextmanager
def far(converse: Conversation, milliseconds: float, host: str = "127.0.0.1") -> Iterator[FarPort]:
    """Run such a server, that far away."""
    with (
        serving(converse, host) as port,
        far_ports([milliseconds], host=host, port=port) as (opened,),
    ):
        yield opened


@contextmanager
def sending(client: socket.socket, data: bytes) -> Iterator[None]:
    """Send meanwhile."""
    sender = threading.Thread(target=client.sendall, args=(data,))
    sender.start()
    yield
    sender.join(HANG_TIMEOUT)


@pytest.mark.parametrize("milliseconds", [0, 40])
def test_all_bytes_arrive_in_order_both_ways_at_once(milliseconds: float) -> None:
    up, down = random.randbytes(5_000_000), random.randbytes(7_000_000)
    received = []

    def exchange(client: socket.socket) -> None:
        with sending(client, down):
            received.append(read(client, len(up)))

    with far(exchange, milliseconds) as port, connect(port.port) as client, sending(client, up):
        assert read(client, len(down)) == down
    assert received == [up]


@pytest.mark.parametrize("milliseconds", [0, 30, 100.5])
def test_each_way_takes_half_of_the_distance(milliseconds: float) -> None:
    there: list[float] = []

    def answer(client: socket.socket) -> None:
        while data := client.recv(100):
            there.append(time.monotonic())
            client.sendall(data)

    late = []
    with far(answer, milliseconds) as port, connect(port.port) as client:
        for number in range(6):
            sent = time.monotonic()
            client.sendall(b"%d" % number)
            assert client.recv(100) == b"%d" % number
            came = time.monotonic()
            assert there[-1] - sent >= milliseconds / 2000
            assert came - there[-1] >= milliseconds / 2000 - 0.001  # it was sent after that time
            assert came - sent >= milliseconds / 1000
            late.append(came - sent - milliseconds / 1000)
    assert statistics.median(late) < 0.05, late


@pytest.mark.parametrize("milliseconds", [0, 200])
def test_opening_a_connection_takes_a_round_trip_before_the_first_byte(milliseconds: float) -> None:
    """As over a real line, where connect() waits for it. Here it cannot; so the first bytes do."""
    heard: list[float] = []

    def answer(client: socket.socket) -> None:
        while data := client.recv(100):
            heard.append(time.monotonic())
            client.sendall(data)

    way = milliseconds / 2000
    with far(answer, milliseconds) as port:
        began = time.monotonic()
        with connect(port.port) as client:
            client.sendall(b"first")
            assert client.recv(100) == b"first"
            answered = time.monotonic()
            client.sendall(b"second")
            assert client.recv(100) == b"second"
            again = time.monotonic()
    assert 3 * way <= heard[0] - began < 3 * way + LATE
    assert 4 * way <= answered - began < 4 * way + LATE
    assert way <= heard[1] - answered
    assert 2 * way <= again - answered < 2 * way + LATE


def test_who_speaks_late_has_the_opening_behind_him() -> None:
    took = []
    with far(echo, 200) as port, ExitStack() as stack:
        clients = [stack.enter_context(connect(port.port)) for _ in range(5)]
        time.sleep(0.25)  # the time itself is what is tested
        for client in clients:
            asked = time.monotonic()
            client.sendall(b"hello")
            assert read(client, 5) == b"hello"
            took.append(time.monotonic() - asked)
    assert 0.2 <= min(took) < 0.4, took


@pytest.mark.parametrize("ends", [False, True])
def test_a_server_speaks_when_the_connection_is_open_there(ends: bool) -> None:
    """The last of the three ways of the opening leads to it; its greeting is the fourth."""

    def greet(client: socket.socket) -> None:
        if not ends:
            client.sendall(b"hello")
            client.recv(1)

    with far(greet, 200) as port:
        began = time.monotonic()
        with connect(port.port) as client:
            assert client.recv(5) == (b"" if ends else b"hello")
            assert 0.4 <= time.monotonic() - began < 0.4 + LATE


def test_the_end_of_what_a_client_says_waits_for_the_opening_too() -> None:
    heard: list[float] = []

    def listen(client: socket.socket) -> None:
        assert client.recv(1) == b""
        heard.append(time.monotonic())

    with far(listen, 200) as port:
        began = time.monotonic()
        with connect(port.port) as client:
            client.shutdown(socket.SHUT_WR)
            assert client.recv(1) == b""
    assert 0.3 <= heard[0] - began < 0.3 + LATE


@pytest.mark.parametrize("direction", ["up", "down"])
def test_small_pieces_keep_their_order_and_their_intervals(direction: str) -> None:
    sent, came, received = [], [], []

    def say(to: socket.socket) -> None:
        for number in range(60):
            sent.append(time.monotonic())
            to.sendall(bytes([number]))
            time.sleep(0.005)
        to.shutdown(socket.SHUT_WR)

    def note(origin: socket.socket) -> None:
        while data := origin.recv(100):
            received.append(data)
            came.extend([time.monotonic()] * len(data))

    at_client, at_server = (say, note) if direction == "up" else (note, say)

    def converse(client: socket.socket) -> None:
        client.sendall(client.recv(1))
        at_server(client)

    with far(converse, 60) as port, connect(port.port) as client:
        client.sendall(b"!")
        assert client.recv(1) == b"!", "opened: what follows is not late with the opening"
        at_client(client)
        assert client.recv(1) == b""
    assert b"".join(received) == bytes(range(60))
    assert len(received) > 6, "they come one by one, as far as a busy machine can, not in a heap"
    late = [there - here - 0.03 for here, there in zip(sent, came, strict=True)]
    assert min(late) >= 0
    assert statistics.median(late) < 0.05, late


def test_an_answer_in_two_pieces_waits_for_no_acknowledgement() -> None:
    """As a head and a body are. The acknowledgement of the first would take 40 ms."""

    def answer(client: socket.socket) -> None:
        while client.recv(100):
            client.sendall(b"head")
            time.sleep(0.002)
            client.sendall(b"body")

    took = []
    with far(answer, 10) as port, connect(port.port) as client:
        for _ in range(15):
            asked = time.monotonic()
            client.sendall(b"question")
            assert read(client, 8) == b"headbody"
            took.append(time.monotonic() - asked)
    assert 0.012 <= statistics.median(took) < 0.040, took


def test_who_has_no_more_to_say_still_hears_the_whole_answer() -> None:
    answer = random.randbytes(2_000_000)

    def answer_at_the_end(client: socket.socket) -> None:
        client.sendall(hashlib.sha256(read(client)).digest() + answer)

    question = random.randbytes(300_000)
    with far(answer_at_the_end, 60) as port, connect(port.port) as client:
        client.sendall(question)
        asked = time.monotonic()
        client.shutdown(socket.SHUT_WR)
        assert read(client) == hashlib.sha256(question).digest() + answer
        assert time.monotonic() - asked >= 0.06


def test_a_reset_travels_behind_the_bytes() -> None:
    heard: list[tuple[bytes, float]] = []

    def listen_to_the_end(client: socket.socket) -> None:
        said = client.recv(100)
        with pytest.raises(ConnectionResetError):
            client.recv(100)
        heard.append((said, time.monotonic()))

    with far(listen_to_the_end, 100) as port:
        client = connect(port.port)
        client.sendall(b"last words")
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        reset = time.monotonic()
        client.close()
        eventually(lambda: heard)
    said, when = heard[0]
    assert said == b"last words"
    assert when - reset >= 0.05


def test_a_slow_reader_slows_the_sender_and_loses_nothing() -> None:
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
        began = time.monotonic()
        with connect(opened.port) as client, suppress(ConnectionResetError):
            assert client.recv(1) == b""
        assert 0.1 <= time.monotonic() - began < 0.1 + LATE, "to ask, and to be refused"


def test_many_connections_do_not_delay_each_other() -> None:
    """Not even when some of them are stuck."""

    def converse(client: socket.socket) -> None:
        if client.recv(1) == b"e":
            echo(client)
        else:
            with suppress(OSError):  # the client never reads
                while True:
                    client.sendall(bytes(64 * 1024))

    with far(converse, 100) as port, ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(connect(port.port)).sendall(b"s")
        clients = [stack.enter_context(connect(port.port)) for _ in range(60)]
        began = []
        for number, client in enumerate(clients):
            began.append(time.monotonic())
            client.sendall(b"e%d" % number)
        late = []
        for number, client in enumerate(clients):
            assert int(read(client, len(str(number)))) == number
            late.append(time.monotonic() - began[number] - 0.1)
    assert min(late) >= 0
    assert statistics.median(late) < LATE


def test_with_nobody_connected_it_ends_at_once() -> None:
    with far(echo, 10_000) as port:
        began = time.monotonic()
        port.close()
        assert time.monotonic() - began < 1
        with pytest.raises(ConnectionRefusedError):
            connect(port.port)


def test_what_is_under_way_arrives_although_it_closes() -> None:
    received = []

    def close_all(client: socket.socket) -> None:
        received.append(client.recv(100))
        client.sendall(b"goodbye")

    with far(close_all, 300) as port, connect(port.port) as client:
        client.sendall(b"hello")
        client.shutdown(socket.SHUT_WR)
        port.close()
        assert read(client) == b"goodbye"
    assert received == [b"hello"]


def test_who_knocked_before_it_closes_is_let_in() -> None:
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


def test_who_stays_is_cut_off() -> None:
    with far(echo, 20) as port, connect(port.port) as client:
        client.sendall(b"hello")
        assert read(client, 5) == b"hello"
        began = time.monotonic()
        port.close()
        assert time.monotonic() - began < 2
        with suppress(ConnectionResetError):
            assert client.recv(1) == b""


PARENT = """
import sys
from lab.far_ports import far_ports

with far_ports([100, 50], host="127.0.0.1", port=int(sys.argv[1])) as ports:
    print(*(far.port for far in ports), flush=True)
    sys.stdin.read()
"""


def test_it_ends_with_its_parent_even_a_killed_one() -> None:
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
    """Tell whether it runs: an orphan that has ended may stay a zombie in some containers."""
    with suppress(psutil.NoSuchProcess):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False


def test_it_leaves_ctrl_c_to_the_server_and_ends_on_sigterm() -> None:
    with far(echo, 20) as port, connect(port.port) as client:
        relay = psutil.Process(port._process.pid)
        assert os.getpgid(relay.pid) != os.getpgid(0), "the terminal's Ctrl-C does not reach it"
        relay.send_signal(signal.SIGINT)
        client.sendall(b"hello")
        assert read(client, 5) == b"hello"
        relay.send_signal(signal.SIGTERM)
        client.sendall(b"goodbye")
        client.shutdown(socket.SHUT_WR)
        assert read(client) == b"goodbye"
        assert relay.wait(HANG_TIMEOUT) == 0


def test_the_ports_follow_the_server_s_where_they_are_free() -> None:
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
                    client.sendall(b"hello")
                    assert read(client, 5) == b"hello"
            assert second != server + 2
            return (first, third) == (server + 1, server + 3)

    eventually(found)  # others, too, open ports on this machine


def test_beyond_the_last_port_it_takes_another() -> None:
    with far_ports([0, 0], host="127.0.0.1", port=65535) as ports:
        assert len({each.port for each in ports}) == 2


def addresses() -> list[str]:
    """Return all of this machine's addresses: loopback's, and those for others."""
    found = {
        each.address.partition("%")[0]
        for interface in psutil.net_if_addrs().values()
        for each in interface
        if each.family in (socket.AF_INET, socket.AF_INET6)
    }
    return sorted(address for address in found if not address.startswith("fe80"))


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["ipv4", "ipv6"])
def test_the_server_sees_at_which_address_the_client_came(family: socket.AddressFamily) -> None:
    """Who did not come by loopback has none of its rights."""
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


def test_a_name_will_do_for_a_host() -> None:
    with far(echo, 5, "localhost") as port, connect(port.port, "localhost") as client:
        client.sendall(b"hello")
        assert read(client, 5) == b"hello"


PATCHED = """
from gevent import monkey

monkey.patch_all()

import socket, sys, time
import gevent
from lab.far_ports import far_ports

def echo(client, _):
    while data := client.recv(100):
        client.sendall(data)

def tick():
    global ticks
    while True:
        ticks += 1
        gevent.sleep(0.001)

ticks = 0
from gevent.server import StreamServer
server = StreamServer(("127.0.0.1", 0), echo)
server.start()
gevent.spawn(tick)
with far_ports([100], host="127.0.0.1", port=server.server_port) as (far,):
    opened = ticks
    client = socket.create_connection(("127.0.0.1", far.port))
    began = time.monotonic()
    client.sendall(b"hello")
    assert client.recv(100) == b"hello"
    assert 0.1 <= time.monotonic() - began < 0.5
    client.close()
    ticks = 0
assert opened > 5, "others ran while it started"
assert ticks > 5, "others ran while it ended"
assert "asyncio" not in sys.modules, "the server need not pay for that"
print("well")
"""


def test_it_serves_a_parent_that_gevent_has_patched() -> None:
    parent = Program("-W", "error", "-c", PATCHED)
    assert parent.wait() == 0, parent.log
    assert (parent.out, parent.log) == (["well\n"], "")


def test_where_it_cannot_listen_it_says_so_in_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    with (
        pytest.raises(StartupError) as ended,
        far_ports([9, 99], host="nowhere.invalid", port=5000),
    ):
        pass
    assert str(ended.value) == "", "the relay has said why"
    lines = capfd.readouterr().err.splitlines()
    assert len(set(lines)) == 1
    assert lines[0].startswith("Cannot listen on nowhere.invalid for a far port: ")


def test_what_cannot_start_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(StartupError, match="Cannot start the relay of a far port: No such file"):
        FarPort(10, host="127.0.0.1", server_port=5000, prefer=0)


@pytest.mark.parametrize(
    "options",
    [
        "--server 5000",
        "--server 65536 --milliseconds 10",
        "--server 5000 --milliseconds nan",
        "--server 5000 --milliseconds 10 --port -1",
    ],
)
def test_as_a_program_it_refuses_what_makes_no_sense(options: str) -> None:
    relay = Program("-m", "lab.relay", *options.split())
    assert relay.wait() == 2
    assert "Traceback" not in relay.log


def test_as_a_program_it_helps() -> None:
    relay = Program("-m", "lab.relay", "--help")
    assert relay.wait() == 0
    assert "--milliseconds" in "".join(relay.out)


def test_too_many_connections_harm_nobody() -> None:
    """They wait for a descriptor, or are closed; the relay goes on."""

    def echo_to_who_may_not_listen(client: socket.socket) -> None:
        with suppress(ConnectionResetError):
            echo(client)

    with serving(echo_to_who_may_not_listen) as server:
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

        eventually(is_served)  # when those who left are forgotten
        assert relay.process.stdin is not None
        relay.process.stdin.close()
        assert relay.wait() == 0
    assert relay.log.count("\n") == 1, relay.log
    assert "out of system resource" in relay.log
