"""A server with routes that converse, and one that gives its socket to the hub.

It sends pings often, so that tests of silence are short.
"""

from gevent import monkey

monkey.patch_all()

import logging
import sys

from flask import Flask, abort, redirect, request
from flask.typing import ResponseReturnValue

from pushlab.feed import Feed
from pushlab.hosting.gevent_server import Server
from pushlab.hosting.listener import listen
from pushlab.hosting.settings import ServerSettings
from pushlab.hub import Hub
from pushlab.sockets import Sockets

app = Flask(__name__)
sockets = Sockets(app)
feed = Feed()
hub = Hub(ping_interval=1.0, max_subscribers=4)
feed.subscribe(hub.broadcast)


@app.route("/echo", websocket=True)
def echo() -> str:
    socket = request.environ["wsgi.websocket"]
    while (message := socket.receive()) is not None:
        socket.send(message)
    return ""


@sockets.route("/echo/<int:times>")
def echo_times(socket, times):  # type: ignore[no-untyped-def]
    while not socket.closed:
        message = socket.receive()
        for _ in range(times):
            if message is not None:
                socket.send(message)


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


@app.route("/fail/<when>", websocket=True)
def fail(when: str) -> str:
    if when == "later":
        request.environ["wsgi.websocket"].receive()
    raise RuntimeError("on purpose")


@sockets.route("/fail2/<when>")
def fail2(socket, when):  # type: ignore[no-untyped-def]
    if when == "later":
        socket.receive()
    raise KeyError("on purpose")


@app.route("/reject", websocket=True)
def reject() -> str:
    abort(403, "not you")


@app.route("/elsewhere", websocket=True)
def elsewhere() -> ResponseReturnValue:
    return redirect("/echo")


@app.route("/untouched", websocket=True)
def untouched() -> str:
    return "nobody reads this"


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


@app.route("/many-senders", websocket=True)
def many_senders() -> str:
    """Ten greenlets send at once, each ten large messages of one letter."""
    import gevent

    socket = request.environ["wsgi.websocket"]
    gevent.joinall(
        [
            gevent.spawn(lambda letter=letter: [socket.send(letter * 100_000) for _ in range(10)])
            for letter in "abcdefghij"
        ],
        raise_error=True,
    )
    return ""


if __name__ == "__main__":
    logging.basicConfig()
    listener = listen("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1]))
    print(f"at http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    settings = ServerSettings(ping_interval=0.5)
    Server(listener, app, settings, on_shutdown=[feed.close, hub.close]).serve_forever()
