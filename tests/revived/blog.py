"""The blog's app: a function that dispatches on the path, and JSON in both directions."""

from gevent import monkey

monkey.patch_all()

import json
import os

from flask import Flask

app = Flask(__name__)


def handle_websocket(ws):  # type: ignore[no-untyped-def]
    while True:
        message = ws.receive()
        if message is None:
            break
        ws.send(json.dumps({"output": json.loads(message)}))


def my_app(environ, start_response):  # type: ignore[no-untyped-def]
    if environ["PATH_INFO"] == "/websocket":
        handle_websocket(environ["wsgi.websocket"])  # type: ignore[no-untyped-call]
        return []
    return app(environ, start_response)


@app.route("/")
def index():  # type: ignore[no-untyped-def]
    return "Hello"


if __name__ == "__main__":
    from pushlab.hosting import gevent_server

    gevent_server.run(my_app, port=int(os.environ["PORT"]))
