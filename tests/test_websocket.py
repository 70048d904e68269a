"""RFC 6455 on both kinds of socket: the hub's, and the blocking one that routes converse over."""

import itertools
import struct
import threading
import time
from collections.abc import Iterator
from socket import SO_LINGER, SOL_SOCKET, create_connection

import pytest
from websockets.sync.client import connect

from tests.clients import BINARY, CLOSE, PING, PONG, TEXT, RawSocket, frame, handshake
from tests.conftest import Server, Start, eventually, starting

CONTINUATION = 0
BOTH = ("/echo", "/push")


@pytest.fixture(scope="module")
def conversing() -> Iterator[Server]:
    """The server in tests/conversing.py, whose log is expected to hold errors."""
    server = Server("tests/conversing.py")
    yield server
    assert server.stop() == 0


@pytest.fixture(scope="module")
def quiet() -> Iterator[Server]:
    """Another one, where nothing may be logged."""
    server = Server("tests/conversing.py")
    yield server
    assert server.stop() == 0
    assert server.log == ""


def close(code: int, reason: bytes = b"") -> bytes:
    return frame(CLOSE, struct.pack("!H", code) + reason)


# Handshake: who gets a 101, and what the others get.


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, 101),
        ({"Upgrade": "WebSocket"}, 101),
        ({"Connection": "keep-alive, Upgrade"}, 101),
        ({"Origin": None}, 101),
        ({"Sec-WebSocket-Version": None}, 426),
        ({"Sec-WebSocket-Version": "8"}, 426),
        ({"Sec-WebSocket-Version": "14"}, 426),
        ({"Sec-WebSocket-Key": None}, 400),
        ({"Sec-WebSocket-Key": ""}, 400),
        ({"Sec-WebSocket-Key": "AAAA"}, 400),
        ({"Sec-WebSocket-Key": "!" * 24}, 400),
        ({"Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=="}, 400),
        ({"Connection": "close"}, 400),
        ({"Host": None}, 400),
        ({"version": "HTTP/1.0"}, 400),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": ""}, 403),
        ({"Origin": "http://127.0.0.1"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Origin": "http://[bad"}, 403),
    ],
)
def test_handshake(server: Server, changes: dict[str, str | None], status: int) -> None:
    with RawSocket(server.port, changes=changes) as socket:
        assert socket.status == status
        if status == 101:
            assert socket.headers["Upgrade"] == "websocket"
            assert "cursor" in socket.json()
        else:
            assert b'{"error": "' in socket.body
        if status == 426:
            assert socket.headers["Sec-WebSocket-Version"] == "13"


def test_pages_of_this_host_may_connect(server: Server) -> None:
    with RawSocket(server.port, changes={"Origin": f"http://127.0.0.1:{server.port}"}) as socket:
        assert socket.status == 101


def test_pages_of_allowed_hosts_may_connect(start: Start, program: str) -> None:
    server = start(
        program, "--allow-origin", "https://A.example", "--allow-origin", "http://b:8080"
    )
    for origin, status in [
        ("https://a.example", 101),
        ("http://b:8080", 101),
        ("http://a.example", 403),
        ("http://b", 403),
    ]:
        with RawSocket(server.port, changes={"Origin": origin}) as socket:
            assert socket.status == status, origin


@pytest.mark.parametrize("path", ["/", "/data", "/nowhere", "/update/", "/healthz", "/static/x"])
def test_there_is_no_socket_elsewhere(server: Server, path: str) -> None:
    with RawSocket(server.port, path) as socket:
        assert socket.status == 404
        assert b'"error"' in socket.body


def test_an_upgrade_to_something_else_is_plain_http(server: Server) -> None:
    answer = server.http.get("/data", headers={"Connection": "Upgrade", "Upgrade": "h2c"})
    assert answer.status == 200


@pytest.mark.parametrize(
    ("path", "status"), [("/refuse", 403), ("/elsewhere", 302), ("/fail/at-once", 500),
                         ("/fail2/at-once", 500), ("/echo/x", 404)],
)  # fmt: skip
def test_a_route_can_refuse_before_the_101(conversing: Server, path: str, status: int) -> None:
    with RawSocket(conversing.port, path) as socket:
        assert socket.status == status


def test_a_route_that_leaves_its_socket_alone(quiet: Server) -> None:
    with RawSocket(quiet.port, "/untouched") as socket:
        assert socket.status == 101
        assert socket.close_code() == 1000


# Frames: what both kinds accept, and with what code they refuse the rest.

BAD = [
    ("unmasked", frame(TEXT, b"x", masked=False), 1002),
    ("unmasked ping", frame(PING, masked=False), 1002),
    ("reserved bit 1", frame(TEXT, b"x", reserved=4), 1002),
    ("reserved bit 2", frame(TEXT, b"x", reserved=2), 1002),
    ("reserved bit 3", frame(PING, reserved=1), 1002),
    ("opcode 3", frame(3, b"x"), 1002),
    ("opcode 11", frame(11), 1002),
    ("continuation of nothing", frame(CONTINUATION, b"x"), 1002),
    ("text inside a message", frame(TEXT, b"a", fin=False) + frame(TEXT, b"b"), 1002),
    ("fragmented ping", frame(PING, b"x", fin=False), 1002),
    ("ping of 126 bytes", frame(PING, b"x" * 126), 1002),
    ("length 1 in two bytes", b"\x81\xfe\x00\x01" + b"\0" * 4 + b"x", 1002),
    ("length 1 in eight bytes", b"\x81\xff" + b"\0" * 7 + b"\x01" + b"\0" * 4 + b"x", 1002),
    ("length with the first bit set", frame(TEXT, length=2**63), 1002),
    ("close with one byte", frame(CLOSE, b"\x03"), 1002),
    ("close 1005", close(1005), 1002),
    ("close 1006", close(1006), 1002),
    ("close 1015", close(1015), 1002),
    ("close 999", close(999), 1002),
    ("close 1004", close(1004), 1002),
    ("close 2999", close(2999), 1002),
    ("close 5000", close(5000), 1002),
    ("close with bad text", close(1000, b"\xff"), 1007),
    ("bad text", frame(TEXT, b"\xff"), 1007),
    ("text cut in a character", frame(TEXT, "€".encode()[:2]), 1007),
    ("a surrogate", frame(TEXT, b"\xed\xa0\x80"), 1007),
    ("overlong text", frame(TEXT, b"\xc0\xaf"), 1007),
    ("beyond Unicode", frame(TEXT, b"\xf4\x90\x80\x80"), 1007),
    ("bad text before the end", frame(TEXT, b"\xff" + b"x" * 99)[:20], 1007),
    ("bad text in a fragment", frame(TEXT, b"ok", fin=False) + frame(0, b"\xff", fin=False), 1007),
    ("65537 bytes declared", frame(BINARY, length=65537), 1009),
    ("2^62 bytes declared", frame(BINARY, length=2**62), 1009),
    ("65537 bytes in fragments",
     frame(BINARY, b"x" * 65536, fin=False) + frame(CONTINUATION, b"x")[:6], 1009),
]  # fmt: skip

GOOD_BYES = [
    ("close 1000", close(1000), 1000),
    ("close 1001 with a reason", close(1001, b"bye"), 1001),
    ("close 1009", close(1009), 1009),
    ("close 3000", close(3000), 3000),
    ("close 4999", close(4999, b"x" * 123), 4999),
    ("close without a code", frame(CLOSE), None),
    ("data after close", close(1000) + frame(TEXT, b"x") + frame(CLOSE), 1000),
]


@pytest.mark.parametrize(("data", "code"), [row[1:] for row in BAD + GOOD_BYES],
                         ids=[row[0] for row in BAD + GOOD_BYES])  # fmt: skip
@pytest.mark.parametrize("path", BOTH)
def test_close_codes(quiet: Server, path: str, data: bytes, code: int | None) -> None:
    with RawSocket(quiet.port, path) as socket:
        socket.send(data)
        assert socket.close_code() == code


@pytest.mark.parametrize("path", BOTH)
@pytest.mark.parametrize(
    "before",
    [b"", frame(TEXT, b"x" * 65536), frame(BINARY, b"\xff"), frame(PONG, b"unasked"),
     frame(TEXT, "€".encode()[:1], fin=False) + frame(PING) + frame(0, "€".encode()[1:])],
    ids=["nothing", "large text", "binary", "pong", "cut character"],
)  # fmt: skip
def test_pings_are_answered(quiet: Server, path: str, before: bytes) -> None:
    with RawSocket(quiet.port, path) as socket:
        socket.send(before + frame(PING, b"are you there?"))
        while (got := socket.frame()) != (PONG, b"are you there?"):
            assert got is not None


@pytest.mark.parametrize("path", BOTH)
def test_frames_may_come_byte_by_byte_or_all_at_once(quiet: Server, path: str) -> None:
    frames = frame(TEXT, b"a" * 200) + frame(PING, b"1") + frame(BINARY, b"") + frame(PING, b"2")
    with RawSocket(quiet.port, path) as socket:
        for byte in frames:
            socket.send(bytes([byte]))
        socket.send(frames)
        pongs: list[bytes] = []
        while len(pongs) < 4:
            opcode, payload = socket.frame() or pytest.fail("the stream ended")
            if opcode == PONG:
                pongs.append(payload)
        assert pongs == [b"1", b"2", b"1", b"2"]


@pytest.mark.parametrize("path", BOTH)
def test_frames_sent_with_the_handshake_are_not_lost(quiet: Server, path: str) -> None:
    with RawSocket(quiet.port, path, early=frame(PING, b"early")) as socket:
        while (got := socket.frame()) != (PONG, b"early"):
            assert got is not None


@pytest.mark.parametrize(
    "message", ["", "x", "€" * 20_000, "x" * 65536, b"", b"\x00\xff" * 30_000, b"x" * 65536]
)
def test_echo(quiet: Server, message: str | bytes) -> None:
    with connect(f"{quiet.ws}/echo") as socket:
        socket.send(message)
        assert socket.recv(5) == message


def test_echo_of_fragments(quiet: Server) -> None:
    with connect(f"{quiet.ws}/echo") as socket:
        socket.send(["Lorem ", "", "ipsum ", "€"])
        assert socket.recv(5) == "Lorem ipsum €"


def test_echo_through_flask_sockets_with_a_variable(quiet: Server) -> None:
    with connect(f"{quiet.ws}/echo/3") as socket:
        socket.send("x")
        assert [socket.recv(5) for _ in range(3)] == ["x"] * 3


def test_senders_do_not_mix_their_frames(quiet: Server) -> None:
    with connect(f"{quiet.ws}/many-senders", max_size=None) as socket:
        messages = sorted(str(socket.recv(5)) for _ in range(100))
    assert messages == sorted(letter * 100_000 for letter in "abcdefghij" * 10)


# Closing.


@pytest.mark.parametrize("code", [1000, 1008, 3456, 4002])
def test_a_route_closes_with_a_code_and_a_reason(quiet: Server, code: int) -> None:
    with connect(f"{quiet.ws}/goodbye/{code}") as socket:
        with pytest.raises(Exception, match="server says so"):
            socket.recv(5)
        assert (socket.close_code, socket.close_reason) == (code, "server says so")


def test_sending_after_close_ends_the_route(conversing: Server) -> None:
    with RawSocket(conversing.port, "/after-close") as socket:
        assert socket.close_code() == 1000


@pytest.mark.parametrize("path", ["/fail/later", "/fail2/later"])
def test_an_error_of_ours_is_1011(conversing: Server, path: str) -> None:
    with RawSocket(conversing.port, path) as socket:
        socket.send(frame(TEXT, b"x"))
        assert socket.close_code() == 1011
    eventually(lambda: "on purpose" in conversing.log)


@pytest.mark.parametrize("path", BOTH)
def test_a_reset_goes_unnoticed(quiet: Server, path: str) -> None:
    for early in (b"", frame(TEXT, b"half a frame")[:5]):
        socket = RawSocket(quiet.port, path, early=early)
        socket.socket.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))  # reset
        socket.close()
    eventually(lambda: quiet.http.get("/members").body == b"0")


@pytest.mark.parametrize("path", [*BOTH, "/untouched", "/goodbye/4000", "/echo/3"])
def test_leaving_before_the_101_goes_unnoticed(quiet: Server, path: str) -> None:
    for early in (b"", frame(TEXT, b"half a frame")[:5]) * 10:
        hasty = create_connection(("127.0.0.1", quiet.port))
        hasty.sendall(handshake(path, "127.0.0.1", {}) + early)
        hasty.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
        hasty.close()
    eventually(lambda: quiet.http.get("/members").body == b"0")


def test_a_full_hub_says_try_again_later(quiet: Server) -> None:
    eventually(lambda: quiet.http.get("/members").body == b"0")
    members = [RawSocket(quiet.port, "/push") for _ in range(4)]
    with RawSocket(quiet.port, "/push") as fifth:
        assert fifth.close_code() == 1013
    members.pop().close()
    eventually(lambda: int(quiet.http.get("/members").body) < 4)
    members.append(RawSocket(quiet.port, "/push"))
    assert "cursor" in members[-1].json()
    for member in members:
        member.close()


# Silence. In tests/conversing.py a ping comes at least every second.


@pytest.mark.parametrize("path", BOTH)
def test_the_server_pings_and_a_pong_keeps_the_connection(quiet: Server, path: str) -> None:
    with RawSocket(quiet.port, path) as socket:
        pings = 0
        while pings < 4:
            opcode, payload = socket.frame() or pytest.fail("dropped although it answered")
            if opcode == PING:
                pings += 1
                socket.send(frame(PONG, payload))


@pytest.mark.parametrize("path", BOTH)
def test_a_peer_that_does_not_answer_is_gone(quiet: Server, path: str) -> None:
    with RawSocket(quiet.port, path) as socket:
        start = time.monotonic()
        seen = []
        while (got := socket.frame()) is not None:
            seen.append(got[0])
        assert PING in seen
        assert time.monotonic() - start < 10
    eventually(lambda: quiet.http.get("/members").body == b"0")


def test_one_who_never_reads_is_dropped_and_delays_nobody(quiet: Server) -> None:
    """The sluggish browser's buffers are filled with large readings; the others get each."""
    eventually(lambda: quiet.http.get("/members").body == b"0")
    with RawSocket(quiet.port, "/push", receive_buffer=4096) as sluggish, \
            RawSocket(quiet.port, "/push") as other:  # fmt: skip
        assert sluggish.status == 101
        other.json()
        numbers = itertools.count()

        def tell_both() -> float:
            """Return the seconds until the other one, who answers its pings, has been told."""
            text = f"{next(numbers):5}" + "x" * 15_000
            start = time.monotonic()
            quiet.http.request("POST", "/push", text.encode())
            assert other.json()["value"]["text"] == text
            return time.monotonic() - start

        assert max(tell_both() for _ in range(100)) < 1.0
        # It misses its pings behind all that, and is dropped...
        eventually(lambda: tell_both() and quiet.http.get("/members").body == b"1")
        # ...having been sent far less than the 1.5 MB that the other one got.
        received = 0
        try:
            while data := sluggish.socket.recv(65536):
                received += len(data)
        except ConnectionResetError:
            pass
        assert received < 300_000


def test_one_who_reads_late_gets_the_newest_and_no_backlog(server: Server) -> None:
    with RawSocket(server.port, "/update?carry=1", receive_buffer=4096) as late:
        late.json()  # what was the newest before
        for number in range(60):  # long before it would have to answer a ping
            server.publish({"number": number, "text": "x" * 15_000})
        numbers: list[int] = []
        while not numbers or numbers[-1] < 59:
            numbers.append(late.json()["value"]["number"])
        assert numbers == sorted(set(numbers))
        assert len(numbers) < 20


def test_a_client_that_pings_and_never_reads_costs_nothing(quiet: Server) -> None:
    before = quiet.memory
    with RawSocket(quiet.port, "/push", receive_buffer=4096) as flood:
        flood.socket.settimeout(0.5)
        try:
            for _ in range(2000):
                flood.send(frame(PING, b"x" * 125) * 100)
        except OSError:
            pass  # it was no longer read from, or dropped
        assert quiet.memory - before < 4_000_000
    with RawSocket(quiet.port, "/push") as other:
        assert "cursor" in other.json()


# Farewell.


@pytest.mark.parametrize("path", BOTH)
def test_conversations_and_pushes_end_with_1001(start: Start, path: str) -> None:
    server = start("tests/conversing.py")
    with connect(f"{server.ws}{path}") as socket:
        if path == "/push":
            socket.recv(5)
        stopping = threading.Thread(target=server.stop)
        begun = time.monotonic()
        stopping.start()
        with pytest.raises(Exception, match="1001"):
            socket.recv(5)
        stopping.join()
    assert server.process.returncode == 0
    assert time.monotonic() - begun < 2


def test_sigterm_with_sockets_and_polls(program: str) -> None:
    with starting() as start:
        server = start(program, "--source", "http")
        cursor = server.publish({"n": 1})
        polls = [server.ask(f"/update?after={cursor}") for _ in range(3)]
        with RawSocket(server.port) as raw, connect(f"{server.ws}/update") as socket:
            raw.json(), socket.recv(5)  # who came before is being served, too
            begun = time.monotonic()
            stopping = threading.Thread(target=server.stop)
            stopping.start()
            while (got := raw.frame()) is not None and got[0] != CLOSE:
                pass
            assert got == (CLOSE, b"\x03\xe9")  # 1001; this one never answers, the others do
            with pytest.raises(Exception, match="1001"):
                socket.recv(5)
            for poll in polls:
                assert poll.recv(4096).startswith(b"HTTP/1.1 204 ")
                poll.close()
            stopping.join()
        assert time.monotonic() - begun < 5
        assert server.process.returncode == 0
        assert server.log == ""
