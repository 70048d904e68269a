"""An app with Push below /push and /shop/push; below /scripted, what Push never sends."""

from gevent import monkey

monkey.patch_all()

import json
import sys
from collections import Counter
from collections.abc import Iterable
from typing import Any

from flask import Flask, Response, abort, redirect, request, send_from_directory
from flask.typing import ResponseReturnValue
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from pushlab import Push
from pushlab.hosting import gevent_server
from pushlab.push import STATIC
from pushlab.sockets import Sockets
from pushlab.websocket.connection import Connection
from pushlab.wsgi.responses import WSGI, Environ

POLICY = "default-src 'none'; script-src 'self'; connect-src 'self'"

app = Flask(__name__)
push = Push(app, identify=lambda: "ann")
sockets = Sockets(app)

#: What to do: statuses by topic, kinds of requests that do not pass.
refused: dict[str, int] = {}
blocked: set[str] = set()

#: What has happened: requests by topic, and the transports that were used.
requested: Counter[str] = Counter()
transports: list[str] = []

#: What is not a cursor.
NOT_CURSORS: tuple[Any, ...] = (None, 5, "", "x", "x-", "-1", "x-y", "x y-1", {})

#: Text frames for a socket, by the script's name; numbers are codes to close with.
SCRIPTS: dict[str, list[str]] = {
    "malformed": [
        "", "{", "null", "5", "[]", "{}", '"text"', '{"topic": "a"}', '{"cursor": "x-1"}',
        *(json.dumps({"topic": "a", "cursor": cursor, "value": 1})
          for cursor in NOT_CURSORS),
        json.dumps({"topic": "b", "cursor": "x-1", "value": 1}),
        json.dumps({"topic": "a", "cursor": None, "reset": True}),
        json.dumps({"topic": "a", "cursor": "x-1", "value": "well-formed"}),
    ],
}  # fmt: skip


@push.topic("stock/<sku>")
def stock(sku: str) -> None:
    check(f"stock/{sku}")


@push.topic("orders/<int:user>", keep=1000)
def orders(user: int) -> None:
    check(f"orders/{user}")


def check(topic: str) -> None:
    requested[topic] += 1
    if "HTTP_UPGRADE" in request.environ:
        transports.append("websocket")
    elif "timeout" not in request.args:  # with it, it only asks
        is_stream = "text/event-stream" in request.accept_mimetypes.values()
        transports.append("sse" if is_stream else "longpoll")
    if status := refused.get(topic):
        abort(status)


@app.before_request
def send_to_login() -> ResponseReturnValue | None:
    return redirect("/") if request.args.get("topic") == "stock/login" else None


@app.after_request
def add_policy(response: Response) -> Response:
    response.headers["Content-Security-Policy"] = POLICY
    return response


@app.get("/")
@app.get("/elsewhere")
def page() -> str:
    return "<!doctype html><title>An app of one's own</title>"


@app.post("/publish")
def publish() -> ResponseReturnValue:
    topic, values = request.get_json(force=True)
    return [push.publish(topic, value).cursor for value in values]


@app.post("/set")
def set_up() -> ResponseReturnValue:
    """Set what is refused and blocked."""
    what = request.get_json(force=True)
    refused.clear()
    refused.update(what.get("refused", {}))
    blocked.clear()
    blocked.update(what.get("blocked", ()))
    return ""


@app.post("/disconnect")
def disconnect() -> ResponseReturnValue:
    return {"count": push.disconnect("ann")}


@app.get("/seen")
def seen() -> ResponseReturnValue:
    return {"requested": requested, "transports": transports}


@app.get("/scripted/<script>/<path:filename>")
def scripted_file(script: str, filename: str) -> Response:
    return send_from_directory(STATIC, filename)


@app.get("/scripted/<script>/update")
def scripted_poll(script: str) -> ResponseReturnValue:
    return []


@sockets.route("/scripted/<script>/update")
def scripted(socket: Connection, script: str) -> None:
    requested[script] += 1
    for step in SCRIPTS.get(script, [script]):
        if not step.isdecimal() or len(step) < 4:
            socket.send(step)
        else:
            socket.close(int(step))
    while socket.receive() is not None:
        pass


class Blocking:
    """Responds with 502 to what is blocked, as a proxy may."""

    def __init__(self, wsgi_app: WSGI) -> None:
        self.wsgi_app = wsgi_app

    def __call__(self, environ: Environ, start_response: Any) -> Iterable[bytes]:
        kind = "websocket" if "HTTP_UPGRADE" in environ else environ.get("HTTP_ACCEPT", "")
        if kind in blocked:
            start_response("502 Bad Gateway", [("Content-Length", "0")])
            return []
        return self.wsgi_app(environ, start_response)


if __name__ == "__main__":
    below = DispatcherMiddleware(app.wsgi_app, {"/shop": app.wsgi_app})
    app.wsgi_app = Blocking(below)  # type: ignore[method-assign]
    gevent_server.run(app, port=int(sys.argv[1]))
