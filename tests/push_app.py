"""An app that pushes, with what its tests do and look at."""

import threading
from collections.abc import Callable
from functools import wraps
from typing import Any

from flask import Blueprint, Flask, abort, redirect, request, session
from flask.typing import ResponseReturnValue

from pushlab import Push, limits
from pushlab.presence import Follower

# A browser that polls has not left because a test is slow.
limits.POLL_GRACE = 3600.0

app = Flask(__name__)
app.config.update(
    SECRET_KEY="secret",
    PUSHLAB_ALLOW_ORIGINS=["https://page.example"],
    PUSHLAB_TRUSTED_PROXIES=["127.0.0.1"],
)
push = Push(app, identify=lambda: session.get("user"))

members = Blueprint("members", __name__)
events: list[list[Any]] = []
entered: list[str] = []
gate = threading.Event()


@members.before_request
def only_members() -> ResponseReturnValue | None:
    return None if "user" in session else redirect("/login")


app.register_blueprint(members)


def login_required(function: Callable[..., Any]) -> Callable[..., Any]:
    """As Flask-Login's."""

    @wraps(function)
    def decorated(**values: Any) -> Any:
        return function(**values) if "user" in session else redirect("/login")

    return decorated


# Topics.


@push.topic("state/<name>")
def state(name: str) -> None:
    pass


@push.topic("begun/<int:left>")
def begun(left: int) -> dict[str, int]:
    return {"left": left}


@push.topic("log/<path:name>", keep=1000)
@push.topic("short/<name>", keep=3)
def log(name: str) -> None:
    pass


@push.topic("users/<user>", keep=1000)
def users(user: str) -> None:
    if session.get("user") != user:
        abort(403 if "user" in session else 401)


@push.topic("members/<name>", blueprint="members")
def for_members(name: str) -> None:
    pass


@push.topic("login/<name>")
@login_required
def for_logins(name: str) -> None:
    pass


@push.topic("status/<int:status>")
def refused(status: int) -> None:
    abort(status)


@push.topic("returns/<int:status>")
def returned(status: int) -> ResponseReturnValue:
    return "no", status


@push.topic("raises")
def failing() -> None:
    raise RuntimeError("a permission failed")


@push.topic("valued", keep=2)
def valued() -> dict[str, int]:
    return {}


@push.topic("publishing/<name>", keep=1000)
def publishing(name: str) -> None:
    push.publish(f"publishing/{name}", {"by": "itself"})


@push.topic("gate/<name>", keep=1000)
def gated(name: str) -> None:
    entered.append(name)
    assert gate.wait(60)


# Presence.


@push.on_follow
@push.on_leave
def fail(follower: Follower, reason: str = "") -> None:
    raise RuntimeError("a hook failed")


@push.on_follow
def came(follower: Follower) -> None:
    events.append([*follower.topics, follower.identity, follower.transport, "came"])


@push.on_leave
def left(follower: Follower, reason: str) -> None:
    events.append([*follower.topics, follower.identity, follower.transport, reason])


# What the tests do and look at.


@app.get("/")
def page() -> str:
    return request.script_root


@app.post("/login/<user>")
def log_in(user: str) -> str:
    session["user"] = user
    return ""


@app.post("/publish/<path:topic>")
def publish(topic: str) -> ResponseReturnValue:
    try:
        return [push.publish(topic, value).cursor for value in request.get_json()]
    except (TypeError, ValueError) as error:
        return {"error": str(error)}, 422


@app.post("/disconnect/<identity>")
def disconnect(identity: str) -> str:
    return str(push.disconnect(identity))


@app.post("/gate/<int:is_open>")
def set_gate(is_open: int) -> str:
    entered.clear()
    (gate.set if is_open else gate.clear)()
    return ""


@app.get("/seen")
def seen() -> dict[str, Any]:
    topics = push.topics()
    return {
        "count": {topic: push.count(topic) for topic in topics},
        "events": events,
        "entered": entered,
        "threads": threading.active_count(),
    }
