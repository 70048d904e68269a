"""Moving on: the pages from other libraries, from cron and Celery, and to a server, as printed."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from bench.servers import free_port
from tests.clients import HANG_TIMEOUT, TEXT, frame
from tests.conftest import Program, eventually
from tests.hosting import BIN
from tests.test_how_to import GUNICORN, PAGES, App, Run, blocks, run, started_redis

__all__ = ["run"]  # a fixture


def test_a_chat_with_rooms(run: Run) -> None:
    app = run("from-flask-socketio")
    ann, bob = app.log_in("ann"), app.log_in("bob")
    with app.follow("rooms/tea", login=ann) as hers, app.follow("rooms/milk", login=bob) as his:
        for browser in (hers, his):
            browser.json()
        for login, room in ((bob, "tea"), (ann, "milk")):
            said = {"text": f"in {room}"}
            assert app.http.post(f"/rooms/{room}", said, headers={
                **login, "Content-Type": "application/json"}).status == 200  # fmt: skip
        assert hers.json()["value"] == {"name": "bob", "text": "in tea"}
        assert his.json()["value"] == {"name": "ann", "text": "in milk"}
    with app.follow("rooms/tea") as stranger:
        assert stranger.status == 401


def test_an_echo_and_what_all_are_to_know(run: Run) -> None:
    app = run("from-flask-sock")
    with app.follow("echoes") as browser, app.websocket("/echo") as talking:
        browser.json()
        for count, text in enumerate((b"one", b"two"), 1):
            talking.send(frame(TEXT, text))
            assert talking.frame() == (TEXT, text)
            assert browser.json()["value"] == {"count": count}


def test_a_plain_event_source(run: Run) -> None:
    """The URL that the page prints; and what was missed, by Last-Event-ID."""
    app = run("from-flask-sse")
    [script] = blocks("from-flask-sse", "js")
    [path] = re.findall(r'EventSource\("(.+?)"\)', script)
    app.http.post("/hello", {})
    with event_stream(app, path) as events:
        last_id, _ = next(events)
    for _ in range(2):
        app.http.post("/hello", {})
    with event_stream(app, path, {"Last-Event-ID": last_id}) as events:
        for _ in range(2):
            assert next(events)[1]["value"] == {"type": "greeting", "message": "Hello!"}


@contextmanager
def event_stream(
    app: App, path: str, headers: Mapping[str, str] = MappingProxyType({})
) -> Iterator[Iterator[tuple[str, Any]]]:
    """Open a stream; yield its events: the id, and the data as JSON."""
    connection = HTTPConnection("127.0.0.1", app.port, timeout=HANG_TIMEOUT)
    with closing(connection):
        connection.request("GET", path, headers={"Accept": "text/event-stream", **headers})
        yield _events(connection.getresponse())


def _events(response: HTTPResponse) -> Iterator[tuple[str, Any]]:
    fields: dict[str, str] = {}
    while line := response.readline().decode():
        name, _, value = line.rstrip("\n").partition(": ")
        if name:
            fields[name] = value
            continue
        if "data" in fields:
            yield fields["id"], json.loads(fields["data"])
        fields = {}


@pytest.mark.parametrize(
    ("page", "rule", "topic", "says", "value"),
    [
        ("from-flask-sockets", "/submit", "chat", b"hello", {"text": "hello"}),
        ("from-flask-threaded-sockets", "/sensor", "temperature", b"21.5", {"celsius": 21.5}),
        ("from-flask-uwsgi-websocket", "/say", "chat", b"hello", {"text": "hello"}),
    ],
)
def test_the_import_is_changed_and_push_does_the_rest(
    run: Run, page: str, rule: str, topic: str, says: bytes, value: object
) -> None:
    command: tuple[str, ...] = GUNICORN
    if page == "from-flask-threaded-sockets":
        command = ("flask", "--app", "app", "run", "-p", "{port}")
    elif page == "from-flask-uwsgi-websocket":
        command = ("uwsgi", "--http-socket", "127.0.0.1:{port}", "--gevent", "100", "--master",
                   "--gevent-early-monkey-patch", "--die-on-term", "-w", "app:app")  # fmt: skip
    app = run(page, *command)
    with app.follow(topic) as browser, app.websocket(rule) as talking:
        browser.json()
        talking.send(frame(TEXT, says))
        assert browser.json()["value"] == value


def test_a_celery_task_and_a_crontab_publish(run: Run, tmp_path: Path) -> None:
    with ExitStack() as stack:
        redis = stack.enter_context(started_redis(tmp_path))
        app = run("from-cron-or-celery", REDIS_URL=redis.url)
        environment = {**os.environ, **app.environment}
        browser = stack.enter_context(app.follow("reports/nightly"))
        assert browser.json()["value"] == {"status": "waiting"}
        (tmp_path / "tasks.py").write_text(blocks("from-cron-or-celery", "python")[1])
        worker = Program(
            "-A", "tasks", "worker", "--pool", "solo", "--loglevel", "INFO",
            command=[str(BIN / "celery")], folder=tmp_path, environment=app.environment,
        )  # fmt: skip
        try:
            subprocess.run(
                [sys.executable, "-c", "import tasks; tasks.make_report.delay('nightly')"],
                cwd=tmp_path, env=environment, check=True,
            )  # fmt: skip
            while browser.json()["value"] != {"percent": 100}:
                pass  # a state: readings in between may be skipped
        finally:
            worker.stop()
        [by_hand] = blocks("from-cron-or-celery", "sh")
        subprocess.run(["sh", "-c", f"{BIN}/{by_hand}"], cwd=tmp_path, env=environment, check=True)
        assert browser.json()["value"] == {"percent": 100}


COMMANDS = re.findall(
    r"^     - ``(.+ .+)``$", (PAGES / "which-server.rst").read_text(), re.MULTILINE
)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_server_serves_the_same_app(tmp_path: Path, command: str) -> None:
    assert len(COMMANDS) == 4
    parts = command.replace("8020", "{port}").split()
    if parts[0] == "gunicorn":
        parts.insert(1, "--no-control-socket")
    elif parts[0] == "uwsgi":
        parts[1:1] = ["--master", "--die-on-term"]
    source, *others = blocks("which-server", "python")
    port = free_port()
    for name, text in zip(("run.py", "wsgi.py"), others, strict=True):
        (tmp_path / name).write_text(text.replace("8020", str(port)))
    app = App(source, tmp_path, tuple(parts), port=port)
    try:
        with app.follow("news") as browser:
            assert browser.json()["value"] == {"text": "it works"}
        assert app.http.get("/push/data?topic=news").json["value"] == {"text": "it works"}
        with event_stream(app, "/push/update?topic=news&carry=1") as events:
            assert next(events)[1]["value"] == {"text": "it works"}
    finally:
        app.stop()
    eventually(lambda: app.process.poll() is not None)
    assert "Traceback" not in app.log, app.log
