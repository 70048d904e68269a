"""python examples/blueprints.py: Flask-Sockets' blueprints, for pages and for WebSockets.

What changed: `register_blueprint` works on Flask 2 and later, with `url_prefix`. A page and a
WebSocket may share a URL. The variables in a WebSocket's URL are checked before the 101: a
handshake for `/repeat/10` gets a 404, as does any page that does not exist.
"""

if __name__ == "__main__":
    import on_gevent  # first: from here on, code that waits lets other greenlets run

from typing import Any

from flask import Blueprint, Flask, render_template

from pushlab.sockets import Sockets
from pushlab.websocket.connection import Connection
from pushlab.wsgi.policy import configure

pages = Blueprint("pages", __name__)
conversations = Blueprint("conversations", __name__)


@pages.get("/", defaults={"times": 2})
@pages.get("/repeat/<int(min=1, max=9):times>")
def page(times: int) -> str:
    """Return the page; its WebSocket repeats messages so often."""
    return render_template("blueprints.html", times=times)


# Any, as Flask's types expect a page: what a WebSocket's route returns is never sent.
@conversations.route("/<int(min=1, max=9):times>")
def repeat(socket: Connection, times: int) -> Any:
    """Send each message back so many times."""
    while (message := socket.receive()) is not None:
        for _ in range(times):
            socket.send(message)


@conversations.route("/<int(min=1, max=9):times>/<separator>")
def join(socket: Connection, times: int, separator: str) -> Any:
    """Send back one message: the received one, repeated."""
    while (message := socket.receive()) is not None:
        if isinstance(message, bytes):
            socket.send(separator.encode().join([message] * times))
        else:
            socket.send(separator.join([message] * times))


app = configure(Flask(__name__))
app.register_blueprint(pages)
sockets = Sockets(app)
sockets.register_blueprint(conversations, url_prefix="/repeat")


if __name__ == "__main__":
    on_gevent.serve(app)
