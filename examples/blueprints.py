"""python examples/blueprints.py: Flask-Sockets' blueprints, one for pages and one for sockets.

What changed: `register_blueprint` works on Flask 2 and later, with `url_prefix`; a page and a
socket may share a URL; and the variables in a socket's URL are checked before it has its 101:
`/repeat/10` is a 404, as any page that does not exist.
"""

if __name__ == "__main__":
    import on_gevent  # first of all: from here on, whatever waits lets others run

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
    """Return the page, which connects to a socket of this many times."""
    return render_template("blueprints.html", times=times)


# What a socket's route returns is never sent, hence Any: Flask takes it for the route of a page.
@conversations.route("/<int(min=1, max=9):times>")
def repeat(socket: Connection, times: int) -> Any:
    """Send each message back so many times."""
    while (message := socket.receive()) is not None:
        for _ in range(times):
            socket.send(message)


@conversations.route("/<int(min=1, max=9):times>/<separator>")
def join(socket: Connection, times: int, separator: str) -> Any:
    """Send each message back once, so many times in a row."""
    while (message := socket.receive()) is not None:
        socket.send(separator.join([str(message)] * times))


app = configure(Flask(__name__))
app.register_blueprint(pages)
sockets = Sockets(app)
sockets.register_blueprint(conversations, url_prefix="/repeat")


if __name__ == "__main__":
    on_gevent.serve(app)
