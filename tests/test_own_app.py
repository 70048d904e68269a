"""An app that is not ours: the library's parts on servers of ours and of others."""

import json
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from bench.servers import free_port
from pushlab import Feed, Hub, limits
from pushlab.hub import Subscriber
from tests.clients import CLOSE, Http, RawSocket, close_frame
from tests.conftest import ROOT, Program, Server, eventually
from tests.hosting import BIN
from tests.test_hub import FakeChannel, FakeConnection, add

APP = """
from flask import Flask, request
from pushlab import Feed, Hub, Sockets, connection_of
from pushlab.transports import longpoll, sse

app = Flask(__name__)
feed = Feed()
hub = Hub()
feed.subscribe(hub.broadcast)
subscribers = []
sockets = Sockets(app)

@app.get("/")
def page():
    return request.host

@app.get("/poll")
def poll():
    return longpoll.update([feed], request.environ).for_flask()

@app.get("/stream")
def stream():
    return sse.update([feed], request.environ).for_flask()

@app.route("/update", websocket=True)
def update():
    subscribers.append(hub.add(connection_of(request.environ), feed))
    return ""

@sockets.route("/echo")
def echo(socket):
    while (message := socket.receive()) is not None:
        socket.send(message)

@app.post("/close/<int:code>/<reason>")
def close(code, reason):
    for subscriber in subscribers:
        subscriber.close(code, reason)
    return str(len(subscribers))

@app.post("/hub/close")
def close_hub():
    hub.close()
    return ""
"""
#: How to serve it: the end of the file, and the command.
GEVENT = """
import gevent
from pushlab.hosting import gevent_server
gevent_server.run(app, port={port})
"""
THREADS = """
from pushlab.hosting import threaded_server
threaded_server.run(app, port={port})
"""
PATCH = "from gevent import monkey\nmonkey.patch_all()\n"
GUNICORN = (str(BIN / "gunicorn"), "-b", "127.0.0.1:{port}", "--no-control-socket")
WORKER = (*GUNICORN, "-k", "pushlab.gunicorn_worker.Worker")
FLASK = (str(BIN / "flask"), "--app", "app", "run", "--port", "{port}")


def hosted(app: str) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Return, by server, the source of app.py and the command that serves it."""
    uwsgi = str(BIN / "uwsgi")
    return {
        "gevent": (PATCH + app + GEVENT, (sys.executable, "app.py")),
        "threads": (app + THREADS, (sys.executable, "app.py")),
        "gunicorn": (app, (*WORKER, "app:app")),
        "uwsgi": (app, (uwsgi, str(ROOT / "servers" / "uwsgi.ini"))),
        "uwsgi-threads": (app, (uwsgi, str(ROOT / "servers" / "uwsgi-threads.ini"))),
    }


SERVERS = hosted(APP)


class OwnApp(Server):
    """The app in a folder of its own, started there by a command."""

    def __init__(
        self, folder: Path, source: str, command: tuple[str, ...], **environment: str
    ) -> None:
        self.port = free_port()
        (folder / "app.py").write_text(source.replace("{port}", str(self.port)))
        executable, *arguments = (part.replace("{port}", str(self.port)) for part in command)
        path = f"{ROOT}:{folder}"
        environment |= {"PYTHONPATH": path, "APP": "app:app", "PORT": str(self.port)}
        Program.__init__(
            self, *arguments, command=[executable], folder=folder, environment=environment
        )
        self.is_at(f"http://127.0.0.1:{self.port}")

    def until_ready(self) -> "OwnApp":
        eventually(lambda: self.responds("/"))
        return self


@contextmanager
def running(
    folder: Path, source: str, command: tuple[str, ...], **environment: str
) -> Iterator[OwnApp]:
    server = OwnApp(folder, source, command, **environment)
    try:
        yield server.until_ready()
    finally:
        server.process.terminate()
        server.wait()


@pytest.fixture(params=SERVERS)
def own_app(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OwnApp]:
    with running(tmp_path, *SERVERS[request.param]) as server:
        yield server


def test_a_stop_closes_what_the_app_has_opened(own_app: OwnApp) -> None:
    """Without a word of the app about it."""
    with own_app.websocket() as pushed, own_app.websocket("/echo") as conversing:
        pushed.json()
        with own_app.send_get("/poll") as poll:
            poll.recv(12)
        cursor = Http("127.0.0.1", own_app.port).get("/poll").json["cursor"]
        with own_app.send_get(f"/poll?after={cursor}") as poll, own_app.send_get("/stream") as sse:
            assert sse.recv(12) == b"HTTP/1.1 200"
            own_app.until_idle()
            own_app.process.terminate()
            assert pushed.close_code() == 1001
            assert conversing.close_code() == 1001
            assert poll.recv(12) == b"HTTP/1.1 204"
            while sse.recv(4096):
                pass
    assert own_app.wait() == 0, own_app.log


def test_a_subscriber_is_closed_with_a_code_and_a_reason(own_app: OwnApp) -> None:
    with own_app.websocket() as polite, own_app.websocket() as silent:
        for browser in (polite, silent):
            browser.json()
        eventually(lambda: own_app.http.post("/close/4401/logged%20out", {}).body == b"2")
        assert polite.close_payload() == (4401).to_bytes(2, "big") + b"logged out"
        # It sends no close frame of its own, and is cut off all the same.
        assert silent.last_frame() == (CLOSE, (4401).to_bytes(2, "big") + b"logged out")
    assert own_app.http.post("/close/1005/x", {}).status == 500
    with own_app.websocket() as browser:
        browser.json()


def test_a_closed_hub_refuses_with_1001(own_app: OwnApp) -> None:
    with own_app.websocket() as browser:
        browser.json()
        assert own_app.http.post("/hub/close", {}).status == 200
        # Not replied to: the hub has waited, and has closed the connection.
        assert browser.last_frame() == (CLOSE, (1001).to_bytes(2, "big"))
    with own_app.websocket() as browser:
        assert browser.close_code() == 1001
    assert "Traceback" not in own_app.log


# gunicorn.


def test_any_host_is_served_on_our_worker(tmp_path: Path) -> None:
    with running(tmp_path, *SERVERS["gunicorn"]) as server:
        for host in ("shop.example", "127.0.0.1"):
            response = server.http.get("/", headers={"Host": host})
            assert (response.status, response.body.decode()) == (200, host)
        changes = {"Host": "shop.example", "Origin": "http://shop.example"}
        with server.websocket(changes=changes) as browser:
            assert browser.status == 101
        assert server.log.count("rejected") == 0
        changes["Origin"] = "http://evil.example"
        for _ in range(3):
            with server.websocket(changes=changes) as browser:
                assert browser.status == 403
        eventually(lambda: "origin 'http://evil.example' is not allowed here" in server.log)
        assert server.log.count("rejected") == 1
        assert "--allow-origin" in server.log
        assert "allow_origins=" in server.log


CONFIGURED = """
from pushlab.gunicorn_worker import Worker
from pushlab.hosting.settings import ServerSettings
Worker.settings = ServerSettings(allow_hosts=("shop.example",))
"""


def test_our_worker_can_be_told_which_hosts_to_serve(tmp_path: Path) -> None:
    (tmp_path / "configuration.py").write_text(CONFIGURED)
    command = (*WORKER, "-c", str(tmp_path / "configuration.py"), "app:app")
    with running(tmp_path, APP, command) as server:
        assert server.http.get("/", headers={"Host": "shop.example"}).status == 200
        response = server.http.get("/", headers={"Host": "evil.example"})
        assert response.status == 421
        for name in ("'evil.example'", "--allow-host", "allow_hosts="):
            assert name in response.json["error"]
        eventually(lambda: f"rejected: {response.json['error']}" in server.log)


LAZY = (
    APP.replace("feed = Feed()\n", "").replace("feed.subscribe(hub.broadcast)\n", "")
    + """
@app.get("/lazily")
def lazily():
    Feed()
    return ""
"""
)


@pytest.mark.parametrize("preload", [(), ("--preload",)])
def test_several_workers_with_a_feed_are_refused(tmp_path: Path, preload: tuple[str, ...]) -> None:
    server = OwnApp(tmp_path, APP, (*WORKER, "--workers", "2", *preload, "app:app"))
    assert server.wait() != 0
    assert "gunicorn has several workers" in server.log
    assert "--workers 1" in server.log
    assert "Exception in worker" not in server.log


def test_several_workers_cannot_make_a_feed_later(tmp_path: Path) -> None:
    with running(
        tmp_path, LAZY, (*WORKER, "--workers", "2", "--graceful-timeout", "2", "app:app")
    ) as server:
        assert server.http.get("/lazily").status == 500
        eventually(lambda: "gunicorn has several workers" in server.log)


# Without patching.


def test_gevents_server_needs_patching(tmp_path: Path) -> None:
    """One line; its first `accept` would block everything, and for good."""
    (tmp_path / "app.py").write_text(APP + GEVENT.format(port=0))
    program = Program(str(tmp_path / "app.py"))
    assert program.wait() == 1
    assert program.log.startswith("gevent's server needs `from gevent import monkey; ")
    assert program.log.count("\n") == 1


# Servers without WebSockets.

ANY = "pushlab.hosting.gunicorn.Worker"
WITHOUT = [FLASK, (*GUNICORN, "app:app"), (*GUNICORN, "-k", "gevent", "app:app")]


@pytest.mark.parametrize("command", WITHOUT)
def test_a_server_without_websockets_is_told_in_one_sentence(
    tmp_path: Path, command: tuple[str, ...]
) -> None:
    with running(tmp_path, APP, command) as server:
        for path in ("/update", "/echo"):
            with server.websocket(path) as browser:
                assert browser.status == 501, path
                assert ANY.encode() in browser.body
        eventually(lambda: ANY in server.log)
        assert "KeyError" not in server.log
        assert "Traceback" not in server.log


def test_the_sentence_is_true(tmp_path: Path) -> None:
    """`flask run` after the line that it names."""
    source = APP + (
        "from pushlab.hosting.werkzeug import WerkzeugUpgrade\nWerkzeugUpgrade.of(app)\n"
    )
    with running(tmp_path, source, FLASK) as server, server.websocket() as browser:
        assert browser.json()


# The hub and the feed by themselves.


def test_a_closed_hub_has_ended_what_it_started() -> None:
    others = set(threading.enumerate())  # other tests leave their hubs' threads
    feed, hub = Feed(), Hub()
    channel = add(hub, feed, FakeChannel())

    def its_own() -> list[threading.Thread]:
        return [each for each in set(threading.enumerate()) - others if each.name == "hub"]

    [thread] = eventually(its_own)
    answering = threading.Thread(target=lambda: eventually(channel_is_closing(channel)))
    answering.start()
    hub.close()
    answering.join()
    assert not thread.is_alive()
    assert channel.closed


def channel_is_closing(channel: FakeChannel) -> Callable[[], bool]:
    """The browser of this channel goes as soon as it has a close frame."""

    def is_closing() -> bool:
        if b"\x88" not in channel.sent:
            return False
        channel.abort()
        return True

    return is_closing


GREENLETS = """
from gevent import monkey; monkey.patch_all()
import gc, gevent
from greenlet import greenlet
from pushlab import Feed, Hub
from tests.test_hub import FakeChannel, add

def count():
    gc.collect()
    return sum(isinstance(each, gevent.Greenlet) and not each.dead for each in gc.get_objects())

before = count()
hubs = []
for _ in range(20):
    feed, hub = Feed(), Hub()
    add(hub, feed, FakeChannel()).abort()
    hubs.append(hub)
assert count() > before, "each has begun to ping"
for hub in hubs:
    hub.close()
assert count() == before, count()
"""


def test_closed_hubs_leave_no_greenlet() -> None:
    done = subprocess.run(
        [sys.executable, "-c", GREENLETS], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_hub_without_subscribers_has_no_thread() -> None:
    before = {each for each in threading.enumerate() if each.name == "hub"}
    feed, hub = Feed(), Hub()
    add(hub, feed, FakeChannel()).abort()
    eventually(lambda: {each for each in threading.enumerate() if each.name == "hub"} <= before)
    channel = add(hub, feed, FakeChannel())
    assert len(hub) == 1
    channel.abort()


def subscribed() -> tuple[Feed, FakeChannel, Subscriber]:
    """Return a feed, a channel and its subscriber; pings are far apart."""
    feed, hub, channel = Feed(), Hub(ping_interval=86400.0), FakeChannel()
    feed.subscribe(hub.broadcast)
    return feed, channel, hub.add(FakeConnection(channel), feed)  # type: ignore[arg-type]


def test_a_silent_subscriber_is_cut_off_after_the_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the pings are far apart."""
    monkeypatch.setattr(limits, "CLOSE_TIMEOUT", 0.01)
    feed, channel, subscriber = subscribed()
    subscriber.close(4000, "enough")
    sent = channel.sent
    assert sent.endswith(b"enough")
    subscriber.close(4001, "again")
    feed.publish({})
    assert channel.sent == sent, "nothing follows a close frame"
    eventually(lambda: channel.closed)
    assert len(subscriber.hub) == 0
    subscriber.close()


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 70000, -1])
def test_a_code_that_must_not_be_sent_is_an_error(code: int) -> None:
    feed, channel, subscriber = subscribed()
    with pytest.raises(ValueError, match="close code"):
        subscriber.close(code)
    with pytest.raises(ValueError, match="surrogates"):
        subscriber.close(1000, "\ud800")
    before = channel.sent
    feed.publish({})
    assert channel.sent != before, "it is still subscribed"
    channel.abort()


def test_a_long_reason_is_cut_at_a_character() -> None:
    _, channel, subscriber = subscribed()
    before = len(channel.sent)
    subscriber.close(4000, "ü" * 100)
    frame = channel.sent[before:]
    assert frame[:4] == bytes((0x88, 124)) + (4000).to_bytes(2, "big")
    assert frame[4:].decode() == "ü" * 61
    channel.abort()


def test_a_listener_can_unsubscribe_also_while_it_is_called() -> None:
    feed = Feed()
    received: list[tuple[str, int]] = []

    def once(reading: Any) -> None:
        received.append(("once", reading.sequence))
        feed.unsubscribe(once)

    def always(reading: Any) -> None:
        received.append(("always", reading.sequence))

    feed.subscribe(once)
    feed.subscribe(always)
    feed.subscribe(always)
    feed.publish({})
    feed.unsubscribe(always)
    feed.publish({})
    assert received == [("once", 1), ("always", 1), ("always", 1), ("always", 2)]
    for listener in (once, print):
        with pytest.raises(ValueError, match="is not subscribed"):
            feed.unsubscribe(listener)


CIRCULAR: dict[str, Any] = {}
CIRCULAR["a"] = [CIRCULAR]
DEEP: dict[str, Any] = {}
for _ in range(100_000):
    DEEP = {"a": DEEP}


@pytest.mark.parametrize(
    ("value", "error", "named"),
    [
        ({"total": Decimal("9.90")}, TypeError, "Decimal"),
        ({"day": date(2026, 1, 1)}, TypeError, "date"),
        ({"part": Fraction(1, 3)}, TypeError, "Fraction"),
        ({"raw": b"ab"}, TypeError, "bytes"),
        ({"set": {1}}, TypeError, "set"),
        ({"path": Path("x")}, TypeError, "Path"),
        ({"any": [object()]}, TypeError, "object"),
        ({"complex": 1j}, TypeError, "complex"),
        ({(1, 2): 3}, TypeError, "tuple"),
        ([1], TypeError, "list"),
        ("text", TypeError, "str"),
        (5, TypeError, "int"),
        (b"{}", TypeError, "bytes"),
        ({"n": float("nan")}, ValueError, "float values"),
        ({"n": [float("-inf")]}, ValueError, "float values"),
        ({"n": 10**5000}, ValueError, "digits"),
        (CIRCULAR, ValueError, "Circular"),
        (DEEP, ValueError, "nested too deeply"),
        ({"text": "x" * 20_000}, ValueError, "20011 bytes"),
    ],
    ids=lambda value: re.sub(r"\W+", " ", repr(value))[:30] if not isinstance(value, dict) else "",
)
def test_what_publish_refuses(value: Any, error: type[Exception], named: str) -> None:
    """With a sentence that says what, and nothing has changed."""
    feed = Feed()
    received: list[Any] = []
    feed.subscribe(received.append)
    before = feed.publish({"n": 1})
    with pytest.raises(error, match=named):
        feed.publish(value)
    assert feed.latest is before
    assert feed.wait(before.cursor, timeout=0) is None
    assert feed.publish({"n": 2}).sequence == 2
    assert len(received) == 2


@pytest.mark.parametrize("value", [{}, {"a": (1, None, True, "é", 1.5, {"b": []})},
                                   MappingProxyType({"a": 1})])  # fmt: skip
def test_what_publish_takes(value: Any) -> None:
    carried = json.loads(Feed().publish(value).carry)["value"]
    assert carried == json.loads(json.dumps(dict(value)))


def test_a_reply_to_the_close_frame_ends_the_connection(own_app: OwnApp) -> None:
    with own_app.websocket() as browser:
        browser.json()
        eventually(lambda: own_app.http.post("/close/1008/policy", {}).body == b"1")
        assert browser.frame() == (CLOSE, (1008).to_bytes(2, "big") + b"policy")
        browser.send(close_frame(1008))
        assert browser.frame() is None
    assert isinstance(browser, RawSocket)
