"""Flask-uWSGI-WebSocket: an echo on gevent, and its clients; `app.run` gets OPTIONS."""

import json
import os
from typing import Any

from flask import Flask, request

from pushlab.revived.flask_uwsgi_websocket import GeventWebSocket

app = Flask(__name__)
websocket = GeventWebSocket(app)
clients: dict[str, Any] = {}


@app.route("/")
def hello():  # type: ignore[no-untyped-def]
    return "Hello"


@app.route("/clients")
def count():  # type: ignore[no-untyped-def]
    return {"clients": len(clients), "pid": os.getpid()}


@app.route("/fail")
def fail():  # type: ignore[no-untyped-def]
    raise LookupError("on purpose")


@websocket.route("/echo")
def echo(ws):  # type: ignore[no-untyped-def]
    while True:
        msg = ws.receive()
        ws.send(msg)


@websocket.route("/chat/<room>")
def chat(ws, room):  # type: ignore[no-untyped-def]
    clients[ws.id] = ws
    with app.request_context(ws.environ):
        ws.send(f"{room} {request.args['name']}")
    while ws.connected:
        msg = ws.receive()
        if msg is not None:
            for each in clients.values():
                each.send(msg.decode().upper())
    del clients[ws.id]


if __name__ == "__main__":
    app.run(port=int(os.environ["PORT"]), **json.loads(os.environ["OPTIONS"]))
