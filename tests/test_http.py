"""HTTP: /data, page, publishing, health, errors, TLS, both dispatches."""

import json
import re
import socket
import ssl
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import replace
from html.parser import HTMLParser
from http.client import HTTPConnection
from typing import Any

import pytest
import websocket
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from lab.app import create_app
from lab.instruments import Lab
from lab.settings import Settings, parse
from pushlab.feed import Feed
from pushlab.hosting.listener import listen
from pushlab.hub import Hub
from tests.clients import CLOSE, HANG_TIMEOUT, PONG, Http, exchange
from tests.conftest import Server, Start, takes

JSON = "application/json"


def test_data_is_the_newest_reading(server: Server) -> None:
    before = time.time()
    cursor = server.publish({"n": 1, "text": "€"})
    response = server.http.get("/data")
    assert response.status == 200
    assert response.headers["Content-Type"] == JSON
    assert response.headers["Cache-Control"] == "no-cache"
    assert response.headers["ETag"] == f'"{cursor}"'
    assert response.json["cursor"] == cursor
    assert response.json["value"] == {"n": 1, "text": "€"}
    assert before - 0.1 <= response.json["changed_at"] <= time.time() + 0.1


@pytest.mark.parametrize(
    ("condition", "status"),
    [('"{}"', 304), ('W/"{}"', 304), ('"x", "{}"', 304), ("*", 304), ('"{}0"', 200), ("{}", 304)],
)
def test_a_known_reading_is_304(server: Server, condition: str, status: int) -> None:
    cursor = server.publish({"n": 1})
    response = server.http.get("/data", headers={"If-None-Match": condition.format(cursor)})
    assert response.status == status
    assert response.headers["ETag"] == f'"{cursor}"'
    assert response.headers["Cache-Control"] == "no-cache"
    assert (response.body == b"") == (status == 304)


def test_a_keep_alive_request_does_not_stall(server: Server) -> None:
    """Without TCP_NODELAY each waits 40 ms for a delayed acknowledgement."""
    connection = HTTPConnection("127.0.0.1", server.port)

    def request() -> float:
        start = time.perf_counter()
        connection.request("GET", "/data")
        connection.getresponse().read()
        return time.perf_counter() - start

    # Two or three of the first ones are acknowledged at once.
    takes(0, lambda: sorted(request() for _ in range(30))[5], late=0.03)
    connection.close()


def test_the_listener_has_tcp_nodelay() -> None:
    with listen("127.0.0.1", 0) as listener:
        assert listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


# The page, before any JavaScript.


class Page(HTMLParser):
    """The page's tags with their attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_the_page_has_the_newest_reading_without_javascript(server: Server) -> None:
    server.publish({"line": "<script>alert('no')</script>"})
    response = server.http.get("/")
    html = response.body.decode()
    assert response.headers["Content-Type"] == "text/html; charset=utf-8"
    assert html.count("&lt;script&gt;alert(&#39;no&#39;)&lt;/script&gt;") >= 3
    assert "<script>alert" not in html
    noscript = re.search(r"<noscript>(.*?)</noscript>", html, re.DOTALL)
    assert noscript
    assert 'http-equiv="refresh"' in noscript[1]


def test_the_page_has_a_strict_policy(server: Server) -> None:
    response = server.http.get("/")
    policy = dict(
        directive.strip().split(" ", 1)
        for directive in response.headers["Content-Security-Policy"].split(";")
    )
    host = f"127.0.0.1:{server.port}"
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == "'self'"
    assert policy["connect-src"] == f"'self' ws://{host} wss://{host}"
    html = response.body.decode()
    for tag, attributes in Page(html).tags:
        assert tag != "style", "no inline style"
        assert "style" not in attributes, "no inline style"
        assert not [name for name in attributes if name.startswith("on")], "no inline handlers"
        if tag == "script":
            assert attributes.get("src"), "no inline script"
        for name in ("src", "href"):
            assert not re.match(r"\w+:|//", attributes.get(name) or ""), "nothing from elsewhere"


def test_a_malformed_host_does_not_get_into_the_policy(server: Server) -> None:
    response = server.http.get("/", headers={"Host": "x; script-src *"})
    assert "*" not in response.headers.get("Content-Security-Policy", "")


def test_every_file_that_the_page_names_exists(server: Server) -> None:
    html = server.http.get("/").body.decode()
    named = {
        attributes.get("src") or attributes.get("href")
        for tag, attributes in Page(html).tags
        if tag in ("script", "link", "img")
    }
    assert named
    for path in named:
        response = server.http.get(str(path))
        assert (response.status, bool(response.body)) == (200, True), path


# Publishing.

LARGEST = b'{"text":"' + b"x" * (16 * 1024 - 11) + b'"}'


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{}", 201),
        (LARGEST, 201),
        (b" " * 16000 + b"{}", 201),
        (b'{"half a pair": "\\ud83d"}', 201),
        (LARGEST.replace(b"x", b"xx", 1), 413),
        (b"x" * 1_000_000, 413),
        (json.dumps({"e": [1e22] * 3200}).replace(" ", "").replace("+", "").encode(), 413),
        (b"", 400),
        (b"x", 400),
        (b"[]", 400),
        (b"1", 400),
        (b"null", 400),
        (b'"text"', 400),
        (b'{"a": NaN}', 400),
        (b'{"a": 1e999}', 400),
        (b'{"a": ' + b"9" * 10_000 + b"}", 400),
        (b"\xff\xfe{}", 400),
        (b"\xff{}", 400),
        (b'{"a":' * 3000, 400),
    ],
)
def test_what_may_be_published(server: Server, body: bytes, status: int) -> None:
    before = server.cursor
    response = server.http.post("/data", body)
    assert response.status == status
    assert response.headers["Content-Type"] == JSON
    if status == 201:
        assert response.json == {"cursor": server.cursor} != {"cursor": before}
    else:
        assert response.json["error"]
        assert server.cursor == before


def test_a_page_from_elsewhere_may_not_publish(server: Server) -> None:
    for origin, status in [("http://evil.example", 403), ("null", 403), (server.url, 201)]:
        assert server.http.post("/data", {}, headers={"Origin": origin}).status == status


def test_nothing_can_be_published_to_another_source(start: Start) -> None:
    response = start("serve.py", "--source", "clock").http.post("/data", {})
    assert response.status == 405
    assert "--source http" in response.json["error"]


# Health and errors.


def test_health(server: Server) -> None:
    cursor = server.publish({"n": 1})
    response = server.http.get("/healthz")
    assert (response.status, response.json) == (200, {"status": "ok", "cursor": cursor})


def app_of(feed: Feed, settings: Settings, pace: str = "") -> Flask:
    lab = Lab(feed, settings, freeze=time.sleep)
    if pace:
        lab.set_pace(lambda setting: setting.choose(pace))
    return create_app(feed, Hub(), lab, settings)


def test_health_when_the_source_has_died(monkeypatch: pytest.MonkeyPatch) -> None:
    feed = Feed()
    client = app_of(feed, Settings(source="load", pace=10)).test_client()
    for age, status in [(0, 200), (49, 200), (51, 503)]:
        monkeypatch.setattr(Feed, "age", age)
        assert client.get("/healthz").status_code == status


@pytest.mark.parametrize("jump", [-3600, 3600])
def test_health_when_the_clock_is_set(jump: int, monkeypatch: pytest.MonkeyPatch) -> None:
    client = app_of(Feed(), Settings(source="load", pace=10)).test_client()
    now = time.time() + jump
    monkeypatch.setattr("time.time", lambda: now)
    assert client.get("/healthz").status_code == 200


def test_health_when_the_data_is_paused_on_purpose(monkeypatch: pytest.MonkeyPatch) -> None:
    feed = Feed()
    monkeypatch.setattr(Feed, "age", 1000.0)
    for pace, status in [("irregular", 503), ("paused", 200)]:
        client = app_of(feed, Settings(source="load"), pace).test_client()
        assert client.get("/healthz").status_code == status


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nowhere", 404), ("PUT", "/data", 405), ("POST", "/update", 405),
     ("GET", "/static/../serve.py", 404), ("GET", "/%00", 404)],
)  # fmt: skip
def test_errors_are_json(server: Server, method: str, path: str, status: int) -> None:
    response = server.http.request(method, path)
    assert (response.status, response.headers["Content-Type"]) == (status, JSON)
    assert response.json["error"]
    assert ("Allow" in response.headers) == (status == 405)


#: Lines that a proxy might read in another way; docs/reference/http.rst has more of them.
SMUGGLING = (
    "Transfer-Encoding: gzip, chunked\r\nContent-Length: 4",
    "Transfer-Encoding : chunked",
    "Transfer-Encoding: identity",
    "Content-Length: 4\r\nContent-Length: 5",
    "Content-Length: 1_0",
)


def test_no_second_request_can_be_smuggled(server: Server) -> None:
    for lines in SMUGGLING:
        request = f"POST /data HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n\r\n"
        smuggled = "GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"
        received = exchange(server.port, (request + smuggled).encode())
        assert received.startswith(b"HTTP/1.1 400 "), lines
        assert received.count(b"HTTP/1.1 ") == 1


def test_a_chunked_body_is_read(server: Server) -> None:
    head = b"POST /data HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    request = head + b'11\r\n{"chunked": true}\r\n0\r\n\r\n'
    assert exchange(server.port, request).startswith(b"HTTP/1.1 201 ")
    assert server.http.get("/data").json["value"] == {"chunked": True}


def test_deeply_nested_json_is_no_error_of_the_server(server: Server) -> None:
    for depth in range(300, 1100, 7):
        body = b'{"a":' * depth + b"1" + b"}" * depth
        assert server.http.post("/data", body).status in (201, 400)
    server.publish({})  # or other tests could not decode the newest reading


# TLS.


def test_tls(start: Start, tls_options: tuple[str, ...], trust: ssl.SSLContext) -> None:
    server = start("serve.py", "--source", "http", *tls_options)
    assert server.url.startswith("https://")
    http = Http("127.0.0.1", server.port, tls=trust)
    assert http.get("/data").status == 200
    # One thread: `websockets` has two at its SSL object, which Python 3.11 does not lock.
    url = f"{server.ws}/update?carry=1"
    more: Any = {"sslopt": {"context": trust}, "origin": server.url}
    with (
        ThreadPoolExecutor() as pool,
        closing(websocket.create_connection(url, HANG_TIMEOUT, **more)) as push,
    ):

        def assert_in_order() -> None:
            push.ping(b"still in order?")
            assert push.recv_data(control_frame=True) == (PONG, b"still in order?")

        first = json.loads(push.recv())
        poll = pool.submit(http.get, f"/update?after={first['cursor']}")
        for number in range(30):  # more than the buffers hold, so that TLS has to wait
            text = f"{number}" + "x" * 15_000
            server.publish({"text": text})
            assert json.loads(push.recv())["value"]["text"] == text
        assert poll.result().status == 200
        assert_in_order()
        push.send("a message that TLS may buffer" * 1000)
        assert_in_order()

        with socket.create_connection(("127.0.0.1", server.port), HANG_TIMEOUT) as plain:
            plain.sendall(b"GET /data HTTP/1.1\r\n\r\n")  # http: instead of https:
            with suppress(ConnectionResetError):
                plain.recv(100)
        stopping = pool.submit(server.stop)
        assert push.recv_data() == (CLOSE, struct.pack("!H", 1001))
        push.shutdown()  # after a close frame of the server, close() leaves the socket open
        assert stopping.result() == 0
    assert server.log == ""


# Both dispatches: the same responses, byte for byte.


@pytest.fixture(scope="module")
def both() -> tuple[FlaskClient, FlaskClient, Feed]:
    """One feed behind two apps, dispatched directly and by Flask."""
    feed = Feed()
    feed.publish({"n": 1})
    settings = Settings(source="http")
    direct, plain = (
        app_of(feed, replace(settings, direct=each)).test_client() for each in (True, False)
    )
    return direct, plain, feed


def whole(response: TestResponse) -> tuple[str, list[tuple[str, str]], bytes]:
    """Return the response without its date."""
    headers = [(name, value) for name, value in response.headers if name != "Date"]
    return response.status, headers, response.data


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "OPTIONS"])
@pytest.mark.parametrize(
    "path",
    [
        "/data", "/data?", "/data?x=1", "/data/", "/data%00", "//data",
        "/update?timeout=0", "/update", "/update?after={0}&timeout=0", "/update?carry=1",
        "/update?timeout=0&after={0}&carry=1", "/update?after={0}1&carry=0&timeout=9",
        "/update?timeout=0.01&after={0}", "/update?after={0}&timeout=0&other=1",
        "/data?lane=a-poll", "/update?lane=a-longpoll", "/update?after={0}&timeout=0&lane=a",
        "/update?lane=a&carry=1&lane=b", "/update?after=x&lane=a&timeout=0",
        "/update?after={0}&after=x-1&timeout=0", "/update?timeout=0&timeout=1&after={0}",
        "/update?&after={0}&&timeout=0&", "/update?after={0}&timeout=00",
        "/update?after=&timeout=0",
        "/update?after=x&timeout=0", "/update?timeout=60.1", "/update?timeout=", "/update?carry=",
        "/update?carry=2", "/update?%61fter={0}&timeout=0", "/update?after={0}%20&timeout=0",
        "/update?after={0}&timeout=0#x", "/update?AFTER={0}&timeout=0", "/update?timeout=0.",
        "/update?timeout=.5", "/update?timeout=0x", "/update?carry=1&carry=0",
    ],
)  # fmt: skip
def test_direct_dispatch_responds_as_flask_does(
    both: tuple[FlaskClient, FlaskClient, Feed], method: str, path: str
) -> None:
    direct, plain, feed = both
    path = path.format(feed.latest.cursor)
    one, two = (client.open(path, method=method) for client in (direct, plain))
    assert whole(one) == whole(two)


@pytest.mark.parametrize(
    "headers",
    [
        {"If-None-Match": '"{0}"'}, {"If-None-Match": '"x"'}, {"If-None-Match": '""'},
        {"If-None-Match": "{0}"}, {"If-None-Match": 'W/"{0}"'}, {"If-None-Match": "*"},
        {"If-None-Match": '"x", "{0}"'}, {"If-None-Match": ""}, {"Range": "bytes=0-3"},
        {"If-Range": '"{0}"', "Range": "bytes=0-3"}, {"If-Match": '"x"'},
        {"If-Modified-Since": "Fri, 20 Nov 2099 00:00:00 GMT"},
        {"If-None-Match": '"{0}"', "If-Modified-Since": "Fri, 20 Nov 2009 00:00:00 GMT"},
        {"Accept": "text/html"}, {"Accept": "application/*, text/*;q=0.1"},
        {"Accept-Encoding": "gzip"}, {"Origin": "http://evil.example"},
    ],
)  # fmt: skip
def test_direct_dispatch_applies_conditions_as_flask_does(
    both: tuple[FlaskClient, FlaskClient, Feed], headers: dict[str, str]
) -> None:
    direct, plain, feed = both
    filled = {name: value.format(feed.latest.cursor) for name, value in headers.items()}
    for method, path in (("GET", "/data"), ("HEAD", "/data"), ("GET", "/update?timeout=0")):
        one, two = (client.open(path, method=method, headers=filled) for client in (direct, plain))
        assert whole(one) == whole(two)


def test_direct_dispatch_can_be_turned_off(start: Start, server: Server) -> None:
    assert parse(["--no-shortcut"]).direct is parse(["--no-direct"]).direct is False
    plain = start("serve.py", "--source", "http", "--no-direct")
    headers = []
    for each in (plain, server):
        each.publish({"n": 1})
        headers.append(list(each.http.get("/data").headers))
    assert headers[0] == headers[1]
