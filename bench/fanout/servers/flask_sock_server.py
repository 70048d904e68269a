"""flask-sock under a gevent worker: a loop of ws.send."""

import os
import sys
from contextlib import suppress
from typing import Any

from readings import listen, next_signal

if __name__ == "__main__":
    listener = listen()
    os.set_inheritable(listener.fileno(), True)
    here = os.path.dirname(os.path.abspath(__file__))
    options = "-k gevent -w 1 --worker-connections 20000 --timeout 0 --keep-alive 75"
    os.execv(  # noqa: S606 - replaced by gunicorn, which imports this file
        sys.executable,
        [sys.executable, "-m", "gunicorn", *options.split(), "--no-control-socket",
         "-b", f"fd://{listener.fileno()}", "--chdir", here, "flask_sock_server:app"],
    )  # fmt: skip

from flask import Flask
from flask_sock import Sock
from simple_websocket import ConnectionClosed

app = Flask(__name__)
sock = Sock(app)
sockets: set[Any] = set()


@sock.route("/update")
def update(ws: Any) -> None:
    sockets.add(ws)
    try:
        while True:
            ws.receive()
    except ConnectionClosed:
        pass
    finally:
        sockets.discard(ws)


@app.post("/data")
def publish() -> tuple[str, int]:
    signal = next_signal()
    for browser in tuple(sockets):
        with suppress(ConnectionClosed):
            browser.send(signal)
    return signal, 201
