"""One contract for every program and every transport: what a browser may rely on."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol
from urllib.parse import quote

import pytest
import websocket
from websockets.sync.client import ClientConnection, connect

from pushlab.feed import Feed
from pushlab.transports import sse
from tests.clients import UPGRADE
from tests.conftest import Server, Start


class Browser(Protocol):
    """The headless half of a transport: asks with a query, hears news one by one."""

    def news(self, *, timeout: float = 5.0) -> Any:
        """Wait for the next news and return it; TimeoutError if none comes."""

    def close(self) -> None: ...


class ShortPoll:
    """Asks again and again: with GET for readings, with HEAD for signals."""

    def __init__(self, server: Server, *, after: str | None = None, carry: bool = False) -> None:
        self.http, self.after, self.method = server.http, after, "GET" if carry else "HEAD"

    def news(self, *, timeout: float = 5.0) -> Any:
        deadline = time.monotonic() + timeout
        known = {} if self.after is None else {"If-None-Match": f'"{self.after}"'}
        while (answer := self.http.request(self.method, "/data", headers=known)).status == 304:
            if time.monotonic() > deadline:
                raise TimeoutError
            time.sleep(0.02)
        assert (answer.status, answer.headers["Cache-Control"]) == (200, "no-cache"), answer
        self.after = answer.headers["ETag"].strip('"')
        if self.method == "HEAD":
            assert answer.body == b""
            return {"cursor": self.after}
        assert answer.json["cursor"] == self.after
        return answer.json

    def close(self) -> None:
        pass


class LongPoll:
    """Asks, waits, and asks again after what it was told."""

    def __init__(self, server: Server, *, after: str | None = None, carry: bool = False) -> None:
        self.http, self.after, self.carry = server.http, after, carry

    def news(self, *, timeout: float = 5.0) -> Any:
        after = "" if self.after is None else f"&after={self.after}"
        answer = self.http.get(f"/update?timeout={timeout}&carry={int(self.carry)}{after}")
        if answer.status == 204:
            raise TimeoutError
        assert (answer.status, answer.headers["Cache-Control"]) == (200, "no-store"), answer
        self.after = answer.json["cursor"]
        return answer.json

    def close(self) -> None:
        pass


class WebSocket:
    """The `websockets` library."""

    def __init__(self, server: Server, *, after: str | None = None, carry: bool = False) -> None:
        after = "" if after is None else f"&after={after}"
        self._opened = connect(f"{server.ws}/update?carry={int(carry)}{after}")
        self.socket: ClientConnection = self._opened.__enter__()

    def news(self, *, timeout: float = 5.0) -> Any:
        return json.loads(self.socket.recv(timeout))

    def close(self) -> None:
        self._opened.__exit__(None, None, None)
        assert self.socket.close_code == 1000


class WebSocketClient:
    """The `websocket-client` library."""

    def __init__(self, server: Server, *, after: str | None = None, carry: bool = False) -> None:
        after = "" if after is None else f"&after={after}"
        self.socket = websocket.create_connection(f"{server.ws}/update?carry={int(carry)}{after}")

    def news(self, *, timeout: float = 5.0) -> Any:
        self.socket.settimeout(timeout)
        try:
            return json.loads(self.socket.recv())
        except websocket.WebSocketTimeoutException:
            raise TimeoutError from None

    def close(self) -> None:
        self.socket.close()


class EventStream:
    """Reads a stream as WHATWG HTML section 9.2.6 says, from a bare socket that may time out."""

    def __init__(
        self,
        server: Server,
        *,
        after: str | None = None,
        carry: bool = False,
        last_event_id: str | None = None,
    ) -> None:
        query = f"carry={int(carry)}" + ("" if after is None else f"&after={after}")
        last = "" if last_event_id is None else f"Last-Event-ID: {last_event_id}\r\n"
        self.socket = socket.create_connection(("127.0.0.1", server.port), 5)
        self.socket.sendall(
            f"GET /update?{query} HTTP/1.1\r\nHost: localhost\r\n{last}"
            "Accept: text/event-stream\r\n\r\n".encode()
        )
        self._received = b""
        self._text = b""
        head = self._until(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        assert b"Content-Type: text/event-stream; charset=utf-8\r\n" in head
        assert b"Cache-Control: no-store\r\n" in head
        assert self.event() == [("retry", "1000")]

    def _until(self, end: bytes) -> bytes:
        while end not in self._received:
            data = self.socket.recv(65536)
            assert data, "the stream ended"
            self._received += data
        found, _, self._received = self._received.partition(end)
        return found + end

    def event(self) -> list[tuple[str, str]]:
        """Read on to the next empty line; return the fields before it."""
        while b"\n\n" not in self._text:
            size = int(self._until(b"\r\n"), 16)
            if not size:
                raise EOFError
            while len(self._received) < size + 2:
                self._received += self.socket.recv(65536)
            self._text += self._received[:size]
            self._received = self._received[size + 2 :]
        lines, _, self._text = self._text.partition(b"\n\n")
        fields = [line.decode().partition(": ") for line in lines.split(b"\n")]
        return [(name, value) for name, _, value in fields]

    def news(self, *, timeout: float = 5.0) -> Any:
        self.socket.settimeout(timeout)
        (name, cursor), (other, data) = self.event()
        assert (name, other) == ("id", "data")
        assert json.loads(data)["cursor"] == cursor
        return json.loads(data)

    def close(self) -> None:
        self.socket.close()


TRANSPORTS: dict[str, Callable[..., Browser]] = {
    "poll": ShortPoll,
    "longpoll": LongPoll,
    "sse": EventStream,
    "websocket": WebSocket,
    "websocket-client": WebSocketClient,
}

Open = Callable[..., Browser]


@pytest.fixture(params=TRANSPORTS)
def browse(request: pytest.FixtureRequest, server: Server) -> Iterator[Open]:
    """Open browsers of each transport on the server."""
    opened: list[Browser] = []

    def browse(**query: Any) -> Browser:
        opened.append(TRANSPORTS[request.param](server, **query))
        return opened[-1]

    yield browse
    for browser in opened:
        browser.close()


def cursor(server: Server) -> str:
    return str(server.http.get("/data").json["cursor"])


def sequence(cursor: str) -> int:
    return int(cursor.rpartition("-")[2])


def test_contract_without_after_it_is_told_at_once(server: Server, browse: Open) -> None:
    newest = server.publish({"n": 1})
    assert browse().news() == {"cursor": newest}


@pytest.mark.parametrize("after", ["ffffffff-1", "{epoch}-0", "{epoch}-1", "{epoch}-999999"])
def test_contract_any_other_cursor_is_told_at_once(
    server: Server, browse: Open, after: str
) -> None:
    server.publish({"n": 1})
    newest = server.publish({"n": 2})
    asked = after.format(epoch=newest.partition("-")[0])
    assert browse(after=asked).news() == {"cursor": newest}


def test_contract_the_newest_cursor_waits_for_the_next(server: Server, browse: Open) -> None:
    browser = browse(after=server.publish({"n": 1}))
    with pytest.raises(TimeoutError):
        browser.news(timeout=0.2)
    told: list[Any] = []
    waiting = threading.Thread(target=lambda: told.append(browser.news()))
    waiting.start()
    newest = server.publish({"n": 2})
    waiting.join()
    assert told == [{"cursor": newest}]


def test_contract_a_signal_leads_to_the_reading(server: Server, browse: Open) -> None:
    browser = browse()
    browser.news()
    server.publish({"temperature": 21.5})
    signal = browser.news()
    reading = server.http.get("/data").json
    assert reading["cursor"] == signal["cursor"]
    assert reading["value"] == {"temperature": 21.5}


def test_contract_carry_brings_the_reading_itself(server: Server, browse: Open) -> None:
    browser = browse(carry=True)
    browser.news()
    before = time.time()
    server.publish({"text": "€ <&> \u2028", "list": [1, 2.5, None, True]})
    reading = browser.news()
    assert reading == server.http.get("/data").json
    assert reading["value"] == {"text": "€ <&> \u2028", "list": [1, 2.5, None, True]}
    assert before - 0.1 <= reading["changed_at"] <= time.time() + 0.1


def test_contract_the_largest_value_arrives(server: Server, browse: Open) -> None:
    browser = browse(carry=True)
    browser.news()
    value = {"text": "x" * (16 * 1024 - len('{"text": ""}'))}
    server.publish(value)
    assert browser.news()["value"] == value


def test_contract_nothing_is_lost_in_a_burst(server: Server, browse: Open) -> None:
    """Readings may be coalesced, but each news is newer, and the last is always told."""
    browser = browse()
    told = [browser.news()["cursor"]]
    cursors: list[str] = []
    burst = threading.Thread(
        target=lambda: cursors.extend(server.publish({"n": n}) for n in range(50))
    )
    burst.start()
    last = sequence(told[0]) + 50
    while sequence(told[-1]) < last:
        told.append(browser.news()["cursor"])
    burst.join()
    assert told[-1] == cursors[-1]
    sequences = [sequence(each) for each in told]
    assert sequences == sorted(set(sequences))
    with pytest.raises(TimeoutError):
        browser.news(timeout=0.1)


def test_contract_nothing_is_lost_across_a_reconnect(server: Server, browse: Open) -> None:
    browser = browse()
    last = browser.news()["cursor"]
    browser.close()
    newest = server.publish({"n": "while away"})
    assert browse(after=last).news() == {"cursor": newest}


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_contract_a_restart_is_news(start: Start, program: str, transport: str) -> None:
    server = start(program, "--source", "http")
    server.publish({"n": 1})
    before = cursor(server)
    assert server.stop() == 0
    again = start(program, "--source", "http", port=server.port)
    server.publish({"n": 1})  # the same sequence, in another epoch
    browser = TRANSPORTS[transport](again, after=before)
    told = browser.news()
    browser.close()
    assert told["cursor"] == cursor(again) != before


def test_contract_many_browsers_are_told_the_same(server: Server, browse: Open) -> None:
    browsers = [browse() for _ in range(20)]
    told: list[Any] = [browser.news() for browser in browsers]
    threads = [
        threading.Thread(target=lambda b=browser: told.append(b.news())) for browser in browsers
    ]
    for thread in threads:
        thread.start()
    newest = server.publish({"n": 1})
    for thread in threads:
        thread.join()
    assert told[20:] == [{"cursor": newest}] * 20


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("after=", "after"),
        ("after=41", "after"),
        ("after=8f3a91c2-", "after"),
        ("after=8f3a91c2-41%0a", "after"),
        ("after=%ff%fe-1", "after"),
        ("carry=", "carry"),
        ("carry=2", "carry"),
        ("carry=true", "carry"),
        ("carry=0&after=no", "after"),
    ],
)
@pytest.mark.parametrize("transport", ["longpoll", "sse", "websocket"])
def test_contract_malformed_parameters_are_named(
    server: Server, transport: str, query: str, parameter: str
) -> None:
    event_stream = {"Accept": "text/event-stream"}
    headers = {"websocket": UPGRADE, "sse": event_stream}.get(transport, {})
    answer = server.http.get(f"/update?{query}", headers=headers)
    assert answer.status == 400
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.json["error"].startswith(f"{parameter}:")


@pytest.mark.parametrize(
    "timeout",
    [
        "",
        "x",
        "-1",
        "60.1",
        "61",
        "1e1",
        "nan",
        "inf",
        "1_0",
        "\u0665",
        "+5",
        "0x10",
        "999999999999",
    ],
)
def test_contract_a_malformed_timeout_is_named(server: Server, timeout: str) -> None:
    answer = server.http.get(f"/update?timeout={quote(timeout)}")
    assert answer.status == 400
    assert answer.json["error"].startswith("timeout:")


@pytest.mark.parametrize("timeout", ["0", "0.0", "0.25"])
def test_contract_a_poll_is_held_as_long_as_asked(server: Server, timeout: str) -> None:
    start = time.monotonic()
    answer = server.http.get(f"/update?after={cursor(server)}&timeout={timeout}")
    elapsed = time.monotonic() - start
    assert (answer.status, answer.body) == (204, b"")
    assert answer.headers["Cache-Control"] == "no-store"
    assert elapsed >= float(timeout)


def test_contract_all_transports_hear_of_the_same_change(server: Server) -> None:
    browsers = [make(server) for make in TRANSPORTS.values()]
    for browser in browsers:
        browser.news()
    with ThreadPoolExecutor(len(browsers)) as pool:
        told = [pool.submit(browser.news) for browser in browsers]
        newest = server.publish({"n": 1})
        assert [each.result() for each in told] == [{"cursor": newest}] * len(browsers)
    for browser in browsers:
        browser.close()


def test_an_event_stream_goes_on_after_the_last_event(server: Server) -> None:
    """The header counts, not the URL, which is that of the first time."""
    old, newest = server.publish({"n": 1}), server.publish({"n": 2})

    def told(after: str, last: str) -> Any:
        browser = EventStream(server, after=after, last_event_id=last)
        try:
            return browser.news(timeout=0.3)
        except TimeoutError:
            return None
        finally:
            browser.close()

    assert told(old, newest) is None
    assert told(newest, old) == {"cursor": newest}
    assert told(newest, "nonsense of another server") == {"cursor": newest}


def test_a_silent_event_stream_shows_that_it_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "HEARTBEAT", 0.01)
    feed = Feed()
    stream = sse.events(feed, feed.latest.cursor, carry=False)
    assert [next(stream) for _ in range(3)] == [b"retry: 1000\n\n", b":\n\n", b":\n\n"]
    newest = feed.publish({}).cursor.encode()
    assert next(stream) == b'id: %s\ndata: {"cursor":"%s"}\n\n' % (newest, newest)
    feed.close()
    assert list(stream) == []


def test_event_streams_end_when_the_server_stops(start: Start, program: str) -> None:
    server = start(program, "--source", "http")
    browser = EventStream(server)
    browser.news()
    begun = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - begun < 2
    rest = iter(browser.event, None)
    with pytest.raises(EOFError):
        list(rest)
    browser.close()
