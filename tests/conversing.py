"""tests/routes.py on gevent, with two routes of Flask-Sockets."""

from gevent import monkey

monkey.patch_all()

import logging
import sys

from pushlab.hosting.gevent_server import Server
from pushlab.hosting.listener import listen
from pushlab.hosting.settings import ServerSettings
from pushlab.sockets import Sockets
from tests.routes import app, feed, hub

sockets = Sockets(app)


@sockets.route("/echo/<int:times>")
def echo_times(socket, times):  # type: ignore[no-untyped-def]
    while not socket.closed:
        message = socket.receive()
        for _ in range(times):
            if message is not None:
                socket.send(message)


@sockets.route("/fail2/<when>")
def fail2(socket, when):  # type: ignore[no-untyped-def]
    if when == "later":
        socket.receive()
    raise KeyError("on purpose")


if __name__ == "__main__":
    logging.basicConfig()
    listener = listen("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1]))
    print(f"at http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    Server(listener, app, ServerSettings(), on_shutdown=[feed.close, hub.close]).serve_forever()
