"""Views that a server may call without Flask, and what makes it leave them to Flask."""

from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lab.settings import Settings
from pushlab.feed import Feed
from pushlab.hosting import direct as dispatch
from pushlab.hosting.request_parser import parse_request_line
from pushlab.websocket.frames import CloseReason
from pushlab.wsgi.direct import Direct
from tests.clients import CLOSE, TEXT, frame
from tests.test_http import app_of
from tests.test_own_app import GEVENT, PATCH, SERVERS, THREADS, OwnApp, running

APP = """
import sys, threading, traceback
from flask import Flask, abort, request
from werkzeug.exceptions import NotFound
from pushlab import Feed, Hub, connection_of
from pushlab.transports import longpoll, sse, websocket
from pushlab.wsgi.direct import Direct, direct
from pushlab.wsgi.responses import Response, json_response

app = Flask(__name__)
feed, hub = Feed(), Hub()
feed.subscribe(hub.broadcast)

def dispatcher():
    names = {frame.name for frame in traceback.extract_stack()}
    return b"flask" if "full_dispatch_request" in names else b"direct"

@app.get("/")
@direct
def page(environ):
    return Response("200 OK", [("Content-Type", "text/plain")], (dispatcher(),))

@app.get("/pieces")
@direct
def pieces(environ):
    return Response("200 OK", [], (piece for piece in (b"1", b"2")))

@app.get("/missing")
@direct
def missing(environ):
    raise NotFound("nothing here")

@app.get("/broken")
@direct
def broken(environ):
    raise RuntimeError("broken on purpose")

@app.get("/slow")
@direct
def slow(environ):
    threading.Event().wait(0.01)  # which no event loop can
    return Response("200 OK", [], (b"waited",))

@app.route("/update", websocket=True)
@direct
def update(environ):
    websocket.update(hub, [feed], environ)

@app.route("/echo", websocket=True)
@direct
def echo(environ):  # a conversation waits
    socket = connection_of(environ)
    socket.send(socket.receive())

{addition}
app.wsgi_app = Direct(app)
{after}
"""
#: What an app may have that wants to see every request.
ADDITIONS = {
    "before_request": "app.before_request(lambda: None)",
    "after_request": "app.after_request(lambda response: response)",
    "teardown_request": "app.teardown_request(lambda error: None)",
    "teardown_appcontext": "app.teardown_appcontext(lambda error: None)",
    "url_value_preprocessor": "app.url_value_preprocessor(lambda endpoint, values: None)",
    "signal": "from flask import signals\nsignals.request_started.connect(print)",
    "session": "from flask.sessions import SessionInterface\n"
    "class Sessions(SessionInterface):\n    open_session = lambda *_: {}\n"
    "    save_session = lambda *_: None\napp.session_interface = Sessions()",
}
#: A middleware in front sees all requests: nothing is dispatched before it.
MIDDLEWARE = """
inner = app.wsgi_app
seen = []
def middleware(environ, start_response):
    def start(status, headers, exc_info=None):
        return start_response(status, [*headers, ("X-Seen", "yes")], exc_info)
    return inner(environ, start)
app.wsgi_app = middleware
"""


def app(addition: str = "", after: str = "") -> str:
    return APP.replace("{addition}", addition).replace("{after}", after)


def on_gevent(folder: Path, source: str) -> tuple[Path, str, tuple[str, ...]]:
    return folder, PATCH + source + GEVENT, SERVERS["gevent"][1]


@pytest.mark.parametrize("server", ["gevent", "threads", "gunicorn"])
def test_views_of_the_environ(tmp_path: Path, server: str) -> None:
    ends = {"gevent": (PATCH, GEVENT), "threads": ("", THREADS), "gunicorn": ("", "")}
    begin, end = ends[server]
    with running(tmp_path, begin + app() + end, SERVERS[server][1]) as own:
        assert own.http.get("/").body == b"direct"
        assert own.http.request("HEAD", "/").body == b""
        assert own.http.get("/pieces").body == b"12"
        assert own.http.get("/slow").body == b"waited"
        assert [own.http.get(path).status for path in ("/missing", "/broken")] == [404, 500]
        assert own.http.get("/").status == 200
        with own.websocket() as first, own.websocket() as second:
            assert first.json() == second.json()
        with own.websocket("/echo") as conversation:
            conversation.send(frame(TEXT, b"hello"))
            assert conversation.frame() == (TEXT, b"hello")


def test_the_labs_views() -> None:
    assert Direct.of(app_of(Feed(), Settings()))


@pytest.mark.parametrize("addition", ADDITIONS)
def test_an_app_that_wants_to_see_every_request(tmp_path: Path, addition: str) -> None:
    with running(*on_gevent(tmp_path, app(ADDITIONS[addition]))) as own:
        assert own.http.get("/").body == b"flask"
        assert_sockets_open(own)


def test_a_middleware_in_front(tmp_path: Path) -> None:
    with running(*on_gevent(tmp_path, app(after=MIDDLEWARE))) as own:
        response = own.http.get("/")
        assert response.headers["X-Seen"] == "yes"
        assert_sockets_open(own)


def assert_sockets_open(own: OwnApp) -> None:
    for _ in range(2):  # the second finds a hub that runs
        with own.websocket() as socket:
            assert socket.json()


#: A hub that has no room, and how many were refused.
FULL = """
from pushlab import counts
hub._max_subscribers = 0
@app.get("/refused")
def refused():
    return dict(counts.refused)
"""


def test_a_socket_that_is_refused_is_counted_once(tmp_path: Path) -> None:
    """It goes to a greenlet, which can wait for the browser's close frame."""
    with running(*on_gevent(tmp_path, app(FULL))) as own:
        with own.websocket() as socket:
            assert socket.frame() == (CLOSE, CloseReason.TRY_AGAIN_LATER.to_bytes(2, "big"))
        assert own.http.get("/refused").json == {"service_unavailable": 1}


LINES = (
    "Host: a", "Host: a:1", "host: b/", "Host: ", "HOST:\ta", "X-A: 1", "X-A: 2", "X-B:",
    "X-C: \xe9", "X_D: 1", "X-E : 1", "X-F: a b ", " folded: 1", "Upgrade: websocket",
    "Connection: keep-alive",
    "Connection: Keep-Alive", "Connection: close", "Content-Length: 0", "Expect: 100-continue",
    "X-G: a\rb", "X-H: a\0b", "X I: 1", "X-J: a: b", "no colon", ": 1", "X-K: 1\nX-L: 2",
)  # fmt: skip


@example(["Host: a", "X-J: a: b", "Connection: Keep-Alive"])
@given(st.lists(st.sampled_from(LINES), max_size=5).map(lambda some: ["Host: a", *some]))
@settings(deadline=None, derandomize=True, database=None)
def test_plain_headers_mean_what_the_parser_says(lines: list[str]) -> None:
    """What is not plain is left to the parser."""
    block = "".join(f"{line}\r\n" for line in [*lines, ""]).encode("latin-1")
    plain, parsed = dispatch._plain_headers(block), dispatch._parse(block)
    assert plain is None or (parsed and plain == dispatch._as_environ(parsed))
    if lines[1:] in ([], ["X-A: 1"], ["X-J: a: b", "Connection: Keep-Alive"]):
        assert plain


PARTS = st.sampled_from(
    ("/", "/a", "*", "http://a/b", "%41", "?", "b=1", "&", "#", " ", "\t", "\xe9", "\0")
)


@example("GET", ["/a", "?", "b=1"], " HTTP/1.1")
@given(
    st.sampled_from(("GET", "HEAD", "POST", "get", "")),
    st.lists(PARTS, max_size=5),
    st.sampled_from((" HTTP/1.1", " HTTP/1.0", " HTTP/2.0", " HTTP/1.1\n", "")),
)
@settings(deadline=None, derandomize=True, database=None)
def test_plain_lines_mean_what_the_parser_says(method: str, parts: list[str], end: str) -> None:
    text = f"{method} {''.join(parts)}{end}"
    if plain := dispatch._request_line(text.encode("latin-1")):
        line = parse_request_line(f"{text}\r\n")
        path, _, query = line.target.partition("?")
        assert line == (plain["REQUEST_METHOD"], line.target, "HTTP/1.1", None)
        assert (plain["PATH_INFO"], plain["QUERY_STRING"]) == (path, query)
    assert plain or (method, parts) != ("GET", ["/a", "?", "b=1"]) or end != " HTTP/1.1"


def test_a_key_is_no_part_of_what_is_remembered() -> None:
    keys = [b"%022d==" % number for number in (1, 2)]
    block = b"Host: a\r\nSec-WebSocket-Key: %b\r\nUpgrade: websocket\r\n\r\n"
    first, second = (dispatch._upgrade_headers(block % key) for key in keys)
    assert first == dispatch._environ_of(block % keys[0])
    assert second == {**(first or {}), "HTTP_SEC_WEBSOCKET_KEY": keys[1].decode()}
    twice = keys[0] + b"\r\nsec-websocket-key: " + keys[1]
    assert dispatch._upgrade_headers(block % twice) is None


@pytest.mark.parametrize(
    "behind",
    [
        b"Sec-WebSocket-Key: %022d==\r\n" % 1,
        b"Sec-WebSocket-Key: %022d==\r\n\r\n" % 1,
        b"X: 1\r\n\r\n",
    ],
)
def test_what_is_behind_the_headers_is_no_part_of_them(behind: bytes) -> None:
    block = b"Host: a\r\nUpgrade: websocket\r\n\r\n"
    assert dispatch._upgrade_headers(block)
    assert dispatch._upgrade_headers(block + behind) is None
    assert dispatch._headers(b"Host: a\r\n\r\n" + behind) is None
