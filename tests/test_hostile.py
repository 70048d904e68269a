"""Hostile clients: other clients notice nothing, and nothing remains.

Each attack goes on while readings are published, and another push client receives each of them.
Its delays, the server's memory meanwhile, its descriptors afterwards and its log have limits.
"""

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from typing import Any, NamedTuple

import pytest

from tests.clients import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    RESET,
    TEXT,
    RawSocket,
    frame,
    handshake,
)
from tests.conftest import Server, eventually, starting
from tests.hosting import with_limits

#: Readings published during an attack. Nine in ten must arrive within this many seconds, and so
#: many times what they take without an attack: some hundredths of a second on a quiet machine.
UPDATES = 20
RECEIVED_WITHIN, TIMES_SLOWER = 0.2, 5
#: Seconds for an attack, and for each of its sockets, on a machine that does other things, too.
ATTACK_TIMEOUT = 180
#: So that an attack that is slow on a busy machine is not cut short.
PATIENT = with_limits(PING_INTERVAL=3600, HEADER_TIMEOUT=3600)
#: Bytes by which an attack may make the server grow: allocators keep some.
GROWTH = 5_000_000
#: Bytes of a connection that a greenlet serves: its stack, its buffers, its environ.
GREENLET = 40_000


class Target(NamedTuple):
    """A server, the attacked path, and whether that echoes messages."""

    server: Server
    path: str
    echoes: bool

    def publish(self, number: int) -> None:
        if self.echoes:
            response = self.server.http.request("POST", "/push", b"%d" % number)
            assert response.status == 200
        else:
            self.server.publish({"text": str(number)})

    def open(self, **options: Any) -> RawSocket:
        opened = RawSocket(self.server.port, self.path, **options)
        assert opened.status == 101
        opened.socket.settimeout(ATTACK_TIMEOUT)
        return opened

    def delay(self, witness: RawSocket, number: int) -> float:
        """Publish; return the seconds until the witness has received it."""
        began = time.monotonic()
        self.publish(number)
        while witness.json()["value"].get("text") != str(number):
            pass
        return time.monotonic() - began


@pytest.fixture(scope="module", params=["serve.py", "blocking"])
def target(request: pytest.FixtureRequest) -> Iterator[Target]:
    """A server that has already allocated what it needs once."""
    with starting() as start:
        if request.param == "blocking":
            server = start("tests/conversing.py", environment=PATIENT)
            target = Target(server, "/echo", echoes=True)
        else:
            server = start(request.param, "--source", "http", environment=PATIENT)
            target = Target(server, "/update", echoes=False)
        for number in range(50):
            with target.open() as warm:
                warm.send(frame(TEXT, b"x" * 65_536) + frame(PING) + frame(3))
                assert warm.close_code() == 1002
            target.publish(number)
        yield target


Attack = Callable[[Target, threading.Event], None]


def endures(target: Target, attack: Attack, *, growth: int) -> bool:
    """Attack repeatedly while readings are published; check the limits.

    Returns whether the readings were in time, which on a busy machine may take some tries.

    An attack that holds connections open does so until the event is set.
    """
    server, logged = target.server, len(target.server.log)
    eventually(lambda: settled(target))
    descriptors, memory = server.descriptors, server.memory
    enough, done_once = threading.Event(), threading.Event()
    errors: list[BaseException] = []

    def attack_until_enough() -> None:
        try:
            while not enough.is_set():
                attack(target, enough)
                done_once.set()
        except BaseException as error:
            errors.append(error)

    attacker = threading.Thread(target=attack_until_enough)
    delays: list[float] = []
    peak = memory
    with RawSocket(server.port, "/push" if target.echoes else "/update?carry=1") as witness:
        usual = nine_in_ten([target.delay(witness, -number) for number in range(1, UPDATES)])
        attacker.start()
        deadline = time.monotonic() + ATTACK_TIMEOUT
        try:
            while not errors and (len(delays) < UPDATES or not done_once.is_set()):
                assert time.monotonic() < deadline, "the attack does not end"
                delays.append(target.delay(witness, len(delays)))
                peak = max(peak, server.memory)
                if len(delays) >= UPDATES and attack in HOLDING:
                    done_once.set()
                time.sleep(0.005)
        finally:
            enough.set()
            attacker.join(ATTACK_TIMEOUT)
    assert not errors, errors
    assert peak - memory < growth, f"grew by {peak - memory:,} bytes"
    eventually(lambda: server.descriptors <= descriptors)
    assert "Traceback" not in server.log[logged:], server.log[logged:][:5000]
    return nine_in_ten(delays) < RECEIVED_WITHIN + TIMES_SLOWER * usual


def nine_in_ten(delays: list[float]) -> float:
    return sorted(delays)[len(delays) * 9 // 10]


def settled(target: Target) -> bool:
    """Return whether nothing is left of earlier attacks."""
    before = target.server.descriptors
    time.sleep(0.05)
    return before == target.server.descriptors


def receive(sock: RawSocket, opcode: int, count: int) -> None:
    """Read so many frames of one kind; reply to pings."""
    while count:
        got = sock.frame()
        assert got is not None
        assert got[0] != CLOSE, got
        if got[0] == PING:
            sock.send(frame(PONG, got[1]))
        count -= got[0] == opcode


# Attacks that hold connections open.


def never_read(target: Target, enough: threading.Event) -> None:
    """Twenty clients send without reading."""
    data = (frame(TEXT, b"x" * 1000) if target.echoes else frame(PING, b"x" * 125)) * 100
    with ExitStack() as stack:
        slow = [stack.enter_context(target.open(receive_buffer=1024)) for _ in range(20)]
        for each in slow:
            each.socket.settimeout(0)
        while not enough.is_set():
            for each in slow:
                with suppress(OSError):  # full, or dropped
                    each.socket.send(data)
            enough.wait(0.005)


def send_half_requests(target: Target, enough: threading.Event) -> None:
    with ExitStack() as stack:
        for number in range(1000):
            half = stack.enter_context(socket.create_connection(("127.0.0.1", target.server.port)))
            request = handshake(target.path)
            half.sendall(request[: 1 + number % (len(request) - 1)])
        enough.wait()


def send_half_messages(target: Target, enough: threading.Event) -> None:
    """Two hundred messages and as many frames remain incomplete."""
    with ExitStack() as stack:
        for _ in range(200):
            for half in (frame(TEXT, b"x" * 65_535, fin=False), frame(BINARY, b"x" * 99)[:50]):
                stack.enter_context(target.open(early=half))
        enough.wait()


HOLDING = (never_read, send_half_requests, send_half_messages)


# Attacks that end, and begin again.


def reset_five_hundred(target: Target, enough: threading.Event) -> None:
    opened = [target.open() for _ in range(500)]
    for each in opened:
        each.reset()


class Reader(threading.Thread):
    """Reads while another thread sends; replies to pings."""

    def __init__(self, sock: RawSocket) -> None:
        super().__init__(daemon=True)
        self.sock = sock
        self.code: int | None = None  #: of the server's close frame
        self.start()

    def run(self) -> None:
        with suppress(OSError, ValueError):  # reset, or closed by the test
            while (got := self.sock.frame()) is not None:
                if got[0] == CLOSE:
                    (self.code,) = struct.unpack("!H", got[1][:2])
                elif got[0] == PING:
                    self.sock.send(frame(PONG, got[1]))


def send_after_1009(sock: RawSocket, pieces: Iterable[bytes], *, within: int) -> None:
    """Send on after 1009, which must come `within` these bytes."""
    reader = Reader(sock)
    sock.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * 1024)
    sent = sent_until_closed = 0
    with suppress(ConnectionError):
        for piece in pieces:
            sock.send(piece)
            sent += len(piece)
            if reader.code is None:
                sent_until_closed = sent
    reader.join(ATTACK_TIMEOUT)
    assert reader.code == 1009
    assert sent_until_closed <= within


#: Bytes that the kernels may buffer before the close frame arrives.
BUFFERED = 8 * 2**20


def declare_2_62(target: Target, enough: threading.Event) -> None:
    with target.open() as sending:
        send_after_1009(sending, [frame(BINARY, length=2**62)], within=100)
    with target.open() as sending:
        pieces = [frame(BINARY, length=2**62), *[b"x" * 65_536] * 64]
        send_after_1009(sending, pieces, within=BUFFERED)


def send_64_mib_in_one(target: Target, enough: threading.Event) -> None:
    with target.open() as sending:
        pieces = [frame(TEXT, length=2**26), *[b"x" * 65_536] * 1024]
        send_after_1009(sending, pieces, within=BUFFERED)


def send_64_mib_in_fragments(target: Target, enough: threading.Event) -> None:
    with target.open() as sending:
        piece = frame(CONTINUATION, b"x" * 16_384, fin=False)
        pieces = [frame(TEXT, b"x", fin=False), *[piece] * 4096]
        send_after_1009(sending, pieces, within=BUFFERED)


def send_64_mib_of_messages(target: Target, enough: threading.Event) -> None:
    """They are allowed, but must not delay other clients."""
    piece = frame(TEXT, b"\xe2\x82\xac" * 21_845)
    with target.open() as sending:
        count = 1024 if target.echoes else 1
        reading = threading.Thread(target=receive, args=(sending, TEXT, count))
        reading.start()
        for _ in range(1024):
            sending.send(piece)
        reading.join()


def send_empty_fragments(target: Target, enough: threading.Event) -> None:
    empty = frame(CONTINUATION, fin=False)
    with target.open() as sending:
        sending.send(frame(TEXT, b"x", fin=False) + empty * 50_000)
        sending.send(frame(CONTINUATION) + frame(PING))
        receive(sending, PONG, 1)


def send_tiny_messages(target: Target, enough: threading.Event) -> None:
    with target.open() as sending:
        sending.send(frame(TEXT, b"x") * 10_000 + frame(PING))
        if target.echoes:
            receive(sending, TEXT, 10_000)
        else:
            receive(sending, PONG, 1)


def send_pings(target: Target, enough: threading.Event) -> None:
    with target.open() as sending:
        sending.send(frame(PING) * 10_000)
        receive(sending, PONG, 10_000)


def send_pings_too_early(target: Target, enough: threading.Event) -> None:
    with target.open(early=frame(PING) * 10_000) as sending:
        receive(sending, PONG, 10_000)


def send_handshakes_slowly(target: Target, enough: threading.Event) -> None:
    """Fifty at once, byte by byte."""
    request = handshake(target.path)
    with ExitStack() as stack:
        slow = [
            stack.enter_context(
                socket.create_connection(("127.0.0.1", target.server.port), ATTACK_TIMEOUT)
            )
            for _ in range(50)
        ]
        for byte in request:
            for each in slow:
                each.sendall(bytes([byte]))
            time.sleep(0.002)
        for each in slow:
            assert each.recv(12) == b"HTTP/1.1 101"


#: Each attack, and by how much it may make the hub grow, and a server of conversations.
ATTACKS = {
    never_read: (20 * GREENLET, 20 * GREENLET),
    send_half_requests: (1000 * GREENLET, 1000 * GREENLET),
    send_half_messages: (0, 200 * (2 * GREENLET + 65_536)),
    reset_five_hundred: (500 * 2048, 500 * GREENLET),
    send_handshakes_slowly: (50 * GREENLET, 50 * GREENLET),
    **dict.fromkeys((declare_2_62, send_64_mib_in_one, send_64_mib_in_fragments,
                     send_64_mib_of_messages, send_empty_fragments, send_tiny_messages,
                     send_pings, send_pings_too_early), (0, 0)),
}  # fmt: skip


@pytest.mark.alone
@pytest.mark.parametrize(
    ("attack", "growth"), ATTACKS.items(), ids=[attack.__name__ for attack in ATTACKS]
)
def test_attack(target: Target, attack: Attack, growth: tuple[int, int]) -> None:
    limit = GROWTH + growth[target.echoes]
    eventually(lambda: endures(target, attack, growth=limit), timeout=ATTACK_TIMEOUT)


#: Requests, whole and in part, before which a client closes its connection.
REQUESTS = {
    "a handshake": handshake("{path}"),
    "a handshake and frames": handshake("{path}") + frame(PING) * 100,
    "a bad handshake": handshake("{path}", changes={"Sec-WebSocket-Key": None}),
    "an unknown path": handshake("/nowhere"),
    "a long poll": b"GET {path}?timeout=1 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "two requests": b"GET /data HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 2,
    "nonsense": b"nonsense\r\n\r\n",
    "nothing": b"",
    "an empty line": b"\r\n",
    "an endless line": b"GET /" + b"x" * 20_000,
    "half a header": b"GET /data HTTP/1.1\r\nHo",
    "half a body": b"POST /data HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{",
    "half a chunk": b"POST /data HTTP/1.1\r\nHost: localhost\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n5\r\nab",
}


@pytest.mark.parametrize("reset", [True, False], ids=["reset", "closed"])
@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS)
def test_connections_closed_before_the_response(
    target: Target, request_: bytes, reset: bool
) -> None:
    descriptors, logged = target.server.descriptors, len(target.server.log)
    for _ in range(30):
        client = socket.create_connection(("127.0.0.1", target.server.port))
        client.sendall(request_.replace(b"{path}", target.path.encode()))
        if reset:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        client.close()
    eventually(lambda: target.server.descriptors <= descriptors)
    target.publish(0)
    assert "Traceback" not in target.server.log[logged:], target.server.log[logged:][:3000]
