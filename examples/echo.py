"""python examples/echo.py: Flask-Sockets' echo, as its README has it, on today's Flask.

What changed: the route works again, because `pushlab.sockets` tells Werkzeug that it is for
WebSockets; the loop ends when `receive` returns None, which the README's sent back to a browser
that had left; and there is a page to try it with.
"""

if __name__ == "__main__":
    import on_gevent  # first of all: from here on, whatever waits lets others run

from flask import Flask, render_template

from pushlab.sockets import Sockets
from pushlab.websocket.connection import Connection
from pushlab.wsgi.policy import configure

app = configure(Flask(__name__))
sockets = Sockets(app)


@sockets.route("/echo")
def echo(socket: Connection) -> None:
    """Send back whatever comes: text as text, bytes as bytes."""
    while (message := socket.receive()) is not None:
        socket.send(message)


@app.get("/")
def page() -> str:
    """Return a page that sends, and shows what comes back."""
    return render_template("echo.html")


if __name__ == "__main__":
    on_gevent.serve(app)
