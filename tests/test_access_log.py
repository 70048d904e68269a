"""The access log: one line for each request that has ended, on each server of ours."""

import json
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from pushlab import limits
from pushlab.hosting.access_log import AccessLog
from tests.clients import CLOSE, TEXT, frame
from tests.conftest import Server, Start, eventually
from tests.test_own_app import OwnApp, hosted, running

APP = """
import os
from flask import Flask
from pushlab import Push, Sockets

app = Flask(__name__)
app.config["PUSHLAB_ACCESS_LOG"] = os.environ["ACCESS_LOG"]
app.config["PUSHLAB_TRUSTED_PROXIES"] = ["127.0.0.1"]
push = Push(app)
sockets = Sockets(app)

@app.get("/")
def page():
    return "hello"

@sockets.route("/echo")
def echo(socket):
    while (message := socket.receive()) is not None:
        socket.send(message)

@app.post("/publish")
def publish():
    push.publish("orders/7", {})
    return ""

@push.topic("orders/<int:user>", keep=3)
def orders(user):
    pass
"""
SERVERS = {name: hosted(APP)[name] for name in ("gevent", "threads", "gunicorn")}
TOPIC = "topic=orders/7&token=secret"
SECRET = {"Cookie": "session=secret", "Authorization": "Bearer secret"}


def lines(log: Path) -> list[dict[str, Any]]:
    with suppress(FileNotFoundError):
        return [json.loads(line) for line in log.read_text().splitlines()]
    return []


def about(log: Path, path: str, **fields: Any) -> list[dict[str, Any]]:
    """Return the lines with this path and these fields."""
    wanted = {"path": path, **fields}
    return [line for line in lines(log) if wanted.items() <= line.items()]


@pytest.mark.parametrize("name", SERVERS)
def test_each_request_has_a_line_when_it_has_ended(name: str, tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    with running(tmp_path, *SERVERS[name], ACCESS_LOG=str(log)) as app:
        exchange(app, log)
    assert "secret" not in log.read_text()
    for line in lines(log):
        assert line["duration"] >= 0
        assert line["time"].endswith("+00:00")


def exchange(app: OwnApp, log: Path) -> None:
    update = f"/push/update?{TOPIC}"
    response = app.http.get("/", headers={**SECRET, "X-Forwarded-For": "203.0.113.9"})
    [line] = eventually(lambda: about(log, "/", client="203.0.113.9"))
    assert line["bytes"] > len(response.body)
    assert {**line, "bytes": 0, "duration": 0, "time": ""} == {
        "time": "", "client": "203.0.113.9", "method": "GET", "path": "/", "status": 200,
        "bytes": 0, "duration": 0, "transport": None, "topics": [], "close_code": None,
    }  # fmt: skip
    assert app.http.get("/push/update?topic=unknown").status == 404
    eventually(lambda: about(log, "/push/update", status=404, topics=["unknown"]))
    held: dict[str, Any] = {"path": "/push/update", "topics": ["orders/7"]}
    cursor = app.http.get(update).json[0]["cursor"]
    eventually(lambda: about(log, **held, transport="longpoll", status=200))
    with (
        app.send_get(f"{update}&after={cursor}") as poll,
        app.send_get(update, "Accept: text/event-stream") as stream,
        app.websocket(update, changes=SECRET) as first,
        app.websocket(update) as second,
        app.websocket("/echo") as conversing,
    ):
        first.json(), second.json()
        assert stream.recv(12) == b"HTTP/1.1 200"
        conversing.send(frame(TEXT, b"x" * 1000))
        assert conversing.frame() == (TEXT, b"x" * 1000)
        assert not about(log, **held, transport="sse"), "they have not ended"
        assert not about(log, **held, transport="websocket")
        assert app.http.post("/publish", {}).status == 200
        assert poll.recv(12) == b"HTTP/1.1 200"
        eventually(lambda: len(about(log, **held, transport="longpoll", status=200)) == 2)
        first.json()
        first.send(frame(CLOSE, struct.pack("!H", 4000)))
        assert first.close_code() == 4000
        [line] = eventually(lambda: about(log, **held, transport="websocket", close_code=4000))
        assert line["status"] == 101
        assert line["bytes"] > 2 * len(cursor)
        second.reset()
        eventually(lambda: about(log, **held, transport="websocket", close_code=1006))
        conversing.send(frame(CLOSE, struct.pack("!H", 1000)))
        assert conversing.close_code() == 1000
        [line] = eventually(lambda: about(log, "/echo", transport="websocket", close_code=1000))
        assert line["bytes"] > 1000
    eventually(lambda: about(log, **held, transport="sse", status=200))
    with app.websocket(update) as open_at_the_end:
        open_at_the_end.json()
        app.process.terminate()
        assert open_at_the_end.close_code() == 1001
        app.wait()
    assert len(about(log, **held, transport="websocket", close_code=1001)) == 1


def logged(server: Server) -> list[dict[str, Any]]:
    return [json.loads(line) for line in server.err if line.startswith("{")]


@pytest.mark.parametrize("program", ["serve.py", "servers/threads.py"])
def test_the_labs_requests_on_standard_error(program: str, start: Start) -> None:
    """Also those that would be dispatched without Flask."""
    server = start(program, "--access-log", "-")
    assert server.http.get("/data").status == 200
    with server.websocket() as browser:
        browser.json()
    found = eventually(lambda: len(logged(server)) > 1 and logged(server))
    # In any order: a thread may write its line after the client has the response.
    assert {(line["path"], line["transport"], line["status"]) for line in found} == {
        ("/data", "poll", 200), ("/update", "websocket", 101),
    }  # fmt: skip


def test_lines_that_are_dropped_are_a_line_of_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "access.log"
    write = AccessLog(str(log)).write
    with monkeypatch.context() as patch:
        patch.setattr(limits, "MAX_LOG_LINES", 0)
        write("{}")
    write("{}")
    eventually(lambda: len(lines(log)) > 1)
    assert lines(log) == [{"dropped": 1}, {}]


@pytest.mark.parametrize("name", SERVERS)
def test_a_file_that_cannot_be_written_is_one_line(name: str, tmp_path: Path) -> None:
    source, command = SERVERS[name]
    app = OwnApp(tmp_path, source, command, ACCESS_LOG=str(tmp_path / "no" / "file"))
    assert app.wait() != 0
    assert "Cannot write the access log" in app.log
    assert "Traceback" not in app.log
