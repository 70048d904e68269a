"""Connections of the gevent server in every state: whose they are, and what they get."""

import json
import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import psutil
import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from tests.clients import PING, PONG, RESET, TEXT, UPGRADE, Wire, frame
from tests.conftest import Server, Start, eventually, starting
from tests.hosting import with_limits

MORE = int(os.environ.get("PUSHLAB_FUZZ", "0"))

#: What nobody has: only the request that asks is there.
NOBODY = {"wheel": 0, "greenlets": 1, "hub": 0, "held": 0, "waiting": 0, "writing": 0, "wrong": []}

HANDSHAKE = "".join(f"{name}: {value}\r\n" for name, value in UPGRADE.items())
STREAM = "Accept: text/event-stream\r\n"
OLD = "Connection: keep-alive\r\n"
VIA_FLASK = "X_Unusual: 1\r\n"

#: By name: request line without version, its version, headers and body; CURSOR is the newest.
REQUESTS = {
    "data": ("GET /data", "1.1", "", b""),
    "data, through Flask": ("GET /data", "1.1", VIA_FLASK, b""),
    "data, long headers": ("GET /data", "1.1", f"X-Long: {'x' * 9000}\r\n", b""),
    "data, HTTP/1.0": ("GET /data", "1.0", OLD, b""),
    "head": ("HEAD /data", "1.1", "", b""),
    "missing": ("GET /missing", "1.1", "", b""),
    "body": ("POST /data", "1.1", "Content-Length: 3\r\n", b"[1]"),
    "chunks": ("POST /data", "1.1", "Transfer-Encoding: chunked\r\n", b"3\r\n[1]\r\n0\r\n\r\n"),
    "expect": ("POST /data", "1.1", "Content-Length: 3\r\nExpect: 100-continue\r\n", b"[1]"),
    "poll": ("GET /update?after=CURSOR", "1.1", "", b""),
    "poll, carry": ("GET /update?carry=1&after=CURSOR", "1.1", "", b""),
    "poll, through Flask": ("GET /update?after=CURSOR", "1.1", VIA_FLASK, b""),
    "poll, HTTP/1.0": ("GET /update?after=CURSOR", "1.0", OLD, b""),
    "poll, lane": ("GET /update?after=CURSOR&lane=l1-longpoll", "1.1", "", b""),
    "poll, over at once": ("GET /update?after=CURSOR&timeout=0", "1.1", "", b""),
    "poll, over soon": ("GET /update?after=CURSOR&timeout=0.05", "1.1", "", b""),
    "poll, head": ("HEAD /update?after=CURSOR&timeout=0.05", "1.1", "", b""),
    "last": ("GET /data", "1.1", "Connection: close\r\n", b""),
    "last poll": ("GET /update?after=CURSOR", "1.1", "Connection: close\r\n", b""),
    "stream": ("GET /update?after=CURSOR", "1.1", STREAM, b""),
    "stream, lane": ("GET /update?after=CURSOR&lane=l1-sse", "1.1", STREAM, b""),
    "websocket": ("GET /update?after=CURSOR", "1.1", HANDSHAKE, b""),
    "websocket, early": ("GET /update?after=CURSOR", "1.1", HANDSHAKE, frame(PING, b"early")),
}

#: The status of those that need not wait for news.
STATUS = {
    "data": 200, "head": 200, "missing": 404, "body": 400, "chunks": 400, "expect": 400,
    "last": 200, "stream": 200, "websocket": 101,
}  # fmt: skip


def holds(kind: str) -> bool:
    """Tell whether a request is held until there is news."""
    return "poll" in kind and not kind.endswith(("over at once", "over soon", "head"))


class Client(Wire):
    """A connection that sends requests in pieces, and reads the responses."""

    def __init__(self, server: Server) -> None:
        super().__init__(server.port, wrap=server.wrap)
        self._server = server
        self._unsent = b""
        self._ends: list[tuple[str, str, int]] = []  # requests by the bytes behind them
        self.pending: list[tuple[str, str]] = []  # without a response
        self.takes_requests = True
        self.became = ""

    @property
    def has_unsent(self) -> bool:
        return bool(self._unsent)

    def __repr__(self) -> str:
        return f"<{self._ends}, pending {self.pending}, {self.became}>"

    def add(self, kind: str, cursor: str) -> None:
        """Note a request to send."""
        line, version, headers, body = REQUESTS[kind]
        host = f"Host: 127.0.0.1:{self._server.port}\r\n"
        head = f"{line} HTTP/{version}\r\n{host}{headers}\r\n".replace("CURSOR", cursor)
        self._unsent += head.encode() + body
        self._ends.append((kind, cursor, len(self._unsent)))
        self.takes_requests = not kind.startswith(("last", "stream", "websocket"))

    def send(self, size: int) -> None:
        piece, self._unsent = self._unsent[:size], self._unsent[size:]
        self.socket.sendall(piece)
        ends = [(kind, cursor, end - len(piece)) for kind, cursor, end in self._ends]
        self.pending += [(kind, cursor) for kind, cursor, end in ends if end <= 0]
        self._ends = [each for each in ends if each[2] > 0]

    def read(self, cursors: list[str]) -> None:
        """Read each response that must be there, and no more."""
        while self.pending:
            kind, after = self.pending[0]
            if holds(kind) and after == cursors[-1]:
                return
            del self.pending[0]
            self._read_response(kind, after, cursors)
        if self.became:
            self.read_to_news(cursors[-1])

    def _read_response(self, kind: str, after: str, cursors: list[str]) -> None:
        status, headers = self.head()
        if kind == "expect":
            assert status == 100
            status, headers = self.head()
        self.became = kind if kind.startswith(("stream", "websocket")) else ""
        if self.became:
            assert status == STATUS[kind.partition(",")[0]]
            self.seen = after
            if kind == "websocket, early":
                self._until_frame(PONG, b"early")
            return
        body = (
            self._reader.read(int(headers.get("Content-Length", 0)))
            if "HEAD" not in REQUESTS[kind][0]
            else b""
        )
        if "poll" not in kind:
            assert status == STATUS[kind.partition(",")[0]], (kind, status, body)
        elif after == cursors[-1]:
            assert status == 204, (kind, status, body)
        elif status != 204 or holds(kind):  # the others may have been over before the news
            assert status == 200, (kind, status, body)
            news = cursors[cursors.index(after) + 1 :]
            assert kind == "poll, head" or any(cursor.encode() in body for cursor in news), body
        if kind.startswith("last"):
            assert self._reader.read() == b"", "nothing follows the last response"

    def read_to_news(self, cursor: str) -> None:
        """Read a stream, or a WebSocket, up to the newest reading."""
        while self.seen != cursor:
            if self.became.startswith("stream"):
                if (line := self._reader.readline()).startswith(b"id: "):
                    self.seen = line[4:].strip().decode()
                assert line, "the stream ended"
            else:
                self._until_frame(TEXT)

    def _until_frame(self, wanted: int, payload: bytes | None = None) -> None:
        while True:
            head = self._reader.read(2)
            assert len(head) == 2, "the WebSocket ended"
            opcode, got = head[0] & 15, self._reader.read(head[1])
            if opcode == TEXT:
                self.seen = json.loads(got)["cursor"]
            if opcode == wanted:
                assert payload in (None, got)
                return

    def ping(self) -> None:
        """Check that the hub reads a WebSocket."""
        self.socket.sendall(frame(PING, b"ping"))
        self._until_frame(PONG, b"ping")

    def shut_down(self) -> None:
        """Send the end; the server closes when it has seen it."""
        with suppress(OSError):  # it may have closed already
            self.socket.shutdown(socket.SHUT_WR)
            while self._reader.read(4096):
                pass

    def reset(self) -> None:
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.close()


class Browsers(RuleBasedStateMachine):
    """Up to five clients, in any states; each rule acts on one."""

    server: Server

    def __init__(self) -> None:
        super().__init__()
        self.clients: list[Client] = []
        self.cursors = [self.server.cursor]

    def check(self) -> None:
        assert self.server.http.get("/owners").json["wrong"] == []

    @precondition(lambda self: len(self.clients) < 5)
    @rule(kind=st.sampled_from(sorted(REQUESTS)))
    def connect(self, kind: str) -> None:
        self.clients.append(Client(self.server))
        self.clients[-1].add(kind, self.cursors[-1])

    @precondition(lambda self: self.clients)
    @rule(data=st.data(), kinds=st.lists(st.sampled_from(sorted(REQUESTS)), min_size=1, max_size=3))
    def add(self, data: Any, kinds: list[str]) -> None:
        client = data.draw(st.sampled_from(self.clients))
        for kind in kinds:
            if client.takes_requests:
                client.add(kind, self.cursors[-1])

    @precondition(lambda self: any(client.has_unsent for client in self.clients))
    @rule(data=st.data(), size=st.integers(1, 20) | st.integers(1, 20_000))
    def send(self, data: Any, size: int) -> None:
        client = data.draw(st.sampled_from([each for each in self.clients if each.has_unsent]))
        client.send(size)
        self.check()

    @precondition(lambda self: self.clients)
    @rule(data=st.data())
    def read(self, data: Any) -> None:
        client = data.draw(st.sampled_from(self.clients))
        client.read(self.cursors)
        if client.became.startswith("websocket"):
            client.ping()
        self.check()

    @rule()
    def publish(self) -> None:
        self.cursors.append(self.server.publish({}))
        self.check()

    @precondition(lambda self: self.clients)
    @rule(data=st.data(), end=st.sampled_from(["close", "reset", "shut_down"]))
    def leave(self, data: Any, end: str) -> None:
        client = data.draw(st.sampled_from(self.clients))
        self.clients.remove(client)
        with client:
            getattr(client, end)()
        self.check()

    def teardown(self) -> None:
        try:
            self.publish()
            for client in self.clients:
                client.send(1_000_000)
            for client in self.clients:
                client.read(self.cursors)
            self.publish()
            for client in self.clients:
                client.read(self.cursors)
                if client.takes_requests:  # nothing was left, and nothing came twice
                    client.add("missing", "")
                    client.send(1_000_000)
                    client.read(self.cursors)
        finally:
            for client in self.clients:
                client.close()
        eventually(lambda: self.server.http.get("/owners").json == NOBODY)


@pytest.fixture(scope="module", params=["plain", "tls"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    options = request.getfixturevalue("tls_options") if request.param == "tls" else ()
    with starting() as start:
        yield start(
            "tests/owners.py", "--source", "http", "--ping-interval", "3600",
            "--header-timeout", "60", *options,
        )  # fmt: skip


def test_every_state_has_one_owner_and_every_request_one_response(server: Server) -> None:
    class Those(Browsers):
        pass

    Those.server = server
    run_state_machine_as_test(
        Those,
        settings=settings(
            max_examples=40 * max(MORE, 1), stateful_step_count=30, derandomize=not MORE,
            deadline=None, database=None, print_blob=True, phases=[Phase.generate],
        ),
    )  # fmt: skip


def request(server: Server, path: str, *fields: str) -> bytes:
    lines = [f"GET {path} HTTP/1.1", f"Host: 127.0.0.1:{server.port}", *fields, "", ""]
    return "\r\n".join(lines).encode()


def wire(server: Server) -> Wire:
    return Wire(server.port, wrap=server.wrap)


def owners(server: Server) -> dict[str, Any]:
    """Return the sizes; fail if something is wrong."""
    found: dict[str, Any] = server.http.get("/owners").json
    assert found["wrong"] == []
    return found


@pytest.mark.parametrize("pad", [0, 3000, 5000, 12_000], ids=lambda size: f"{size} bytes")
@pytest.mark.parametrize("field", ["Accept: */*", "X_Unusual: 1"], ids=["direct", "Flask"])
@pytest.mark.parametrize("together", [True, False], ids=["together", "behind"])
def test_requests_behind_a_held_poll_keep_their_order(
    server: Server, pad: int, field: str, together: bool
) -> None:
    """Also more bytes than are read at once, with or without the poll itself."""
    newest = server.cursor
    poll = request(server, f"/update?after={newest}", field)
    behind = b"".join(
        request(server, path, f"X-Long: {'x' * pad}")
        for path in ("/missing", "/data", f"/update?after={newest}&timeout=0", "/static/none")
    )
    with wire(server) as client:
        client.socket.sendall(poll + behind if together else poll)
        eventually(lambda: owners(server)["held"] == 1)
        if not together:
            client.socket.sendall(behind)
        published = server.publish({})
        assert client.response().json["cursor"] == published
        assert [client.response().status for _ in range(4)] == [404, 200, 200, 404]
    eventually(lambda: owners(server) == NOBODY)


def test_many_requests_behind_polls_that_are_answered_at_once(server: Server) -> None:
    """Each is served before what its client has sent since."""
    newest = server.cursor
    with ExitStack() as stack:
        clients = [stack.enter_context(wire(server)) for _ in range(300)]
        for client in clients:
            client.socket.sendall(request(server, f"/update?after={newest}"))
        eventually(lambda: owners(server)["held"] == len(clients))
        for client in clients:
            client.socket.sendall(request(server, "/missing"))
        owners(server)
        for client in clients:
            client.socket.sendall(request(server, "/data"))
        server.publish({})
        for client in clients:
            assert [client.response().status for _ in range(3)] == [200, 404, 200]
    eventually(lambda: owners(server) == NOBODY)


@pytest.mark.parametrize("name", ["/update", "/missing"])
def test_an_empty_line_may_end_in_lf_alone(server: Server, name: str) -> None:
    """What follows it is another request, and not part of the first one's headers."""
    first = request(server, "/data").replace(b"\r\n\r\n", b"\n\n")
    with wire(server) as client:
        client.socket.sendall(first + request(server, f"{name}?timeout=0"))
        assert client.response().status == 200
        assert client.response().status == (200 if name == "/update" else 404)


def open_state(server: Server, state: str, newest: str) -> Any:
    """Return a client in a state of STATES, once it is there."""
    if state == "conversation":
        return server.websocket("/lab")
    client = Client(server)
    if state == "idle":
        client.add("data", newest)
        client.send(1_000_000)
        client.read([newest])
    elif state != "silent":
        kind, _, part = state.partition(", cut at ")
        client.add(kind.removesuffix(" and more"), newest)
        if state.endswith(" and more"):
            client.add("data", newest)
        client.send(int(part or 1_000_000))
    return client


#: The states of a connection, and what owns it.
STATES = {
    "silent": "wheel",
    "idle": "wheel",
    "data, cut at 30": "greenlets",
    "body, cut at -2": "greenlets",
    "poll": "held",
    "poll, through Flask": "held",
    "poll and more": "held",
    "poll, lane": "waiting",
    "poll, HTTP/1.0": "waiting",
    "last poll": "waiting",
    "stream": "hub",
    "stream, lane": "waiting",
    "websocket": "hub",
    "websocket, early": "hub",
    "conversation": "greenlets",
}


@pytest.mark.parametrize("end", ["close", "reset"])
@pytest.mark.parametrize("state", STATES)
def test_a_client_that_leaves_is_noticed_in_every_state(
    server: Server, state: str, end: str
) -> None:
    newest, owner = server.cursor, STATES[state]
    client = open_state(server, state, newest)
    eventually(lambda: owners(server)[owner] == (2 if owner == "greenlets" else 1))
    getattr(client, end)()
    if state == "poll and more":  # it is not read, and noticed with its response
        server.publish({})
    eventually(lambda: owners(server) == NOBODY)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_every_state_ends_when_the_server_stops(
    start: Start, tls: bool, tls_options: tuple[str, ...]
) -> None:
    server = start("tests/owners.py", "--source", "http", *(tls_options if tls else ()))
    newest = server.cursor
    states = [state for state in STATES if state != "conversation"]
    with ExitStack() as stack:
        clients = {
            state: stack.enter_context(open_state(server, state, newest)) for state in states
        }
        wanted = Counter(STATES[state] for state in states)
        eventually(lambda: all(owners(server)[name] >= wanted[name] for name in wanted))
        eventually(lambda: owners(server)["waiting"] == wanted["waiting"])
        server.process.send_signal(signal.SIGTERM)
        for state, client in clients.items():
            received = client.rest()
            if "poll" in state:
                assert received.startswith(b"HTTP/1.1 204 "), (state, received)
                assert received.count(b"HTTP/1.1 ") == 1 + ("more" in state)
            elif state.startswith("stream"):
                assert received.endswith(b"\r\n0\r\n\r\n"), (state, received)
            elif state.startswith("websocket"):
                assert received.endswith(b"\x88\x02\x03\xe9"), (state, received)
            else:
                assert received == b"", (state, received)
        assert server.wait() == 0


# What comes while a server stands still comes at once.


@contextmanager
def standing_still(server: Server) -> Iterator[None]:
    """Stop the process meanwhile."""
    server.process.send_signal(signal.SIGSTOP)
    try:
        eventually(lambda: psutil.Process(server.process.pid).status() == psutil.STATUS_STOPPED)
        yield
    finally:
        server.process.send_signal(signal.SIGCONT)


def test_polls_that_return_at_once_let_others_have_their_turn(start: Start) -> None:
    """The request of another client is not behind all of them."""
    options = with_limits(POLL_CHUNK=2)
    server = start("tests/owners.py", "--source", "http", environment=options)
    newest = server.cursor
    with ExitStack() as stack:
        clients = [stack.enter_context(wire(server)) for _ in range(20)]
        other = stack.enter_context(wire(server))
        other.socket.sendall(request(server, "/data"))
        assert other.response().status == 200
        for client in clients:
            client.socket.sendall(request(server, f"/update?after={newest}"))
        eventually(lambda: owners(server)["held"] == len(clients))
        newest = server.publish({})
        for client in clients:
            assert client.response().json["cursor"] == newest
        with standing_still(server):
            other.socket.sendall(request(server, "/owners"))  # the loop begins with the last one
            for client in clients:
                client.socket.sendall(request(server, f"/update?after={newest}"))
        assert other.response().json["held"] <= 4
        eventually(lambda: owners(server)["held"] == len(clients))
        newest = server.publish({})
        for client in clients:
            assert client.response().json["cursor"] == newest
    eventually(lambda: owners(server) == NOBODY)


@pytest.mark.parametrize("loop", ["libev-cext", "libuv-cffi"])
def test_each_turn_of_either_loop_serves_polls_that_return(start: Start, loop: str) -> None:
    """On Windows it is libuv, which does not count its turns."""
    delay = {"pushlab.hosting.gevent_connections._MAX_DELAY": 3600}
    options = with_limits(POLL_CHUNK=2, **delay) | {"GEVENT_LOOP": loop}
    server = start("serve.py", "--source", "http", environment=options)
    newest = server.cursor
    with ExitStack() as stack:
        clients = [stack.enter_context(wire(server)) for _ in range(9)]
        for _ in range(2):
            for client in clients:
                client.socket.sendall(request(server, f"/update?after={newest}"))
            newest = server.publish({})
            for client in clients:
                assert client.response().json["cursor"] == newest


@pytest.mark.parametrize("field", ["Accept: */*", "X_Unusual: 1"], ids=["direct", "Flask"])
@pytest.mark.parametrize("end", ["asks again", "close", "reset"])
def test_many_deadlines_at_once(server: Server, field: str, end: str) -> None:
    """500 polls are over, and half of their clients have left by then."""
    newest = server.cursor
    path = f"/update?after={newest}&timeout="
    with ExitStack() as stack:
        clients = [stack.enter_context(wire(server)) for _ in range(500)]
        for client in clients:
            client.socket.sendall(request(server, f"{path}60", field))
        eventually(lambda: owners(server)["held"] == len(clients))
        server.publish({})
        path = f"/update?after={server.cursor}&timeout="
        for client in clients:
            assert client.response().status == 200
            client.socket.sendall(request(server, f"{path}1", field))
        with standing_still(server):
            time.sleep(1.2)
            if end != "asks again":
                for client in clients[::2]:
                    if end == "reset":
                        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                    client.close()
        for client in clients if end == "asks again" else clients[1::2]:
            assert client.response().status == 204
            client.socket.sendall(request(server, "/data"))
            assert client.response().status == 200
    eventually(lambda: owners(server) == NOBODY)


def test_those_that_join_while_the_hub_is_closed(start: Start) -> None:
    """Requests have come when the server is told to stop; each ends, none hangs."""
    server = start("tests/owners.py", "--source", "http")
    newest = server.cursor
    kinds = ("poll", "poll, through Flask", "stream", "websocket")
    with ExitStack() as stack:
        clients = [(kind, stack.enter_context(wire(server))) for kind in kinds for _ in range(25)]
        for _, client in clients:
            client.socket.sendall(request(server, "/data"))
            assert client.response().status == 200
        with standing_still(server):
            for kind, client in clients:
                line, version, headers, _ = REQUESTS[kind]
                head = f"{line.replace('CURSOR', newest)} HTTP/{version}\r\n"
                host = f"Host: 127.0.0.1:{server.port}\r\n"
                client.socket.sendall(f"{head}{host}{headers}\r\n".encode())
            server.process.send_signal(signal.SIGTERM)
        for kind, client in clients:
            received = client.rest()
            if not received:  # its request was not read
                continue
            if kind.startswith("poll"):
                assert received.startswith(b"HTTP/1.1 204 "), (kind, received)
            else:
                end = b"\x88\x02\x03\xe9" if kind == "websocket" else b"\r\n0\r\n\r\n"
                assert received.endswith(end), (kind, received)
        assert server.wait() == 0
    assert "Traceback" not in server.log


def test_half_a_request_after_a_short_poll_has_its_time(start: Start) -> None:
    """A poll's deadline, which has not been reached, is not that of the next request."""
    server = start("serve.py", "--source", "http", environment=with_limits(LOOK_INTERVAL=0.01))
    newest = server.cursor
    with wire(server) as client, wire(server) as clock:
        for one, timeout in ((client, 1), (clock, 2)):
            one.socket.sendall(request(server, f"/update?after={newest}&timeout={timeout}"))
        server.publish({})
        assert client.response().status == 200
        text = request(server, "/data")
        client.socket.sendall(text[:20])
        newest = clock.response().json["cursor"]
        clock.socket.sendall(request(server, f"/update?after={newest}&timeout=2"))
        assert clock.response().status == 204  # the first poll's second is over
        client.socket.sendall(text[20:])
        assert client.response().status == 200


def test_a_slow_reader_gets_whole_responses_in_their_order(server: Server) -> None:
    """A request that it sends while a response does not fit has its turn behind that."""
    cursors, value = [server.cursor], {"text": "x" * 15_000}
    with wire(server) as client:
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        while not owners(server)["writing"]:
            path = f"/update?carry=1&after={cursors[-1]}"
            client.socket.sendall(request(server, path))
            eventually(lambda: owners(server)["held"])
            cursors.append(server.publish(value))
        client.socket.sendall(request(server, "/missing") + request(server, "/data"))
        for cursor in cursors[1:]:
            assert client.response().json["cursor"] == cursor
        assert [client.response().status for _ in range(2)] == [404, 200]
    eventually(lambda: owners(server) == NOBODY)


def test_a_poll_whose_response_does_not_fit_may_be_followed_by_early_bytes(server: Server) -> None:
    """They have come while the poll was held."""
    cursors, value = [server.cursor], {"text": "x" * 15_000}
    with wire(server) as client:
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        path = "/update?carry=1&after="
        while not owners(server)["writing"]:
            behind = request(server, "/data")  # which needs no greenlet
            client.socket.sendall(request(server, f"{path}{cursors[-1]}") + behind)
            eventually(lambda: owners(server)["held"] or owners(server)["writing"])
            cursors.append(server.publish(value))
        for _ in cursors[1:]:
            assert [client.response().status for _ in range(2)] == [200, 200]
    eventually(lambda: owners(server) == NOBODY)
