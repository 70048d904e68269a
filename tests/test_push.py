"""`Push` on every server, by every transport."""

import gc
import json
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from functools import cache
from http.client import HTTPResponse
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from flask import Flask, abort

from bench.servers import free_port
from pushlab import Feed, Push, limits
from pushlab.presence import Follower
from pushlab.testing import Client
from pushlab.transports import longpoll
from pushlab.wsgi.waiting import Wait
from tests.clients import (
    CLOSE,
    HANG_TIMEOUT,
    PING,
    PONG,
    TEXT,
    Closing,
    RawSocket,
    frame,
    handshake,
)
from tests.conftest import ROOT, Server, eventually
from tests.hosting import start_nginx
from tests.test_own_app import FLASK, GUNICORN, WORKER, OwnApp, hosted, running

JSON = {"Content-Type": "application/json"}
APP = "from tests.push_app import app\n"
SERVERS = {**hosted(APP), "flask": (APP, FLASK)}

_names = count()


def unique(kind: str) -> str:
    """Return a topic that no other test uses."""
    return f"{kind}/{next(_names)}"


@pytest.fixture(scope="module", params=SERVERS)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OwnApp]:
    """The app; its stop ends each transport as it should."""
    with running(tmp_path_factory.mktemp("app"), *SERVERS[request.param]) as server:
        yield server
        following = [follow(server, "log/stop") for follow in TRANSPORTS.values()]
        with ExitStack() as stack:
            for each in following:
                stack.enter_context(each)
                each.next()
            eventually(lambda: seen(server)["count"]["log/stop"] == len(following))
            server.process.terminate()
            assert [each.end() for each in following] == [204, None, 1001]
        assert server.wait() == 0, server.log
        assert "Exception in thread" not in server.log


# Browsers.


def path(*topics: str, after: tuple[str | None, ...] = (), **more: Any) -> str:
    pairs = [("topic", topic) for topic in topics] + [("after", each or "") for each in after]
    return f"/push/update?{urlencode([*pairs, *more.items()])}"


class Following(Closing):
    """A browser that follows topics; `next` is the next message."""

    accept: tuple[str, ...] = ()

    def __init__(
        self, server: Server, *topics: str, after: tuple[str | None, ...] = (), carry: int = 1,
        headers: dict[str, str] | None = None,
    ) -> None:  # fmt: skip
        self.server, self.topics, self.carry = server, topics, carry
        self.headers = headers or {}
        self.cursors = dict(zip(topics, after or [None] * len(topics), strict=True))
        self._ask()

    def _ask(self) -> None:
        fields = (f"{name}: {value}" for name, value in self.headers.items())
        self.socket = self.server.send_get(self.path, *self.accept, *fields)

    @property
    def path(self) -> str:
        prefix = getattr(self.server, "prefix", "")
        return prefix + path(*self.topics, after=tuple(self.cursors.values()), carry=self.carry)

    def response(self) -> HTTPResponse:
        response = HTTPResponse(self.socket)
        response.begin()
        return response

    def next(self) -> dict[str, Any]:
        raise NotImplementedError

    def until(self, cursor: str) -> list[dict[str, Any]]:
        """Return the messages up to this cursor."""
        messages = [self.next()]
        while messages[-1]["cursor"] != cursor:
            messages.append(self.next())
        return messages

    def end(self) -> int | None:
        """Return how the connection ends; a message before is wrong."""
        raise NotImplementedError

    def close(self) -> None:
        self.socket.close()


class Poll(Following):
    """Asks again as soon as it has a response."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._queue: list[dict[str, Any]] = []
        super().__init__(*arguments, **options)

    def next(self) -> dict[str, Any]:
        while not self._queue:
            response = self.response()
            assert response.status in (200, 204), response.read()
            self._queue += json.loads(response.read() or b"[]")
            self.cursors.update((each["topic"], each["cursor"]) for each in self._queue)
            self.close()
            self._ask()
        return self._queue.pop(0)

    def end(self) -> int | None:
        response = self.response()
        assert b"value" not in response.read()
        return response.status


class Stream(Following):
    accept = ("Accept: text/event-stream",)
    last_id = ""

    def _ask(self) -> None:
        super()._ask()
        self._response: HTTPResponse | None = None

    def _event(self) -> bytes | None:
        """Return the data of the next event; None at the end."""
        if self._response is None:
            self._response = self.response()
            assert self._response.status == 200
        data = b""
        while line := self._response.readline():
            name, _, value = line.strip().partition(b": ")
            if name == b"id":
                self.last_id = value.decode()
            elif name == b"data":
                data = value
            elif not line.strip() and data:
                return data
        assert not data, "an event is cut off"
        return None

    def next(self) -> dict[str, Any]:
        event = self._event()
        assert event is not None, "the stream ended"
        message: dict[str, Any] = json.loads(event)
        return message

    def end(self) -> int | None:
        assert self._event() is None
        return None

    def close(self) -> None:
        if self._response is not None:
            self._response.close()
        super().close()


class Socket(Following):
    def _ask(self) -> None:
        self.raw = RawSocket(self.server.port, self.path, changes=self.headers)
        assert self.raw.status == 101, self.raw.body

    def _frame(self) -> tuple[int, bytes]:
        while (got := self.raw.frame()) is not None and got[0] == PING:
            self.raw.send(frame(PONG, got[1]))
        assert got is not None, "the connection ended"
        return got

    def next(self) -> dict[str, Any]:
        opcode, payload = self._frame()
        assert opcode == TEXT, payload
        message: dict[str, Any] = json.loads(payload)
        return message

    def end(self) -> int | None:
        opcode, payload = self._frame()
        assert opcode == CLOSE, payload
        return int.from_bytes(payload[:2], "big")

    def close(self) -> None:
        self.raw.close()


Follow = Callable[..., Following]
TRANSPORTS: dict[str, Follow] = {"longpoll": Poll, "sse": Stream, "websocket": Socket}

#: How `disconnect` ends each.
REVOKED = {"longpoll": 401, "sse": None, "websocket": 4401}


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def follow(server: OwnApp, transport: str) -> Iterator[Follow]:
    """Follow topics on this server, by this transport."""
    with ExitStack() as stack:
        yield lambda *topics, **options: stack.enter_context(
            TRANSPORTS[transport](server, *topics, **options)
        )


def publish(server: Server, topic: str, *values: Any) -> list[str]:
    prefix = getattr(server, "prefix", "")
    response = server.http.post(f"{prefix}/publish/{topic}", values, headers=JSON)
    assert response.status == 200, response.body
    cursors: list[str] = response.json
    return cursors


def seen(server: OwnApp) -> Any:
    return server.http.get("/seen").json


def until_followed(server: OwnApp, topic: str, followers: int = 1) -> None:
    eventually(lambda: seen(server)["count"].get(topic, 0) == followers)


def logged_in(server: OwnApp, user: object) -> dict[str, str]:
    """Return the headers of a user's requests."""
    return _logged_in(server.url, server, user)


@cache
def _logged_in(_: str, server: OwnApp, user: object) -> dict[str, str]:
    return {"Cookie": server.http.post(f"/login/{user}", {}).headers["Set-Cookie"].split(";")[0]}


def numbers(first: int, last: int) -> list[dict[str, int]]:
    return [{"n": number} for number in range(first, last + 1)]


def shape(message: dict[str, Any], newest: str) -> Any:
    """Return "reset", the position 0, or the value."""
    assert message["cursor"].rpartition("-")[0] == newest.rpartition("-")[0]
    if message.get("reset"):
        assert set(message) == {"topic", "cursor", "reset"}
        assert message["cursor"] == newest
        return "reset"
    if message["cursor"].endswith("-0"):
        assert set(message) == {"topic", "cursor"}
        return 0
    assert set(message) == {"topic", "cursor", "changed_at", "value"}
    return message["value"]["n"]


# Readings.


def test_several_topics_each_with_a_cursor(server: OwnApp, follow: Follow) -> None:
    log, state, begun = unique("log"), unique("state"), f"begun/{next(_names)}"
    browser = follow(log, state, begun)
    first = [browser.next() for _ in range(3)]
    assert [each["topic"] for each in first] == [log, state, begun]
    assert [set(each) for each in first[:2]] == [{"topic", "cursor"}] * 2
    assert first[2]["value"] == {"left": int(begun.partition("/")[2])}
    *_, logged = publish(server, log, *numbers(1, 40))
    *_, newest = publish(server, state, *numbers(1, 40))
    publish(server, begun, {"left": 0})
    received: dict[str, list[dict[str, Any]]] = {log: [], state: [], begun: []}
    while not (received[begun] and received[state] and received[state][-1]["cursor"] == newest):
        message = browser.next()
        received[message["topic"]].append(message)
    assert [each["value"] for each in received[log]] == numbers(1, 40)
    assert received[log][-1]["cursor"] == logged
    sequences = [int(each["cursor"].rpartition("-")[2]) for each in received[state]]
    assert sequences == sorted(set(sequences))
    assert received[state][-1]["value"] == {"n": 40}
    # Away for a moment.
    browser.close()
    cursors = logged, newest, received[begun][-1]["cursor"]
    publish(server, log, *numbers(41, 43))
    again = follow(log, state, begun, after=cursors)
    assert [again.next()["value"] for _ in range(3)] == numbers(41, 43)
    publish(server, state, {"n": 41})
    assert again.next()["value"] == {"n": 41}


@pytest.mark.parametrize("kind", ["state", "log", "short"])
def test_what_a_cursor_gets(server: OwnApp, follow: Follow, kind: str) -> None:
    topic, empty = unique(kind), unique(kind)
    *_, newest = publish(server, topic, *numbers(1, 5))
    epoch = newest.rpartition("-")[0]
    rows: dict[str, tuple[list[Any], ...]] = {
        "state": ([5], [5], [5]), "log": ([1, 2, 3, 4, 5], [2, 3, 4, 5], [3, 4, 5]),
        "short": (["reset"], ["reset"], [3, 4, 5]),
    }  # fmt: skip
    none, one, two = rows[kind]
    unknown: list[Any] = [5] if kind == "state" else ["reset"]
    expected = {
        None: none, f"{epoch}-0": none, f"{epoch}-1": one, f"{epoch}-2": two,
        f"{epoch}-4": [5], newest: [], f"{epoch}-6": unknown, "a1b2c3d4-4": unknown,
        f"{epoch}-999999999999999999": unknown,
    }  # fmt: skip
    browsers = {after: follow(topic, after=(after,)) for after in expected}
    fresh = follow(empty)
    got = {
        after: [shape(browsers[after].next(), newest) for _ in expect]
        for after, expect in expected.items()
    }
    assert got == expected
    assert set(fresh.next()) == {"topic", "cursor"}
    publish(server, topic, {"n": 6})
    publish(server, empty, {"n": 1})
    assert [each.next()["value"] for each in browsers.values()] == [{"n": 6}] * len(expected)
    assert fresh.next()["value"] == {"n": 1}


def test_signals_bring_what_is_fetched(server: OwnApp, follow: Follow) -> None:
    log, state = unique("log"), unique("state")
    browser = follow(log, state, carry=0)
    start = {each["topic"]: each["cursor"] for each in (browser.next(), browser.next())}
    *_, last = publish(server, log, *numbers(1, 3))
    signals = browser.until(last)
    assert all(each == {"topic": log, "cursor": each["cursor"]} for each in signals)
    fetched = server.http.get(path(log, after=(start[log],), carry=1, timeout=0)).json
    assert [each["value"] for each in fetched] == numbers(1, 3)
    response = server.http.get(path(log, state, after=(last, start[state]), timeout=0))
    assert (response.status, response.body) == (204, b"")
    newest = server.http.get(f"/push/data?topic={log}")
    assert newest.json == fetched[-1]
    assert newest.headers["ETag"] == f'"{last}"'
    headers = {"If-None-Match": newest.headers["ETag"]}
    assert server.http.get(f"/push/data?topic={log}", headers=headers).status == 304
    both = server.http.get(f"/push/data?topic={log}&topic={state}")
    assert (both.status, both.json["error"][:6]) == (400, "topic:")


def test_an_event_stream_resumes_every_topic(server: OwnApp) -> None:
    log, state = unique("log"), unique("state")
    *_, newest = publish(server, log, *numbers(1, 3))
    with Stream(server, log, state) as stream:
        for _ in range(4):
            stream.next()
        last_id = stream.last_id
    publish(server, log, {"n": 4})
    publish(server, state, {"n": 9})
    old = (newest.replace("-3", "-1"), None)
    with Stream(server, log, state, after=old, headers={"Last-Event-ID": last_id}) as stream:
        assert [stream.next()["value"] for _ in range(2)] == [{"n": 4}, {"n": 9}]
        last = stream.last_id
        assert last.split(",")[0] == newest.replace("-3", "-4")
    newest = last.partition(",")[0]
    rows = {"not ours": "reset", newest.replace("-4", "-3"): 4, ",": 1, f"{last},x": "reset",
            f"{newest}{'0' * 5000},": "reset"}  # fmt: skip
    for last_id, first in rows.items():
        with Stream(server, log, state, headers={"Last-Event-ID": last_id}) as stream:
            assert shape(stream.next(), newest) == first


def test_a_slow_subscriber_gets_the_rest_or_a_reset(server: OwnApp) -> None:
    """Its socket is full when it begins to read."""
    values = [{"n": number, "text": "x" * 8000} for number in range(1, 201)]
    transports: list[Follow] = [Socket]
    if "uwsgi" not in " ".join(map(str, server.process.args)):  # type: ignore[arg-type]
        transports.append(Stream)  # uWSGI gives up a client that does not read for four seconds
    for transport in transports:
        for kind in ("log", "short"):
            topic = unique(kind)
            with transport(server, topic) as browser:
                browser.next()
                *_, newest = publish(server, topic, *values)
                resets, last = 0, 0
                for message in browser.until(newest):
                    sequence = int(message["cursor"].rpartition("-")[2])
                    is_reset = message.get("reset", False)
                    assert sequence > last if is_reset else sequence == last + 1
                    resets, last = resets + is_reset, sequence
                assert bool(resets) is (kind == "short")
                publish(server, topic, {"n": 0})
                assert browser.next()["value"] == {"n": 0}


# Refusals.

#: A query, the status, and what the error says.
REFUSED: list[tuple[str, int, str]] = [
    *((f"topic=status/{status}", status, "") for status in (400, 401, 403, 404, 500, 503)),
    ("topic=returns/401", 401, ""), ("topic=returns/403", 403, ""), ("topic=returns/404", 404, ""),
    ("topic=returns/418", 418, ""), ("topic=raises", 500, ""), ("topic=valued", 500, ""),
    ("topic=users/7", 401, ""), ("topic=members/1", 401, "log in"), ("topic=login/1", 401, "log"),
    ("topic=log/one&topic=status/403", 403, ""), ("topic=log/one&topic=raises", 500, ""),
    ("topic=nowhere/1", 404, "there is no topic 'nowhere/1'"), ("topic=begun/x", 404, "begun/x"),
    ("topic=/log/one", 404, ""), ("topic=state/1/", 404, ""), ("topic=log/", 404, ""),
    ("", 400, "topic: none"), ("topic=", 400, "topic: a name without a character"),
    ("topic=log/a%0Ab", 400, "topic: a name with control"), ("topic=log/%7F", 400, "topic: a name"),
    ("topic=log/" + "%C3%A9" * 99, 400, "topic: a name of 202 bytes; 200 are allowed"),
    ("topic=log/one&topic=log/one", 400, "topic: the same one twice"),
    (urlencode([("topic", f"log/{n}") for n in range(33)]), 400, "topic: 33 of them; 32 are"),
    ("topic=log/one&topic=log/two&after=", 400, "after: 1 of them for 2 topics"),
    ("topic=log/one&topic=log/two&after=&after=x", 400, "after: not a cursor"),
    ("topic=log/one&after=a-1&after=a-1", 400, "after: 2 of them for 1 topics"),
    ("topic=log/one&after=a-1%00", 400, "after: not a cursor"),
    ("topic=log/one&carry=2", 400, "carry: neither"),
    ("topic=log/one&timeout=-1", 400, "timeout: not"),
]  # fmt: skip


def refusal(
    server: Server, transport: str, query: str, headers: dict[str, str] | None = None
) -> tuple[int, str]:
    """Return the status, and the error if it is JSON."""
    path, headers = f"{getattr(server, 'prefix', '')}/push/update?{query}", headers or {}
    if transport == "websocket":
        with server.websocket(path, changes=headers) as raw:
            status, body = raw.status, b"" if raw.status == 101 else raw.body
    else:
        headers = {**headers, "Accept": "text/event-stream" if transport == "sse" else "*/*"}
        response = server.http.get(f"{path}&timeout=0", headers=headers)
        status, body = response.status, response.body
    return status, json.loads(body)["error"] if body.startswith(b'{"error"') else ""


def test_refusals(server: OwnApp, transport: str, follow: Follow) -> None:
    """Before anything is accepted; nothing is lost for others."""
    topic = unique("log")
    other = follow(topic)
    other.next()
    got = {query: refusal(server, transport, query) for query, *_ in REFUSED}
    assert {query: status for query, (status, _) in got.items()} == {
        query: status for query, status, _ in REFUSED
    }
    for query, status, error in REFUSED:
        assert error in got[query][1], got[query]
        assert got[query][1] or status == 500
    counts = seen(server)["count"]
    assert not any(counts.get(query.partition("=")[2].partition("&")[0]) for query, *_ in REFUSED)
    assert counts[topic] == 1
    ann = logged_in(server, "ann")
    assert refusal(server, transport, "topic=users/bob", ann)[0] == 403
    publish(server, topic, {"n": 1})
    assert other.next()["value"] == {"n": 1}
    allowed = follow("users/ann", *map(unique, ["members", "login", *["log"] * 29]), headers=ann)
    assert len({allowed.next()["topic"] for _ in range(32)}) == 32
    itself = unique("publishing")
    assert follow(itself).next()["value"] == {"by": "itself"}


def test_what_cannot_be_published(server: OwnApp, follow: Follow) -> None:
    topic = unique("log")
    browser = follow(topic)
    browser.next()
    rows = {
        (topic, "[[1]]"): "dict, not a list",
        (topic, "[null]"): "dict, not a NoneType",
        (topic, '[{"n": NaN}]'): "float values",
        (topic, json.dumps([{"n": "x" * 20_000}])): "20008 bytes long; 16384 are allowed",
        ("nowhere/1", "[{}]"): "there is no topic 'nowhere/1'",
        ("log/%1b", "[{}]"): "topic: a name with control characters",
        ("log/" + "x" * 200, "[{}]"): "topic: a name of 204 bytes",
    }
    for (name, body), error in rows.items():
        response = server.http.post(f"/publish/{name}", body.encode(), headers=JSON)
        assert response.status == 422, (name, response)
        assert error in response.json["error"]
    assert publish(server, topic, {"n": 1})[0].endswith("-1")
    assert browser.next()["value"] == {"n": 1}


# Who is there.


def test_disconnect(server: OwnApp, transport: str, follow: Follow) -> None:
    """Nothing that is published afterwards is sent."""
    topic, log, eve = unique("log"), unique("log"), f"eve-{next(_names)}"
    assert server.http.post("/disconnect/nobody", {}).body == b"0"
    gone = [follow(topic, log, headers=logged_in(server, eve)) for _ in range(2)]
    stays = [follow(topic, headers=logged_in(server, "ann")), follow(topic)]
    for each in (*gone, *gone, *stays):
        each.next()
    until_followed(server, topic, 4)
    assert server.http.post(f"/disconnect/{eve}", {}).body == b"2"
    publish(server, topic, {"value": 1})
    assert [each.end() for each in gone] == [REVOKED[transport]] * 2
    assert [each.next()["value"] for each in stays] == [{"value": 1}] * 2
    until_followed(server, topic, 2)
    assert server.http.post(f"/disconnect/{eve}", {}).body == b"0"
    back = follow(topic, headers=logged_in(server, eve))
    assert back.next()["value"] == {"value": 1}, "one may come back"


def test_disconnect_while_the_topic_is_asked_for(server: OwnApp, transport: str) -> None:
    topic, eve = unique("gate"), f"eve-{next(_names)}"
    server.http.post("/gate/0", {})
    headers = logged_in(server, eve)
    fields = Stream.accept if transport == "sse" else ()
    with server.open_socket() as waiting:
        if transport == "websocket":
            waiting.sendall(handshake(path(topic, carry=1), changes=headers))
        else:
            head = [f"GET {path(topic, carry=1)} HTTP/1.1", "Host: 127.0.0.1", *fields]
            head += [f"{name}: {value}" for name, value in headers.items()]
            waiting.sendall("\r\n".join([*head, "Connection: close", "", ""]).encode())
        eventually(lambda: seen(server)["entered"])
        assert server.http.post(f"/disconnect/{eve}", {}).body == b"1"
        publish(server, topic, {"value": 1})
        server.http.post("/gate/1", {})
        received = b""
        while (piece := waiting.recv(4096)) and b"\x88" not in received:
            received += piece
    assert b"value" not in received
    assert b" 401 " in received.partition(b"\r\n")[0], "also instead of the 101"
    assert topic in seen(server)["count"]
    until_followed(server, topic, 0)


def test_presence(server: OwnApp, transport: str, follow: Follow) -> None:
    topic, ann = unique("log"), f"ann-{next(_names)}"
    browser = follow(topic, headers=logged_in(server, ann))
    browser.next()
    for number in range(3):  # a long poll comes again and again
        publish(server, topic, {"n": number})
        browser.next()
    until_followed(server, topic)
    browser.close()

    def happened() -> list[str]:
        events = [each for each in seen(server)["events"] if each[0] == topic]
        assert all(each[1:3] == [ann, transport] for each in events)
        return [each[3] for each in events]

    eventually(lambda: happened() == ["came", "closed"])
    until_followed(server, topic, 0)
    again = follow(topic, headers=logged_in(server, ann))
    again.until(publish(server, topic, {"n": 3})[0])
    until_followed(server, topic)
    server.http.post(f"/disconnect/{ann}", {})
    eventually(lambda: happened() == ["came", "closed", "came", "disconnected"])
    assert "a hook failed" in server.log


def test_a_topic_that_nobody_follows_is_forgotten(server: OwnApp, follow: Follow) -> None:
    """Made again, it has nothing new for a browser that comes back."""
    topic, begun, published = unique("state"), unique("begun"), unique("state")
    browser = follow(topic, begun, published)
    cursors = tuple(browser.next()["cursor"] for _ in range(3))
    for number in range(3):
        publish(server, published, {"n": number})
        assert browser.next()["value"] == {"n": number}
    until_followed(server, topic)
    browser.close()
    eventually(lambda: not {topic, begun} & set(seen(server)["count"]))
    until_followed(server, published, 0)
    again = follow(topic, begun, after=cursors[:2])
    until_followed(server, topic)
    publish(server, begun, {"left": 0})
    assert again.next()["value"] == {"left": 0}


# Where it runs.

ALLOWED, OTHER = {"Origin": "https://page.example"}, {"Origin": "https://evil.example"}
PREFLIGHT = {"Access-Control-Request-Method": "GET"}


def test_pages_of_other_origins(server: OwnApp) -> None:
    topic = unique("state")
    publish(server, topic, {"n": 1})
    update, data = path(topic, timeout=0), f"/push/data?topic={topic}"
    for url, status in ((update, 200), (data, 200), (path("status/401"), 401)):
        for origin, expected in ((ALLOWED, ALLOWED["Origin"]), (OTHER, None)):
            response = server.http.get(url, headers=origin)
            assert response.status == status
            assert response.headers.get("Access-Control-Allow-Origin") == expected
        response = server.http.request("OPTIONS", url, headers={**ALLOWED, **PREFLIGHT})
        assert (response.status, "Access-Control-Allow-Methods" in response.headers) == (204, True)
    assert "Access-Control-Allow-Origin" not in server.http.get("/", headers=ALLOWED).headers
    for origin, status in ((ALLOWED, 101), (OTHER, 403)):
        with server.websocket(update, changes=origin) as raw:
            assert raw.status == status


class Below(Server):
    """An app below a path, perhaps behind nginx."""

    def __init__(self, port: int, prefix: str) -> None:
        self.prefix = prefix
        self.is_at(f"http://127.0.0.1:{port}")


DISPATCHED = """
from werkzeug.exceptions import NotFound
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from tests.push_app import app as pushing
"""
#: How to serve the app below /shop.
PLACES: dict[str, tuple[str, tuple[str, ...]]] = {
    "SCRIPT_NAME": (APP, (*WORKER, "app:app")),
    "nginx": (APP, (*WORKER, "app:app")),
    "DispatcherMiddleware, gunicorn": (
        DISPATCHED + "app = DispatcherMiddleware(NotFound(), {'/shop': pushing})",
        (*WORKER, "app:app"),
    ),
    "DispatcherMiddleware, flask run": (
        DISPATCHED + "from flask import Flask\napp = Flask(__name__)\n"
        "app.wsgi_app = DispatcherMiddleware(app.wsgi_app, {'/shop': pushing})",
        FLASK,
    ),
}  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
def test_below_a_path(place: str, tmp_path: Path) -> None:
    with ExitStack() as stack:
        environment = {"SCRIPT_NAME": "/shop"} if place == "SCRIPT_NAME" else {}
        source, command = PLACES[place]
        app = OwnApp(tmp_path, source, command, **environment)
        stack.callback(app.wait)
        stack.callback(app.process.terminate)
        server = Below(app.port, "/shop")
        if place == "nginx":
            server = Below(free_port(), "/shop")
            stack.callback(start_nginx(tmp_path, app.port, server.port, prefix="/shop").stop)
        eventually(lambda: responds(server, "/shop/"))
        assert server.http.get("/shop/").body == b"/shop"
        assert server.http.get("/shop/push/push.js").status == 200
        topic = unique("log")
        following = [
            stack.enter_context(transport(server, topic)) for transport in TRANSPORTS.values()
        ]
        for each in following:
            each.next()
        publish(server, topic, {"n": 1})
        assert [each.next()["value"] for each in following] == [{"n": 1}] * 3
        assert server.http.get(f"/shop/push/data?topic={topic}").json["value"] == {"n": 1}


def responds(server: Server, url: str) -> bool:
    with suppress(OSError):
        return server.http.get(url).status == 200
    return False


def test_with_reloader_and_debugger(tmp_path: Path) -> None:
    with running(tmp_path, APP, (*FLASK, "--debug")) as server:
        topic = unique("log")
        following = [transport(server, topic) for transport in TRANSPORTS.values()]
        with ExitStack() as stack:
            for each in following:
                stack.enter_context(each).next()
            publish(server, topic, {"n": 1})
            assert [each.next()["value"] for each in following] == [{"n": 1}] * 3


@pytest.mark.parametrize("options", [(), ("-k", "gevent"), ("-k", "gthread", "--threads", "8")])
def test_a_server_without_websockets(tmp_path: Path, options: tuple[str, ...]) -> None:
    """Says so in one sentence; streams and polls work there."""
    # gunicorn's own workers await the end of a request, and do not see that its client is gone.
    command = (*GUNICORN, *options, "--graceful-timeout", "1", "app:app")
    with running(tmp_path, APP, command) as server:
        status, error = refusal(server, "websocket", "topic=log/1")
        assert status == 501
        assert "gunicorn -k pushlab.hosting.gunicorn.Worker" in error
        assert "Traceback" not in server.log
        topic = unique("log")
        publish(server, topic, {"n": 1})
        assert server.http.get(path(topic, carry=1)).json[0]["value"] == {"n": 1}
        if options:  # else one request at a time
            with Stream(server, topic) as stream:
                assert stream.next()["value"] == {"n": 1}
                publish(server, topic, {"n": 2})
                assert stream.next()["value"] == {"n": 2}


def test_several_processes_are_refused(tmp_path: Path, transport: str) -> None:
    """Without Redis."""
    if transport == "websocket":
        server = OwnApp(tmp_path, APP, (*WORKER, "-w", "2", "app:app"))
        assert server.wait() != 0
        assert "gunicorn has several workers" in server.log
        source, command = PLACES["DispatcherMiddleware, gunicorn"]
        prefix = "/shop"
    else:
        source, command, prefix = APP, (*GUNICORN, "-k", "gthread", "app:app"), ""
    server = OwnApp(tmp_path, source, (*command, "-w", "2", "--graceful-timeout", "1"))
    with ExitStack() as stack:
        stack.callback(server.wait)
        stack.callback(server.process.terminate)
        below = Below(server.port, prefix)
        eventually(lambda: responds(below, f"{prefix}/"))
        status, error = refusal(below, transport, "topic=log/1")
        assert status == 503
        assert "several processes" in error
        assert "redis=" in error
        assert below.http.post(f"{prefix}/publish/log/1", [{}], headers=JSON).status == 500
    assert "several" in server.log


@pytest.mark.parametrize(
    ("config", "error"),
    [
        ({"PUSHLAB_ALLOW_ORIGINS": ["nope"]}, "PUSHLAB_ALLOW_ORIGINS: 'nope' is not an origin"),
        ({"PUSHLAB_ALLOW_HOSTS": ["a b"]}, "PUSHLAB_ALLOW_HOSTS: 'a b' is not a host name"),
        ({"PUSHLAB_ALLOW_HOSTS": 5}, "PUSHLAB_ALLOW_HOSTS: 5 is not a list of texts"),
        ({"PUSHLAB_ALLOW_HOSTS": [5]}, "PUSHLAB_ALLOW_HOSTS: [5] is not a list of texts"),
        ({"PUSHLAB_TRUSTED_PROXIES": ["x"]}, "PUSHLAB_TRUSTED_PROXIES: 'x'"),
        ({"PUSHLAB_PING_INTERVAL": 0}, "PUSHLAB_PING_INTERVAL: 0 is not a number of seconds"),
        ({"PUSHLAB_REDIS": "http://x"}, "Redis URL must specify one of the following schemes"),
    ],
)
def test_wrong_configuration(config: dict[str, Any], error: str) -> None:
    app = Flask("app")
    app.config.update(config)
    with pytest.raises(ValueError, match=re.escape(error)) as raised:
        Push(app)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("name", "keep"), [("a/<int:b", 1), ("a/<wrong:b>", 1), ("a", 0)])
def test_a_wrong_topic(name: str, keep: int) -> None:
    with pytest.raises((ValueError, LookupError), match=r"a|wrong"):
        Push(Flask("app")).topic(name, keep=keep)(print)


# What it costs, and who is there, without a server.

COST = """
import gc, threading, tracemalloc
from flask import Flask
from greenlet import greenlet
from pushlab import Push
from pushlab.hub import SIGNALS, _News
from tests.test_hub import FakeChannel, FakeConnection

NUMBER, OTHERS = 2000, 680  # the others fill what is remembered of requests
app = Flask("app")
push = Push(app, identify=lambda: "7")
push.hub.ping_interval = 3600.0  # they never reply, and stay on a slow machine, too

@push.topic("log/<int:number>", keep=1000)
def log(number):
    pass

class Channel(FakeChannel):
    def send(self, data):
        return len(data)

    def watch(self, *_, **__):
        pass

feeds, connections = [], [FakeConnection(Channel()) for _ in range(NUMBER + OTHERS)]

def follow(number):
    with app.test_request_context(f"/push/update?topic=log/{number}"):
        with push._admitted("websocket") as (its, follower):
            positions = [(feed, None) for feed in its]
            push.hub.follow(connections[number], positions, follower=follower)
            feeds.append(its[0])

def measure(function, those):
    gc.collect()
    before = tracemalloc.get_traced_memory()[0]
    kept = [function(each) for each in those]
    gc.collect()
    return (tracemalloc.get_traced_memory()[0] - before) / len(kept) - 8

def running():
    gc.collect()
    return threading.active_count() + sum(isinstance(each, greenlet) for each in gc.get_objects())

for number in range(OTHERS):
    follow(number)
tracemalloc.start()
before = running()
cost = measure(follow, range(OTHERS, OTHERS + NUMBER))
after = running()
def make_reading(feed):
    news = _News([feed._first()])
    return news.readings[0], news.by(SIGNALS)

readings = measure(make_reading, feeds)
assert push.count("log/7") == 1 and len(push.topics()) == NUMBER + OTHERS
assert cost - readings <= 2048, (cost, readings)
assert after == before, "a thread or a greenlet"
"""


@pytest.mark.parametrize("before", ["", "from gevent import monkey; monkey.patch_all()"])
def test_a_topic_with_one_follower_costs_two_kilobytes(before: str) -> None:
    """Beside its readings and the connection."""
    done = subprocess.run(
        [sys.executable, "-c", before + COST], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture
def pushing() -> Iterator[tuple[Push, Client, list[str]]]:
    """An app in this process, its browser, and what its hooks were told."""
    app = Flask("app")
    push, reasons = Push(app, identify=lambda: "ann"), list[str]()
    push.on_follow(lambda follower: reasons.append("came"))
    push.on_leave(lambda follower, reason: reasons.append(reason))
    push.topic("log/<name>", keep=100)(lambda name: None)
    push.topic("state/<name>")(lambda name: {"n": 1})
    push.topic("refused/<name>")(lambda name: abort(403))
    with Client(app) as client:
        yield push, client, reasons


Pushing = tuple[Push, Client, list[str]]


def test_nothing_is_left_of_a_topic_that_nobody_follows(pushing: Pushing) -> None:
    push, client, _ = pushing
    gc.collect()
    before = len(Feed.instances)
    for _ in range(2):
        for topic in ("log/a", "state/a", "refused/a", "nowhere"):
            client.follow(topic, "log/b").close()
            client.http.get(path(topic, "log/c", timeout=0))
            client.http.get(path(topic, "log/d", after=("a-1", "a-1"), timeout=0.01))
            client.http.get(f"/push/data?topic={topic}")
        push.cursor("log/e")
        assert push.disconnect("ann") == 0
    assert push.topics() == []
    assert (push._topics, push._followers) == ({}, {})
    assert (push.hub._audiences, push.hub._polls._groups) == ({}, {})
    gc.collect()
    assert len(Feed.instances) <= before
    push.publish("state/a", {"n": 2})
    assert push.topics() == ["state/a"]


def test_garbage_is_collected_while_a_topic_is_made(
    pushing: Pushing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread holds the feeds' lock, and there a follower turns out to be garbage."""
    push, *_ = pushing
    making, make = threading.Event(), push._make_feed

    def make_feed(topic: str, keep: int, rule: str) -> Feed:
        making.set()
        return make(topic, keep, rule)

    monkeypatch.setattr(push, "_make_feed", make_feed)
    publishing = threading.Thread(target=push.publish, args=("state/a", {}), daemon=True)
    with Feed._keeping:
        publishing.start()
        making.wait()
        assert push._lock.acquire(timeout=HANG_TIMEOUT), "the follower could not be forgotten"
        push._lock.release()
    publishing.join(HANG_TIMEOUT)


def silent(push: Push) -> None:
    push.hub.ping_interval = 0.05


def slow(push: Push) -> None:
    silent(push)
    for number in range(100):
        push.publish("log/a", {"n": number, "text": "x" * 10_000})


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        (silent, "silent"),
        (slow, "slow"),
        (lambda push: push.hub.close(), "shutdown"),
        (lambda push: push.disconnect("ann"), "disconnected"),
        (lambda push: None, "closed"),
    ],
)
def test_why_a_follower_left(pushing: Pushing, what: Callable[[Push], None], reason: str) -> None:
    push, client, reasons = pushing
    if reason in ("silent", "slow"):
        silent(push)  # before the hub begins to ping
    following = client.follow("log/a")
    what(push)
    if reason not in ("silent", "slow", "shutdown"):
        following.close()
    eventually(lambda: reasons == ["came", reason])


def test_a_full_hub_refuses(pushing: Pushing) -> None:
    push, client, reasons = pushing
    push.hub._max_subscribers = 0
    full = client.follow("log/a")
    assert (full.status, full.closed, full.values()) == (101, 1013, [])
    assert push.count("log/a") == 0
    assert reasons == []


def test_a_browser_that_polls_has_left_when_it_does_not_come_back(
    pushing: Pushing, monkeypatch: pytest.MonkeyPatch
) -> None:
    push, client, reasons = pushing
    poll = path("log/a", after=(push.cursor("log/a"),), timeout=0.01)
    for _ in range(3):
        assert client.http.get(poll).status_code == 204
    monkeypatch.setattr(limits, "POLL_GRACE", 0.01)
    assert client.http.get(poll).status_code == 204
    eventually(lambda: reasons[-1:] == ["closed"])
    # Once; on a very busy machine the polls are further than POLL_GRACE apart.
    assert reasons[::2] == ["came"] * (len(reasons) // 2)


def test_a_browser_that_never_has_to_wait_is_there(
    pushing: Pushing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of its polls finds something new."""
    push, client, reasons = pushing
    for number in range(3):
        push.publish("log/a", {"n": number})
        assert client.http.get(path("log/a", timeout=0)).status_code == 200  # only asks
        assert client.http.get(path("state/a", timeout=1)).status_code == 200
    eventually(lambda: reasons == ["came"])
    monkeypatch.setattr(limits, "POLL_GRACE", 0.01)
    assert client.http.get(path("state/a", timeout=1)).status_code == 200
    eventually(lambda: reasons[-1:] == ["closed"])
    assert reasons[::2] == ["came"] * (len(reasons) // 2)


@pytest.mark.parametrize(
    ("part", "function"),
    [(None, "_identify"), (None, "_start"), (longpoll, "update"), (Wait, "for_flask")],
)
def test_a_poll_is_disconnected_before_it_waits(
    pushing: Pushing, monkeypatch: pytest.MonkeyPatch, part: object, function: str
) -> None:
    """Its browser leaves at once, whatever part has the poll just then."""
    push, client, reasons = pushing
    poll = path("log/a", after=(push.cursor("log/a"),), timeout=0.01)
    assert client.http.get(poll).status_code == 204
    part = part or push
    run = getattr(part, function)

    def disconnect_first(*arguments: Any) -> Any:
        monkeypatch.undo()
        assert push.disconnect("ann") == (function != "_identify")
        return run(*arguments)

    monkeypatch.setattr(part, function, disconnect_first)
    assert client.http.get(poll).status_code == 401
    eventually(lambda: reasons == ["came", "disconnected"])


def test_hooks_begin_while_locks_are_held(
    pushing: Pushing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An event loop that needs the hub's lock cannot wait until a thread has started."""
    push, _, reasons = pushing
    monkeypatch.setattr(threading.Thread, "start", None)
    follower = Follower(["log/a"], None, "sse", "", push._presence.changed, lambda *_: None)
    follower.attach(lambda: None)
    eventually(lambda: reasons == ["came"])
