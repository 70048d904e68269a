"""`pushlab.testing`: an app that pushes, tested without a server."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, abort, session

from pushlab import Push
from pushlab.testing import Client, Following
from tests.conftest import ROOT
from tests.test_how_to import blocks


@pytest.fixture
def app() -> Flask:
    app = Flask(__name__)
    app.secret_key = "secret"
    push = Push(app, url_prefix="/live", identify=lambda: session.get("user"))

    @app.post("/login/<int:user>")
    def log_in(user: int) -> str:
        session["user"] = user
        return ""

    @push.topic("stock/<sku>")
    def stock(sku: str) -> dict[str, int]:
        return {"left": 3}

    @push.topic("orders/<int:user>", keep=1000)
    def orders(user: int) -> None:
        if session.get("user") != user:
            abort(403, "not yours")

    @push.topic("short/<name>", keep=3)
    def short(name: str) -> None:
        pass

    return app


@pytest.fixture
def push(app: Flask) -> Push:
    found: Push = app.extensions["push"]
    return found


@pytest.fixture
def ann(app: Flask) -> Iterator[Client]:
    with Client(app) as ann:
        ann.http.post("/login/7")
        yield ann


@pytest.fixture
def orders(ann: Client) -> Following:
    return ann.follow("orders/7")


def number(count: int, first: int = 1) -> list[dict[str, int]]:
    return [{"n": each} for each in range(first, first + count)]


def test_each_gets_their_own(app: Flask, push: Push, orders: Following) -> None:
    http = app.test_client()
    with http.session_transaction() as its_session:
        its_session["user"] = 8
    with Client(http) as bob:
        his = bob.follow("orders/8")
        push.publish("orders/7", {"status": "packed"})
        assert (orders.status, orders.values(), his.values()) == (101, [{"status": "packed"}], [])
        refused = bob.follow("orders/7")
        assert (refused.status, refused.error, refused.values()) == (403, "not yours", [])
        assert refused.closed == 1006
        assert bob.follow("nowhere").status == 404
        assert bob.follow("orders/8", after="nonsense").status == 400
        assert push.count("orders/8") == 1
    assert push.count("orders/8") == 0
    assert push.count("orders/7") == 1


def test_nothing_is_missed_while_away(push: Push, orders: Following) -> None:
    for value in number(3):
        push.publish("orders/7", value)
    orders.lose_connection()
    assert orders.closed == 1006
    assert push.count("orders/7") == 0
    for value in number(300, 4):
        push.publish("orders/7", value)
    assert orders.values() == number(3)
    orders.reconnect()
    assert orders.closed is None
    push.publish("orders/7", {"n": 304})
    assert orders.values() == number(301, 4)
    assert orders.values() == []


def test_more_than_a_socket_holds(push: Push, orders: Following) -> None:
    values = [{"n": each, "text": "x" * 10_000} for each in range(100)]
    for value in values:
        push.publish("orders/7", value)
    assert orders.values() == values


def test_several_topics_and_a_reset(push: Push, ann: Client) -> None:
    both = ann.follow("short/a", "stock/tea")
    assert [each["topic"] for each in both.messages()] == ["short/a", "stock/tea"]
    both.lose_connection()
    for value in number(5):
        push.publish("short/a", value)
    both.reconnect()
    push.publish("short/a", {"n": 6})
    push.publish("stock/tea", {"left": 2})
    reset, *readings = both.messages()
    assert reset == {"topic": "short/a", "cursor": f"{push.cursor('short/a')[:-1]}5", "reset": True}
    assert [each["value"] for each in readings] == [{"n": 6}, {"left": 2}]
    both.lose_connection()
    for value in number(5, 7):
        push.publish("short/a", value)
    both.reconnect()
    assert both.resets() == ["short/a"]
    again = ann.follow("short/a", "stock/tea", after=(push.cursor("short/a"), None))
    assert again.values() == [{"left": 2}]
    assert ann.follow("short/a", after=push.cursor("short/a")).messages() == []


def test_a_logout_closes(push: Push, ann: Client, orders: Following) -> None:
    assert push.disconnect(7) == 1
    push.publish("orders/7", {"secret": True})
    assert orders.values() == []
    assert orders.closed == 4401
    orders.close()
    assert orders.closed == 4401
    ann.http.post("/login/8")
    orders.reconnect()
    assert (orders.status, orders.closed) == (403, 1006)


def test_signals(push: Push, ann: Client) -> None:
    stock = ann.follow("stock/tea", carry=False)
    reading = push.publish("stock/tea", {"left": 2})
    first, second = stock.readings()
    assert second == {"topic": "stock/tea", "cursor": reading.cursor} != first


def test_a_failing_topic(app: Flask, push: Push, ann: Client) -> None:
    """As in any request of Flask's test client."""

    @push.topic("broken")
    def broken() -> Any:
        raise RuntimeError("broken")

    assert ann.follow("broken").status == 500
    app.testing = True
    with pytest.raises(RuntimeError, match="broken"):
        ann.follow("broken")


def run_pytest(folder: Path) -> None:
    """Run the tests of the folder as their author does."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error"],
        cwd=folder, env={**os.environ, "PYTHONPATH": f"{ROOT}:{folder}"}, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


#: The tests of an author whose app is made for gevent.
ON_GEVENT = "from gevent import monkey\nmonkey.patch_all()\n"


def test_the_tests_of_the_docs(tmp_path: Path) -> None:
    app, tests = blocks("test-it", "python")
    (tmp_path / "app.py").write_text(app)
    (tmp_path / "test_app.py").write_text(tests)
    run_pytest(tmp_path)
    (tmp_path / "conftest.py").write_text(ON_GEVENT)
    run_pytest(tmp_path)


def test_pytest_is_not_needed() -> None:
    code = "import sys, pushlab.testing; assert 'pytest' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
