"""An app as people's questions have it, for tests/test_faq.py: on the libraries as they are.

It is served by gevent-websocket's handler if it is run, and else by gunicorn's own workers.
"""

if __name__ == "__main__":
    from gevent import monkey

    monkey.patch_all()

import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from flask import Flask, Response, request, session
from flask_sock import Sock
from flask_sockets import Sockets

app = Flask(__name__)
app.secret_key = "a text"
sockets, sock = Sockets(app), Sock(app)
changed = threading.Event()

#: Requests that go on, and what happens in them.
seen = {"polls": 0, "streams": 0, "looks": 0}


@app.get("/")
def page() -> dict[str, Any]:
    return {**seen, "user": session.get("user")}


@app.post("/change")
def change() -> str:
    changed.set()
    changed.clear()
    return ""


@app.get("/poll")
def poll() -> str:
    seen["polls"] += 1
    try:
        changed.wait()
    finally:
        seen["polls"] -= 1
    return ""


@app.get("/stream")
def stream() -> Response:
    def events() -> Iterator[str]:
        seen["streams"] += 1
        try:
            yield "data: 1\n\n"
            changed.wait()
            yield "data: 2\n\n"
        finally:
            seen["streams"] -= 1

    return Response(events(), mimetype="text/event-stream")


@app.route("/echo", websocket=True)
def echo() -> str:
    socket = request.environ["wsgi.websocket"]
    while not socket.closed:
        socket.send(socket.receive())
    return ""


@app.route("/look", websocket=True)
def look() -> str:
    while not request.environ["wsgi.websocket"].closed:
        seen["looks"] += 1
        time.sleep(0.05)
    return ""


@app.route("/log-in", websocket=True)
def log_in() -> str:
    session["user"] = "ann"
    request.environ["wsgi.websocket"].send("Hello, ann")
    return ""


@sockets.route("/flask-sockets")
def flask_sockets(socket: Any) -> None:
    socket.send(socket.receive())


@sock.route("/flask-sock")
def flask_sock(socket: Any) -> None:
    while True:
        socket.send(socket.receive())


if __name__ == "__main__":
    from gevent.pywsgi import WSGIServer
    from geventwebsocket.handler import WebSocketHandler

    address = ("127.0.0.1", int(sys.argv[1]))
    WSGIServer(address, app, handler_class=WebSocketHandler).serve_forever()
