"""The blocking connection on a pair of sockets, without gevent."""

import socket
import threading
import tracemalloc
from typing import Any

import pytest

from pushlab.websocket.connection import Connection, ConnectionClosed
from tests.clients import BINARY, CONTINUATION, HANG_TIMEOUT, PING, TEXT, close_frame, frame


class BareConnection(Connection):
    """A connection after its handshake, with an hour between pings."""

    def __init__(self, sock: socket.socket, **options: Any) -> None:
        super().__init__(**{"ping_interval": 3600.0, **options})
        self.sock = sock

    def _open(self) -> tuple[Any, bytes]:
        return self.sock, b""


@pytest.fixture
def pair() -> Any:
    ours, theirs = socket.socketpair()
    theirs.settimeout(HANG_TIMEOUT)
    with ours, theirs:
        yield BareConnection(ours), theirs


def test_a_close_ends_receive_at_once(pair: Any) -> None:
    """Not only with the next ping, as it once was."""
    connection, client = pair
    client.sendall(frame(TEXT, b"before") + close_frame(1000) + frame(TEXT, b"after"))
    received: list[Any] = []
    reader = threading.Thread(
        target=lambda: received.extend([connection.receive(), connection.receive()])
    )
    reader.start()
    reader.join()
    assert received == ["before", None]
    assert client.recv(100) == b"\x88\x02\x03\xe8"
    with pytest.raises(ConnectionClosed):
        connection.send("too late")


def test_frames_before_a_protocol_error_are_replied_to_before_it(pair: Any) -> None:
    connection, client = pair
    client.sendall(frame(TEXT, b"good") + frame(PING, b"p") + frame(TEXT, b"\xff"))
    assert connection.receive() == "good"
    connection.send("reply!")
    assert connection.receive() is None
    received = client.recv(200)
    assert received.startswith(b"\x81\x06reply!" + b"\x8a\x01p" + b"\x88")
    assert received[13:15] == b"\x03\xef"


def test_empty_fragments_take_no_memory(pair: Any) -> None:
    """Their number has no limit, as they add no bytes."""
    connection, client = pair
    receiving = threading.Thread(target=connection.receive)
    client.sendall(frame(BINARY, b"x", fin=False))
    empty = frame(CONTINUATION, fin=False) * 1000
    tracemalloc.start()
    try:
        receiving.start()
        for _ in range(20):
            client.sendall(empty)
        client.sendall(frame(PING, b"all of them"))
        assert client.recv(100).endswith(b"all of them")
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        client.shutdown(socket.SHUT_RDWR)
        receiving.join()
    assert kept < 100_000
