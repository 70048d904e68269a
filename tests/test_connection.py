"""The blocking connection on a bare pair of sockets, with native threads and without gevent."""

import socket
import threading
import tracemalloc
from typing import Any

import pytest

from pushlab.websocket.connection import Connection, ConnectionClosed
from tests.clients import BINARY, CLOSE, PING, TEXT, frame

CONTINUATION = 0


class BareConnection(Connection):
    """The simplest server: the handshake is thought to be done, and pings are an hour away."""

    def __init__(self, sock: socket.socket, **options: Any) -> None:
        super().__init__(**{"ping_interval": 3600.0, **options})
        self.sock = sock

    def _open(self) -> tuple[Any, bytes]:
        return self.sock, b""


@pytest.fixture
def pair() -> Any:
    ours, theirs = socket.socketpair()
    theirs.settimeout(10)
    with ours, theirs:
        yield BareConnection(ours), theirs


def test_a_close_ends_receive_at_once(pair: Any) -> None:
    """It once waited for the next ping before it noticed."""
    connection, peer = pair
    peer.sendall(frame(TEXT, b"before") + frame(CLOSE, b"\x03\xe8") + frame(TEXT, b"after"))
    received: list[Any] = []
    reader = threading.Thread(
        target=lambda: received.extend([connection.receive(), connection.receive()])
    )
    reader.start()
    reader.join(5)
    assert received == ["before", None]
    assert peer.recv(100) == b"\x88\x02\x03\xe8"
    with pytest.raises(ConnectionClosed):
        connection.send("too late")


def test_what_comes_before_a_mistake_is_answered_before_it(pair: Any) -> None:
    connection, peer = pair
    peer.sendall(frame(TEXT, b"good") + frame(PING, b"p") + frame(TEXT, b"\xff"))
    assert connection.receive() == "good"
    connection.send("answer")
    assert connection.receive() is None
    answer = peer.recv(200)
    assert answer.startswith(b"\x81\x06answer" + b"\x8a\x01p" + b"\x88")
    assert answer[13:15] == b"\x03\xef"


def test_native_threads_may_send_at_once(pair: Any) -> None:
    connection, peer = pair
    connection.accept()
    senders = [
        threading.Thread(target=lambda c=c: [connection.send(c * 50_000) for _ in range(5)])
        for c in "abcdefgh"
    ]
    for sender in senders:
        sender.start()
    expected = 8 * 5 * (4 + 50_000)
    got = b""
    while len(got) < expected:
        got += peer.recv(65536)
    for sender in senders:
        sender.join()
    for start in range(0, expected, 50_004):
        assert got[start : start + 4] == b"\x81\x7e\xc3\x50"
        assert len(set(got[start + 4 : start + 50_004])) == 1


def test_fragments_of_nothing_take_no_memory(pair: Any) -> None:
    """They may go on for ever: the limit on a message's bytes never ends them."""
    connection, peer = pair
    hearing = threading.Thread(target=connection.receive)
    peer.sendall(frame(BINARY, b"x", fin=False))
    empty = frame(CONTINUATION, fin=False) * 1000
    tracemalloc.start()
    try:
        hearing.start()
        for _ in range(20):
            peer.sendall(empty)
        peer.sendall(frame(PING, b"all of them"))
        assert peer.recv(100).endswith(b"all of them")
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        peer.shutdown(socket.SHUT_RDWR)
        hearing.join()
    assert kept < 100_000
