"""The meters count what passes the socket, to the byte, as two witnesses see it.

One witness is a relay that knows nothing of HTTP, the other the client, which counts what it writes
and reads.
"""

import json
import re
import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import pytest

from lab import instruments as lab
from lab import meter
from lab.meter import Exchange, Meter, Meters
from tests.clients import (
    BINARY,
    CLOSE,
    HANG_TIMEOUT,
    PING,
    PONG,
    RESET,
    TEXT,
    UPGRADE,
    CountingSocket,
    LabPage,
    LabPageOverTLS,
    RawSocket,
    Response,
    Wire,
    frame,
)
from tests.conftest import Server, Start, eventually, starting, until_same
from tests.relay import Relay

VARIANTS = {
    "serve.py": ("serve.py",),
    "serve2.py --no-direct": ("serve2.py", "--no-direct"),
}


@pytest.fixture(scope="module", params=VARIANTS)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server of each kind; it logs nothing but rejections."""
    program, *options = VARIANTS[request.param]
    with starting() as start:
        # On a busy machine, the server's own pings would come between two counts.
        server = start(program, "--source", "http", "--ping-interval", "3600", *options)
        yield server
        assert [line for line in server.log.splitlines() if "rejected: " not in line] == []


@pytest.fixture
def relay(server: Server) -> Iterator[Relay]:
    with Relay(server.port) as relay:
        yield relay


class Cost(NamedTuple):
    """What a lane should have cost."""

    up: int
    down: int
    requests: int
    empty: int = 0


def costs(page: LabPage, lane: str) -> Cost:
    return Cost(**page.sums(lane))


def assert_cost(page: LabPage, lane: str, cost: Cost) -> None:
    """Fail unless the lane's cost becomes this, and then stays."""
    until_same(lambda: (costs(page, lane), cost))
    assert costs(page, lane) == cost


def request(path: str, method: str = "GET", version: str = "HTTP/1.1", **headers: str) -> bytes:
    """Return a request; a _ in a header's name is a -."""
    fields = {"Host": "127.0.0.1", **{name.replace("_", "-"): headers[name] for name in headers}}
    lines = [f"{name}: {value}" for name, value in fields.items()]
    return "\r\n".join([f"{method} {path} {version}", *lines, "", ""]).encode()


class Case(NamedTuple):
    """A request of a lane, and its response."""

    text: bytes
    status: int
    held: float = 0.0  #: seconds

    @property
    def empty(self) -> bool:
        return self.status in (204, 304)

    def of(self, lane: str, cursor: str) -> bytes:
        """Return the request with this lane and newest cursor."""
        return self.text.replace(b"LANE", b"lane=" + lane.encode()).replace(b"NOW", cursor.encode())


EVENTS = "text/event-stream"
BROWSER = {
    "User-Agent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/156.0.0.0",
    "Accept": "*/*",
    "Accept-Encoding": "gzip, deflate, br, zstd",
    "Cookie": "a=b; c=" + "d" * 500,
}
CASES = {
    "data": Case(request("/data?LANE"), 200),
    "data-as-a-browser": Case(request("/data?LANE", **BROWSER), 200),
    "data-304": Case(request("/data?LANE", If_None_Match='"NOW"'), 304),
    "data-changed": Case(request("/data?LANE", If_None_Match='"ffffffff-1"'), 200),
    "data-weak-304": Case(request("/data?LANE", If_None_Match='W/"NOW"'), 304),
    "head": Case(request("/data?LANE", "HEAD"), 200),
    "head-304": Case(request("/data?LANE", "HEAD", If_None_Match='"NOW"'), 304),
    "longpoll-signal": Case(request("/update?LANE"), 200),
    "longpoll-signal-of-old": Case(request("/update?after=ffffffff-1&LANE&carry=0"), 200),
    "longpoll-carry": Case(request("/update?carry=1&LANE&timeout=5"), 200),
    "longpoll-204": Case(request("/update?after=NOW&timeout=0.05&LANE"), 204, held=0.05),
    "longpoll-204-at-once": Case(request("/update?LANE&after=NOW&timeout=0"), 204),
    "malformed-after": Case(request("/update?after=x&LANE"), 400),
    "malformed-after-of-events": Case(request("/update?after=x&LANE", Accept=EVENTS), 400),
    "nowhere": Case(request("/nowhere?LANE"), 404),
    "page": Case(request("/?LANE"), 200),
    "file": Case(request("/static/page.js?LANE"), 200),
    "post-without-body": Case(request("/data?LANE", "POST", Content_Length="0"), 400),
    "absolute-form": Case(request("http://127.0.0.1/data?LANE"), 200),
    "bare-line-feeds": Case(request("/data?LANE").replace(b"\r\n", b"\n"), 200),
    "options": Case(request("/data?LANE", "OPTIONS"), 200),
    "websocket-that-is-none": Case(request("/lab?LANE"), 400),
}


@pytest.fixture
def newest(server: Server) -> str:
    """The cursor of a reading that stays during the test."""
    return server.publish({"n": 1, "text": "€"})


@pytest.mark.parametrize("name", CASES)
def test_a_request_costs_what_both_witnesses_see(
    server: Server, relay: Relay, page: LabPage, lane: str, newest: str, name: str
) -> None:
    case = CASES[name]
    text = case.of(lane, newest)
    with Wire(relay.port) as wire:
        assert wire.request(text).status == case.status
        assert (relay.up, relay.down) == (wire.sent, wire.received)
        assert relay.up == len(text)
        assert_cost(page, lane, Cost(relay.up, relay.down, 1, case.empty))
    [[asked_at, held, status, up, down]] = page.exchanges[lane]
    assert (status, up, down) == (case.status, relay.up, relay.down)
    assert held >= case.held * 1000
    assert abs(asked_at + held - time.time() * 1000) < 1000 * HANG_TIMEOUT


def test_a_response_with_the_largest_value(
    server: Server, relay: Relay, page: LabPage, lane: str
) -> None:
    server.publish({"text": "x" * (16 * 1024 - 12)})
    with Wire(relay.port) as wire:
        for path in ("/data?LANE", "/update?carry=1&LANE"):
            assert len(wire.request(Case(request(path), 200).of(lane, "")).body) > 16 * 1024
        assert_cost(page, lane, Cost(relay.up, relay.down, 2))
        assert (relay.up, relay.down) == (wire.sent, wire.received)
    server.publish({})


def test_a_connection_with_many_requests_of_two_lanes(
    server: Server, relay: Relay, page: LabPage, lane: str, newest: str
) -> None:
    """Requests without a lane count for none."""
    cases = [case for case in CASES.values() if case.status != 404] * 2
    exchanges: dict[str, list[list[int]]] = {f"{lane}-a": [], f"{lane}-b": []}
    with Wire(relay.port) as wire:
        for number, case in enumerate(cases):
            name = [*exchanges][number % 3 % 2]
            before = wire.sent, wire.received
            assert wire.request(case.of(name, newest)).status == case.status
            passed = wire.sent - before[0], wire.received - before[1]
            exchanges[name].append([case.status, *passed])
            for path in ("/", "/data?other=lane", "/data?plane=x"):
                assert wire.request(request(path)).status == 200
        assert len(relay.connections) == 1
        for name, expected in exchanges.items():
            statuses, up, down = zip(*expected, strict=True)
            empty = sum(status in (204, 304) for status in statuses)
            assert_cost(page, name, Cost(sum(up), sum(down), len(expected), empty))
            assert [exchange[2:] for exchange in page.exchanges[name]] == expected


def test_pipelined_requests(
    server: Server, relay: Relay, page: LabPage, lane: str, newest: str
) -> None:
    other = f"{lane}-2"
    names = [lane, other, lane, lane, other]
    cases = [CASES[name] for name in ("data", "longpoll-204", "data-304", "file", "longpoll-carry")]
    texts = [case.of(name, newest) for name, case in zip(names, cases, strict=True)]
    with Wire(relay.port) as wire:
        wire.socket.sendall(b"".join(texts))
        for case in cases:
            assert wire.response().status == case.status
        up = {lane: 0, other: 0}
        for name, text in zip(names, texts, strict=True):
            up[name] += len(text)
        # The wire reads ahead, so it knows only the sum of both lanes.
        both = [costs(page, each) for each in up]
        assert [cost.up for cost in both] == list(up.values())
        assert sum(cost.down for cost in both) == relay.down == wire.received
        assert [(cost.requests, cost.empty) for cost in both] == [(3, 1), (2, 1)]
    for each, cost in zip((lane, other), both, strict=True):
        assert sum(exchange[4] for exchange in page.exchanges[each]) == cost.down


@pytest.mark.parametrize("version", ["HTTP/1.0", "HTTP/1.0 keep-alive"])
def test_http_1_0(server: Server, relay: Relay, page: LabPage, lane: str, version: str) -> None:
    version, _, connection = version.partition(" ")
    with Wire(relay.port) as wire:
        text = request(f"/data?lane={lane}", version=version, Connection=connection or "close")
        assert wire.request(text).status == 200
        assert_cost(page, lane, Cost(relay.up, relay.down, 1))
        assert relay.down == wire.received


def test_a_request_that_expects_100_is_counted_whole_or_not_at_all(
    server: Server, relay: Relay, page: LabPage, lane: str
) -> None:
    with Wire(relay.port) as wire:
        head = request(f"/data?lane={lane}", "POST", Content_Length="0", Expect="100-continue")
        wire.socket.sendall(head)
        while wire.head()[0] == 100:
            pass
        assert costs(page, lane) in [(0, 0, 0, 0), Cost(relay.up, relay.down, 1)]


@pytest.mark.parametrize("coding", ["length", "chunked"])
def test_a_request_with_a_body_is_not_counted(
    server: Server, relay: Relay, page: LabPage, lane: str, coding: str
) -> None:
    with Wire(relay.port) as wire:
        path = f"/data?lane={lane}"
        if coding == "length":
            text = request(path, "POST", Content_Length="2") + b"{}"
        else:
            text = request(path, "POST", Transfer_Encoding="chunked") + b"2\r\n{}\r\n0\r\n\r\n"
        response = wire.request(text)
        assert response.status == 201
        assert "Server-Timing" not in response.headers
        assert costs(page, lane) == (0, 0, 0, 0)
        assert wire.request(request(path)).status == 200  # the connection stays
        assert costs(page, lane).requests == 1


def test_a_held_poll_counts_as_a_request_with_its_response(
    server: Server, relay: Relay, page: LabPage, lane: str, newest: str
) -> None:
    with Wire(relay.port) as wire:
        text = request(f"/update?after={newest}&lane={lane}")
        wire.socket.sendall(text)
        assert_cost(page, lane, Cost(len(text), 0, 0))
        assert page.exchanges[lane] == []
        server.publish({"n": 2})
        assert wire.response().status == 200
        assert_cost(page, lane, Cost(relay.up, relay.down, 1))
        assert len(page.exchanges[lane]) == 1


# Event streams.


def events(lane: str, **options: str) -> bytes:
    more = "".join(f"&{name}={value}" for name, value in options.items())
    return request(f"/update?lane={lane}{more}", Accept=EVENTS)


def test_an_event_stream_costs_its_headers_and_chunks(
    server: Server, relay: Relay, page: LabPage, lane: str, newest: str
) -> None:
    with Wire(relay.port) as wire:
        wire.socket.sendall(events(lane, carry="1"))
        status, headers = wire.head()
        assert (status, headers["Transfer-Encoding"]) == (200, "chunked")
        wire.until(newest.encode())
        wire.until(b"\n\n\r\n")
        assert_cost(page, lane, Cost(relay.up, relay.down, 1))
        [[_, held, status, up, down]] = page.exchanges[lane]  # reported at once: it has no end
        assert (status, up) == (200, relay.up)
        assert held >= 0
        assert 0 < down < relay.down
        for number in range(3):
            server.publish({"number": number, "text": "x" * number * 8000})
            wire.until(b"\n\n\r\n")
            assert_cost(page, lane, Cost(relay.up, relay.down, 1))
        assert wire.received == relay.down
        last = relay.down
    [connection] = relay.connections
    # With the second event at the latest, the server notices that the client has closed.
    eventually(lambda: server.publish({}) and connection.closed.is_set())
    assert costs(page, lane).down >= last
    assert len(page.exchanges[lane]) == 1


# WebSockets.


class Socket(RawSocket):
    """A WebSocket of a lane, which counts its bytes."""

    def __init__(self, port: int, lane: str, query: str = "", **options: Any) -> None:
        options.setdefault("wrap", CountingSocket.of)
        super().__init__(port, f"/update?lane={lane}{query}", **options)

    @property
    def passed(self) -> tuple[int, int]:
        """Bytes sent and received."""
        counting: Any = self.socket
        return counting.sent, counting.received


@pytest.mark.parametrize("carry", [0, 1])
def test_a_websocket_costs_its_handshake_and_its_frames(
    server: Server, relay: Relay, page: LabPage, lane: str, newest: str, carry: int
) -> None:
    with Socket(relay.port, lane, f"&carry={carry}") as browser:
        assert browser.json()["cursor"] == newest
        assert_cost(page, lane, Cost(*browser.passed, 1))
        for size in (0, 100, 16 * 1024 - 20):
            newest = server.publish({"text": "x" * size})
            assert browser.json()["cursor"] == newest
            assert_cost(page, lane, Cost(*browser.passed, 1))
            assert browser.passed == (relay.up, relay.down)
        [[_, _, status, up, down]] = page.exchanges[lane]
        assert status == 101
        assert up + down < relay.up + relay.down
    server.publish({})
    assert costs(page, lane).requests == 1
    assert len(page.exchanges[lane]) == 1, "it is reported once, also after its end"


FRAMES = {
    "ping": [frame(PING, b"are you there?")],
    "empty-ping": [frame(PING)],
    "pong": [frame(PONG, b"unasked")],
    "text": [frame(TEXT, "grüße".encode())],
    "binary": [frame(BINARY, bytes(5000))],
    "large": [frame(TEXT, b"x" * 60_000)],
    "fragments": [frame(TEXT, b"a", fin=False), frame(PING, b"b"), frame(0, b"c")],
    "many-pings": [frame(PING, b"%d" % number) for number in range(50)],
    "close": [frame(CLOSE, struct.pack("!H", 4002) + "adieu, à bientôt".encode())],
    "empty-close": [frame(CLOSE)],
    "ping-and-close": [frame(PING, b"last") + frame(CLOSE, struct.pack("!H", 1000))],
    "unmasked": [frame(TEXT, b"no", masked=False)],
    "too-large": [frame(TEXT, b"x" * 100, length=70_000)],
    "not-text": [frame(TEXT, b"\xff\xfe")],
}


@pytest.mark.parametrize("early", [False, True], ids=["later", "early"])
@pytest.mark.parametrize("name", FRAMES)
def test_the_frames_of_a_browser_are_counted(
    server: Server, relay: Relay, page: LabPage, lane: str, newest: str, name: str, early: bool
) -> None:
    """Also those that come with the handshake, and the closing handshake of either side."""
    ends = any(word in name for word in ("close", "unmasked", "too", "not"))
    frames = b"".join(FRAMES[name])
    with Socket(relay.port, lane, early=frames if early else b"") as browser:
        if not early:
            assert browser.json()["cursor"] == newest
            for part in FRAMES[name]:
                browser.send(part)
        if ends:
            while browser.frame() is not None:
                pass
        else:
            browser.send(frame(PING, b"the last"))
            browser.read_until((PONG, b"the last"))
        assert_cost(page, lane, Cost(relay.up, relay.down, 1))
        assert browser.passed == (relay.up, relay.down)
    assert len(page.exchanges[lane]) == 1


def test_a_rejected_handshake_is_a_response(
    server: Server, relay: Relay, page: LabPage, lane: str
) -> None:
    spent = [0, 0]
    rejected: list[tuple[str, dict[str, str], int]] = [
        ("&after=x", {}, 400),
        ("&carry=2", {}, 400),
        ("", {"Origin": "http://evil.example"}, 403),
        ("", {"Sec-WebSocket-Version": "8"}, 426),
        ("", {"Host": "evil.example"}, 421),
    ]
    for query, changes, status in rejected:
        with Socket(relay.port, lane, query, changes=changes) as browser:
            assert browser.status == status
            assert browser.body
            assert browser.frame() is None
            spent = [spent[0] + browser.passed[0], spent[1] + browser.passed[1]]
    assert_cost(page, lane, Cost(relay.up, relay.down, len(rejected)))
    assert (relay.up, relay.down) == tuple(spent)
    assert [exchange[2] for exchange in page.exchanges[lane]] == [each[2] for each in rejected]


def test_a_reset_websocket_costs_what_it_was_sent(
    server: Server, relay: Relay, page: LabPage, lane: str, newest: str
) -> None:
    with Socket(relay.port, lane) as browser:
        assert browser.json()["cursor"] == newest
        browser.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    [connection] = relay.connections
    assert connection.closed.wait(HANG_TIMEOUT)
    server.publish({"n": "for no subscriber"})
    assert_cost(page, lane, Cost(relay.up, relay.down, 1))


def test_a_slow_websocket_costs_what_it_receives(
    server: Server, relay: Relay, page: LabPage, lane: str, newest: str
) -> None:
    """Frames are then sent in parts, and most never."""
    with Socket(relay.port, lane, "&carry=1") as browser:
        assert browser.json()["cursor"] == newest
        [connection] = relay.connections
        connection.stall()
        for number in range(100):
            newest = server.publish({"text": f"{number:3}{'x' * 16_000}"})
        connection.resume()
        received = 1
        while browser.json()["cursor"] != newest:
            received += 1
        assert received < 100
        assert_cost(page, lane, Cost(*browser.passed, 1))
        assert browser.passed == (relay.up, relay.down)


# Shutdown.


def test_the_last_bytes_are_counted_and_no_connection_stays(start: Start) -> None:
    """Heartbeats, pings, responses to held polls, close frames, up to the end."""
    server = start("tests/metered.py", "--source", "http", "--ping-interval", "2")
    newest = server.publish({"n": 1})
    witnesses: dict[str, tuple[int, int]] = {}
    cost: dict[str, tuple[int, int]] = {}  # requests, and of these empty
    with Relay(server.port) as relay, ThreadPoolExecutor() as pool:
        # Three that stay.
        stream, poll = Wire(relay.port), Wire(relay.port)
        browser = Socket(relay.port, "socket")
        handshake, closed = browser.passed[0], pool.submit(browser.close_code)
        stream.socket.sendall(events("stream"))
        poll.socket.sendall(request(f"/update?after={newest}&lane=poll"))
        stream.until(b"\r\n:\n\n\r\n")  # a heartbeat

        # Some that close: after a response, during a poll, in a stream, in a WebSocket.
        with Wire(relay.port) as wire:
            assert wire.request(request("/data?lane=closed")).status == 200
        with Wire(relay.port) as wire:
            wire.socket.sendall(request(f"/update?after={newest}&timeout=60&lane=closed-poll"))
        with Wire(relay.port) as wire:
            wire.socket.sendall(events("closed-stream"))
            wire.until(b"\n\n\r\n")
        with Socket(relay.port, "closed-socket") as closing:
            closing.json()
        with Socket(relay.port, "rejected", "&after=x") as rejected:
            assert rejected.status == 400
        # And some that reset the connection before their response.
        upgrade = request("/update?lane=reset", **UPGRADE)
        for text in (upgrade, events("reset"), request(f"/update?after={newest}&lane=reset")) * 10:
            hasty = socket.create_connection(("127.0.0.1", server.port))
            hasty.sendall(text)
            hasty.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            hasty.close()
        eventually(lambda: browser.passed[0] > handshake)  # a pong
        stream.until(b"\r\n:\n\n\r\n")
        stream.until(b"\r\n:\n\n\r\n")

        stopping = threading.Thread(target=server.stop)
        stopping.start()
        assert closed.result() == 1001
        assert stream.rest().endswith(b"0\r\n\r\n")
        assert poll.response().status == 204
        assert poll.rest() == b""
        stopping.join()
        for name, client in (("stream", stream), ("poll", poll)):
            witnesses[name] = client.sent, client.received
        witnesses["socket"] = browser.passed
        cost = {"stream": (1, 0), "poll": (1, 1), "socket": (1, 0)}
        for opened in (stream, poll, browser):
            opened.close()
        for connection in relay.connections:
            assert connection.closed.wait(HANG_TIMEOUT)
        for name, passed in witnesses.items():
            [connection] = relay.naming(f"lane={name} ")
            assert (connection.up, connection.down) == passed
    sums = json.loads(server.out[-1])
    for name, (up, down) in witnesses.items():
        requests, empty = cost[name]
        assert sums[name] == {
            "requests": requests, "empty": empty, "up": up, "down": down, "records": 1, "open": 0
        }  # fmt: skip
    assert {name: each["open"] for name, each in sums.items() if each["open"]} == {}
    assert sums.pop("reset", {"records": 0})["records"] <= 30
    # Its client is gone. On a busy machine the news may come before that is found out.
    assert sums.pop("closed-poll")["records"] in (0, 1)
    assert {name: each["records"] for name, each in sums.items()} == dict.fromkeys(sums, 1)


def test_over_tls_the_plain_text_is_counted(
    start: Start, tls_options: tuple[str, ...], trust: ssl.SSLContext, counting_tls: Any
) -> None:
    server = start("serve.py", "--source", "http", *tls_options)
    newest, tls = server.publish({"n": 1}), counting_tls
    with LabPageOverTLS(server.ws, context=trust) as page:
        cases = list(CASES.values())
        with Wire(server.port, wrap=tls) as wire:
            for case in cases:
                assert wire.request(case.of("http", newest)).status == case.status
            empty = sum(case.empty for case in cases)
            assert_cost(page, "http", Cost(wire.sent, wire.received, len(cases), empty))
        with Wire(server.port, wrap=tls) as wire:
            wire.socket.sendall(events("sse", carry="1"))
            wire.until(b"\n\n\r\n")
            wire.until(b"\n\n\r\n")
            assert_cost(page, "sse", Cost(wire.sent, wire.received, 1))
        for number, early in enumerate((b"", frame(PING, b"early"), frame(TEXT, bytes(20_000)))):
            name = f"ws-{number}"
            with Socket(server.port, name, "&carry=1", early=early, wrap=tls) as browser:
                browser.json()
                for frames in FRAMES["large"], FRAMES["many-pings"]:
                    browser.send(b"".join(frames))
                browser.read_until((PONG, b"49"))
                assert_cost(page, name, Cost(*browser.passed, 1))
                server.publish({"text": "x" * 16_000})
                assert len(browser.json()["value"]["text"]) == 16_000
                assert_cost(page, name, Cost(*browser.passed, 1))
                browser.send(b"".join(FRAMES["close"]))
                while browser.frame() is not None:
                    pass
                assert_cost(page, name, Cost(*browser.passed, 1))
    assert server.log == ""


# Server-Timing.


def timing(headers: dict[str, str]) -> tuple[float, float]:
    """Return when the request came and how long it was held, in milliseconds."""
    found = re.fullmatch(r"in;dur=(\d+\.\d), held;dur=(\d+\.\d)", headers["Server-Timing"])
    assert found, headers
    return float(found[1]), float(found[2])


TIMED = [name for name, case in CASES.items() if case.status in (200, 204, 304, 400)]


@pytest.mark.parametrize("name", TIMED)
def test_a_response_has_the_times_of_its_request(
    server: Server, lane: str, newest: str, name: str
) -> None:
    case = CASES[name]
    with Wire(server.port) as wire:
        for _ in range(2):
            sent = time.time()
            response = wire.request(case.of(lane, newest))
            received = time.time()
            asked_at, held = timing(response.headers)
            assert sent - 0.0001 <= asked_at / 1000 <= received + 0.0001
            assert case.held <= held / 1000 <= received - sent + 0.0001
        unnamed = wire.request(case.text.replace(b"&LANE", b"").replace(b"LANE", b"").replace(
            b"NOW", newest.encode()))  # fmt: skip
        assert unnamed.status == case.status
        assert "Server-Timing" not in unnamed.headers


def test_so_have_a_stream_and_a_rejected_handshake(server: Server, lane: str, newest: str) -> None:
    with Wire(server.port) as wire:
        sent = time.time()
        wire.socket.sendall(events(lane))
        asked_at, held = timing(wire.head()[1])
        received = time.time()
        assert sent - 0.0001 <= asked_at / 1000 <= received + 0.0001
        assert 0 <= held / 1000 <= received - sent + 0.0001
    with Socket(server.port, lane, "&after=x") as browser:
        assert timing(browser.headers)[0] >= sent * 1000 - 0.1


def test_a_held_polls_response_has_the_time(
    server: Server, page: LabPage, lane: str, newest: str
) -> None:
    """That of a poll which ends without news is in CASES."""
    with Wire(server.port) as wire:
        sent = time.time()
        wire.socket.sendall(request(f"/update?after={newest}&lane={lane}"))
        eventually(lambda: costs(page, lane).up)
        held_at = time.time()
        time.sleep(0.2)  # the time that is measured
        published = time.time()
        server.publish({"n": 2})
        held = timing(wire.response().headers)[1]
        assert published - held_at - 0.0001 <= held / 1000 <= time.time() - sent + 0.0001


def test_direct_dispatch_responds_as_flask_does(start: Start) -> None:
    """Responses differ only in times and epochs."""

    def responses(server: Server) -> list[Any]:
        newest, found = server.publish({"n": 1}), []
        with Wire(server.port) as wire:
            for name, case in CASES.items():
                if name in ("page", "options"):
                    continue  # one contains its time, the other's methods have no order
                status, headers, body = wire.request(case.of("a-lane", newest))
                del headers["Date"]
                if "Server-Timing" in headers:
                    timing(headers)
                    headers["Server-Timing"] = ""
                text = re.sub(rb'"changed_at":[\d.]+', b"", body)
                found.append((status, [*headers.items()], text))
        epoch = newest.partition("-")[0]
        return [repr(each).replace(epoch, "epoch") for each in found]

    direct, flask = (
        start("serve.py", "--source", "http", *options) for options in ([], ["--no-direct"])
    )
    assert responses(direct) == responses(flask)


# Names of lanes.

MALFORMED = [
    *(b"lane=" + name for name in (
        b"", b"a" * 17, b"a-b-c-d", b"-", b"-a", b"a-", b"a%20b", b"a+b", b"%", b"%61", b"a%0a",
        b"a&lane=a", b"a&carry=1&lane=", b"a;b", b"\xe9", "é".encode(), "\u0665".encode(),
        b"a" * 7000,
    )),
    b"carry=1&lane=_",
]  # fmt: skip


@pytest.mark.parametrize("query", MALFORMED, ids=range(len(MALFORMED)))
def test_a_malformed_lane_is_400(server: Server, query: bytes) -> None:
    """On one connection, so that each response must end where it should; before any 101."""
    headers = request("", **BROWSER).partition(b" HTTP/1.1\r\n")[2]
    with Wire(server.port) as wire:
        for target in (b"GET /data", b"HEAD /data", b"GET /update", b"GET /", b"GET /nowhere",
                       b"HEAD /static/page.js"):  # fmt: skip
            check_malformed(wire.request(target + b"?" + query + b" HTTP/1.1\r\n" + headers))
        assert wire.request(request("/data")).status == 200
    for path in (b"/update", b"/lab"):
        upgrade = request(path.decode(), **UPGRADE).replace(path, path + b"?" + query)
        with Wire(server.port) as wire:
            check_malformed(wire.request(upgrade))
            assert wire.rest() == b""


def check_malformed(response: Response) -> None:
    assert (response.status, response.headers["Content-Type"]) == (400, "application/json")
    assert not response.body or response.json["error"].startswith("lane:")


# Without a server.


def test_the_lane_that_is_quiet_for_the_longest_is_removed() -> None:
    meters = Meters()
    meters.get("kept").count(up=1)
    for number in range(3 * meter.MAX_LANES):
        meters.get(f"l{number}").count(up=number)
        assert meters.get("kept").up == 1
    assert len(meters._meters) == meter.MAX_LANES
    assert meters.get(f"l{number}").up == number
    assert meters.get("l0").up == 0, "begun again"


def test_there_are_meters_for_the_lanes_of_all_pages() -> None:
    lanes_of_a_page = 4
    assert lab.MAX_PAGES * lanes_of_a_page <= meter.MAX_LANES


def test_without_a_watcher_only_the_last_exchanges_are_kept() -> None:
    one = Meter()
    for number in range(3 * meter.MAX_RECORDS):
        exchange = exchange_of(one)
        exchange.responds(200)
        exchange.sent(number)
        exchange.closed()
    assert [record.down for record in one.records] == list(
        range(2 * meter.MAX_RECORDS, 3 * meter.MAX_RECORDS)
    )
    assert one.requests == 3 * meter.MAX_RECORDS


def exchange_of(one: Meter) -> Exchange:
    return Exchange(one, up=10, abort=lambda: None)


def test_exchanges_are_numbered_in_the_order_of_their_ends() -> None:
    """One that began earlier and ends later is reported after the other."""
    one = Meter()
    slow, quick = exchange_of(one), exchange_of(one)
    for exchange in (slow, quick):
        exchange.responds(200)
        exchange.sent(100)
    quick.closed()
    [last] = [record.number for record in one.records]
    slow.closed()
    assert len([record for record in one.records if record.number > last]) == 1


def test_an_exchange_is_recorded_once() -> None:
    one = Meter()
    exchange = exchange_of(one)
    exchange.responds(101)
    exchange.sent(100)
    exchange.report()
    exchange.responds(200)  # what a route returns after the 101 is not sent
    exchange.closed()
    exchange.closed()
    assert [record.status for record in one.records] == [101]
    assert one.requests == 1
    assert not one._connections


def test_many_threads_count_together() -> None:
    one, start = Meter(), threading.Barrier(8)

    def run() -> None:
        start.wait()
        for _ in range(2000):
            exchange = exchange_of(one)
            exchange.responds(304)
            exchange.sent(7)
            exchange.closed()

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (one.requests, one.empty, one.up, one.down) == (16_000, 16_000, 160_000, 112_000)
    numbers = [record.number for record in one.records]
    assert numbers == list(range(16_000 - meter.MAX_RECORDS + 1, 16_001))
    assert not one._connections


def test_the_relay_itself(server: Server) -> None:
    with Relay(server.port) as relay, Wire(relay.port) as wire:
        assert wire.request(request("/data?lane=itself")).status == 200
        [connection] = relay.naming("lane=itself")
        connection.stall()
        wire.socket.sendall(request("/data"))
        eventually(lambda: connection.up == wire.sent)
        wire.socket.settimeout(0.05)
        with pytest.raises(TimeoutError):
            wire.socket.recv(1)
        wire.socket.settimeout(HANG_TIMEOUT)
        connection.resume()
        assert wire.socket.recv(9) == b"HTTP/1.1 "
        connection.cut()
        wire.rest()
        assert connection.closed.wait(HANG_TIMEOUT)
