"""An app whose routes converse or use a hub."""

import os
import socket
import stat
import threading
from contextlib import suppress
from pathlib import Path

from flask import Flask, abort, redirect, request
from flask.typing import ResponseReturnValue

from pushlab.feed import Feed
from pushlab.hub import Hub

app = Flask(__name__)
feed = Feed()
hub = Hub(max_subscribers=4)
feed.subscribe(hub.broadcast)


@app.route("/echo", websocket=True)
def echo() -> str:
    socket = request.environ["wsgi.websocket"]
    while (message := socket.receive()) is not None:
        socket.send(message)
    return ""


@app.route("/many-senders", websocket=True)
def many_senders() -> str:
    """Send large messages from ten threads, or greenlets, while echoing."""
    socket = request.environ["wsgi.websocket"]

    def send(letter: str) -> None:
        for _ in range(20):
            socket.send(letter * 100_000)

    threads = [threading.Thread(target=send, args=(letter,)) for letter in "abcdefghij"]
    for thread in threads:
        thread.start()
    echo()
    for thread in threads:
        thread.join()
    return ""


@app.route("/push", websocket=True)
def push() -> str:
    hub.add(request.environ["wsgi.websocket"], feed, carry=True)
    return ""


@app.post("/push")
def publish() -> str:
    return feed.publish({"text": request.get_data(as_text=True)}).cursor


@app.get("/subscribers")
def subscribers() -> str:
    return str(len(hub))


@app.get("/user-timeout/<int:port>")
def user_timeout(port: int) -> str:
    """Return TCP_USER_TIMEOUT of the client at this port, in milliseconds."""
    for path in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # some are not connected, and one was that of the listing
            if stat.S_ISSOCK(path.stat().st_mode):
                with socket.socket(fileno=os.dup(int(path.name))) as copy:
                    if copy.getpeername()[1:] == (port,):
                        return str(copy.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT))
    return "no such client"


@app.route("/fail/<when>", websocket=True)
def fail(when: str) -> str:
    if when == "later":
        request.environ["wsgi.websocket"].receive()
    raise RuntimeError("on purpose")


@app.route("/reject", websocket=True)
def reject() -> str:
    abort(403, "not you")


@app.route("/elsewhere", websocket=True)
def elsewhere() -> ResponseReturnValue:
    return redirect("/echo")


@app.route("/untouched", websocket=True)
def untouched() -> str:
    return "an unused response"


@app.route("/close/<int:code>", websocket=True)
def close(code: int) -> str:
    socket = request.environ["wsgi.websocket"]
    socket.close(code, "server says so")
    assert socket.closed
    assert socket.receive() is None
    return ""


@app.route("/after-close", websocket=True)
def after_close() -> str:
    socket = request.environ["wsgi.websocket"]
    socket.close()
    socket.send("too late")
    return ""
