"""Whatever one client does, the others notice nothing, and nothing of it stays.

Each attack goes on while readings are published, one after the other, and another push client
is told of each of them. How long that took, what memory the server needed meanwhile, which
descriptors it still has afterwards and what it logged are compared with what is allowed.
"""

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from typing import Any, NamedTuple

import psutil
import pytest

from tests.clients import BINARY, CLOSE, PING, PONG, TEXT, RawSocket, frame, handshake
from tests.conftest import Server, eventually, starting

pytestmark = pytest.mark.alone

CONTINUATION = 0

#: Readings published during an attack, and seconds within which nine in ten must be told: some
#: hundredths on a quiet machine.
UPDATES = 20
TOLD_WITHIN = 0.25
#: Bytes by which an attack may make the server grow: something, since allocators keep some slack.
GROWTH = 5_000_000
#: What a connection may cost that a greenlet serves: its stack, its buffers, its environ.
GREENLET = 40_000


class Scene(NamedTuple):
    """A server, where it is attacked, and where another client is told of readings meanwhile."""

    server: Server
    path: str
    echoes: bool

    def publish(self, number: int) -> None:
        if self.echoes:
            answer = self.server.http.request("POST", "/push", b"%d" % number)
            assert answer.status == 200
        else:
            self.server.publish({"text": str(number)})

    def open(self, **options: Any) -> RawSocket:
        opened = RawSocket(self.server.port, self.path, **options)
        assert opened.status == 101
        return opened

    @property
    def descriptors(self) -> int:
        return int(psutil.Process(self.server.process.pid).num_fds())


@pytest.fixture(scope="module", params=["serve.py", "blocking"])
def scene(request: pytest.FixtureRequest) -> Iterator[Scene]:
    """A server that has seen some of everything: what is needed once is not an attack's growth."""
    with starting() as start:
        if request.param == "blocking":
            scene = Scene(start("tests/conversing.py"), "/echo", echoes=True)
        else:
            scene = Scene(start(request.param, "--source", "http"), "/update", echoes=False)
        for number in range(50):
            with scene.open() as warm:
                warm.send(frame(TEXT, b"x" * 65_536) + frame(PING) + frame(3))
                assert warm.close_code() == 1002
            scene.publish(number)
        yield scene


Attack = Callable[[Scene, threading.Event], None]


def endure(scene: Scene, attack: Attack, *, growth: int = GROWTH) -> None:
    """Attack again and again while readings are published; then see what they did to others.

    An attack that holds something open does so until the event is set.
    """
    server, log_before = scene.server, scene.server.log
    eventually(lambda: settled(scene))
    descriptors, memory = scene.descriptors, server.memory
    enough, done_once = threading.Event(), threading.Event()
    errors: list[BaseException] = []

    def attack_until_enough() -> None:
        try:
            while not enough.is_set():
                attack(scene, enough)
                done_once.set()
        except BaseException as error:
            errors.append(error)

    attacker = threading.Thread(target=attack_until_enough)
    path = "/push" if scene.echoes else "/update?carry=1"
    delays: list[float] = []
    peak = memory
    with RawSocket(server.port, path) as witness:
        attacker.start()
        deadline = time.monotonic() + 30
        try:
            while not errors and (len(delays) < UPDATES or not done_once.is_set()):
                assert time.monotonic() < deadline, "the attack does not come to its end"
                began = time.monotonic()
                scene.publish(len(delays))
                while witness.json()["value"].get("text") != str(len(delays)):
                    pass
                delays.append(time.monotonic() - began)
                peak = max(peak, server.memory)
                if len(delays) >= UPDATES and attack in HOLDING:
                    done_once.set()
                time.sleep(0.02)
        finally:
            enough.set()
            attacker.join(30)
    assert not errors, errors
    slow = sorted(delays)[len(delays) * 9 // 10 :]
    assert slow[0] < TOLD_WITHIN, f"told after {[round(delay, 3) for delay in delays]} s"
    assert peak - memory < growth, f"grew by {peak - memory:,} bytes"
    eventually(lambda: scene.descriptors <= descriptors)
    assert "Traceback" not in server.log[len(log_before) :], server.log[len(log_before) :][:5000]


def settled(scene: Scene) -> bool:
    """Nothing is left of what came before."""
    now = scene.descriptors
    time.sleep(0.05)
    return now == scene.descriptors


def reset(sock: RawSocket) -> None:
    """Leave as a crashed machine does: no FIN, no close frame, only a reset."""
    sock.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def answers(sock: RawSocket, opcode: int, count: int) -> None:
    """Read so many frames of one kind, whatever comes between."""
    while count:
        got = sock.frame()
        assert got is not None
        assert got[0] != CLOSE, got
        if got[0] == PING:
            sock.send(frame(PONG, got[1]))
        count -= got[0] == opcode


# Attacks that hold on until it is enough.


def never_read(scene: Scene, enough: threading.Event) -> None:
    """Twenty send as long as the server takes it, and read none of the answers."""
    data = (frame(TEXT, b"x" * 1000) if scene.echoes else frame(PING, b"x" * 125)) * 100
    with ExitStack() as stack:
        sluggish = [stack.enter_context(scene.open(receive_buffer=1024)) for _ in range(20)]
        for each in sluggish:
            each.socket.settimeout(0)
        while not enough.is_set():
            for each in sluggish:
                with suppress(OSError):  # full, or dropped
                    each.socket.send(data)
            enough.wait(0.005)


def send_half_requests(scene: Scene, enough: threading.Event) -> None:
    with ExitStack() as stack:
        for number in range(1000):
            half = stack.enter_context(socket.create_connection(("127.0.0.1", scene.server.port)))
            request = handshake(scene.path, "127.0.0.1", {})
            half.sendall(request[: 1 + number % (len(request) - 1)])
        enough.wait()


def send_half_messages(scene: Scene, enough: threading.Event) -> None:
    """Two hundred messages that lack their last byte, and as many frames that lack more."""
    with ExitStack() as stack:
        for _ in range(200):
            for half in (frame(TEXT, b"x" * 65_535, fin=False), frame(BINARY, b"x" * 99)[:50]):
                stack.enter_context(scene.open(early=half))
        enough.wait()


HOLDING = (never_read, send_half_requests, send_half_messages)


def test_clients_that_never_read(scene: Scene) -> None:
    endure(scene, never_read, growth=GROWTH + 20 * GREENLET)


def test_a_thousand_half_sent_requests(scene: Scene) -> None:
    endure(scene, send_half_requests, growth=GROWTH + 1000 * GREENLET)


def test_hundreds_of_half_sent_messages(scene: Scene) -> None:
    kept = 200 * (2 * GREENLET + 65_536) if scene.echoes else 0
    endure(scene, send_half_messages, growth=GROWTH + kept)


# Attacks that come to an end, and begin again.


def reset_five_hundred(scene: Scene, enough: threading.Event) -> None:
    opened = [scene.open() for _ in range(500)]
    for each in opened:
        reset(each)


def test_five_hundred_resets(scene: Scene) -> None:
    endure(
        scene, reset_five_hundred, growth=GROWTH + (500 * GREENLET if scene.echoes else 500 * 2048)
    )


class Listener(threading.Thread):
    """Reads what a connection is told while another thread sends on it; answers pings."""

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


def send_in_spite(sock: RawSocket, pieces: Iterable[bytes], *, within: int) -> None:
    """Go on sending after the refusal with 1009, which must come `within` so many bytes."""
    listener = Listener(sock)
    sock.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * 1024)
    sent = sent_until_refused = 0
    with suppress(ConnectionError):
        for piece in pieces:
            sock.send(piece)
            sent += len(piece)
            if listener.code is None:
                sent_until_refused = sent
    listener.join(10)
    assert listener.code == 1009
    assert sent_until_refused <= within


#: Bytes that are under way, in the kernels' buffers, before a refusal can be seen.
UNDER_WAY = 8 * 2**20


def declare_2_62(scene: Scene, enough: threading.Event) -> None:
    with scene.open() as sending:
        send_in_spite(sending, [frame(BINARY, length=2**62)], within=100)
    with scene.open() as sending:
        pieces = [frame(BINARY, length=2**62), *[b"x" * 65_536] * 64]
        send_in_spite(sending, pieces, within=UNDER_WAY)


def send_64_mib_in_one(scene: Scene, enough: threading.Event) -> None:
    with scene.open() as sending:
        pieces = [frame(TEXT, length=2**26), *[b"x" * 65_536] * 1024]
        send_in_spite(sending, pieces, within=UNDER_WAY)


def send_64_mib_in_fragments(scene: Scene, enough: threading.Event) -> None:
    with scene.open() as sending:
        piece = frame(CONTINUATION, b"x" * 16_384, fin=False)
        pieces = [frame(TEXT, b"x", fin=False), *[piece] * 4096]
        send_in_spite(sending, pieces, within=UNDER_WAY)


def send_64_mib_of_messages(scene: Scene, enough: threading.Event) -> None:
    """Nothing forbids that; but nobody else may have to wait for it."""
    piece = frame(TEXT, b"\xe2\x82\xac" * 21_845)
    with scene.open() as sending:
        reading = threading.Thread(
            target=answers, args=(sending, TEXT, 1024 if scene.echoes else 1)
        )
        reading.start()
        for _ in range(1024):
            sending.send(piece)
        reading.join()


def send_empty_fragments(scene: Scene, enough: threading.Event) -> None:
    empty = frame(CONTINUATION, fin=False)
    with scene.open() as sending:
        sending.send(frame(TEXT, b"x", fin=False) + empty * 50_000)
        sending.send(frame(CONTINUATION) + frame(PING))
        answers(sending, PONG, 1)


def send_tiny_messages(scene: Scene, enough: threading.Event) -> None:
    with scene.open() as sending:
        sending.send(frame(TEXT, b"x") * 10_000 + frame(PING))
        if scene.echoes:
            answers(sending, TEXT, 10_000)
        else:
            answers(sending, PONG, 1)


def send_pings(scene: Scene, enough: threading.Event) -> None:
    with scene.open() as sending:
        sending.send(frame(PING) * 10_000)
        answers(sending, PONG, 10_000)


def send_pings_too_early(scene: Scene, enough: threading.Event) -> None:
    with scene.open(early=frame(PING) * 10_000) as sending:
        answers(sending, PONG, 10_000)


def shake_hands_slowly(scene: Scene, enough: threading.Event) -> None:
    """Fifty at once, byte by byte."""
    request = handshake(scene.path, f"127.0.0.1:{scene.server.port}", {})
    with ExitStack() as stack:
        slow = [
            stack.enter_context(socket.create_connection(("127.0.0.1", scene.server.port), 15))
            for _ in range(50)
        ]
        for byte in request:
            for each in slow:
                each.sendall(bytes([byte]))
            time.sleep(0.002)
        for each in slow:
            assert each.recv(12) == b"HTTP/1.1 101"


@pytest.mark.parametrize(
    ("attack", "held"),
    [(declare_2_62, 0), (send_64_mib_in_one, 0), (send_64_mib_in_fragments, 0),
     (send_64_mib_of_messages, 0), (send_empty_fragments, 0), (send_tiny_messages, 0),
     (send_pings, 0), (send_pings_too_early, 0), (shake_hands_slowly, 50)],
)  # fmt: skip
def test_attack(scene: Scene, attack: Attack, held: int) -> None:
    endure(scene, attack, growth=GROWTH + held * GREENLET)


#: What is asked by one who has gone before the answer comes.
ASKED = {
    "a handshake": handshake("{path}", "127.0.0.1", {}),
    "a handshake and frames": handshake("{path}", "127.0.0.1", {}) + frame(PING) * 100,
    "a bad handshake": handshake("{path}", "127.0.0.1", {"Sec-WebSocket-Key": None}),
    "an unknown path": handshake("/nowhere", "127.0.0.1", {}),
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


@pytest.mark.parametrize("reset_it", [True, False], ids=["reset", "closed"])
@pytest.mark.parametrize("asked", ASKED.values(), ids=ASKED)
def test_those_who_leave_before_the_answer(scene: Scene, asked: bytes, reset_it: bool) -> None:
    descriptors, logged = scene.descriptors, len(scene.server.log)
    for _ in range(30):
        leaving = socket.create_connection(("127.0.0.1", scene.server.port))
        leaving.sendall(asked.replace(b"{path}", scene.path.encode()))
        if reset_it:
            leaving.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        leaving.close()
    eventually(lambda: scene.descriptors <= descriptors)
    scene.publish(0)
    assert "Traceback" not in scene.server.log[logged:], scene.server.log[logged:][:3000]
