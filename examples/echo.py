"""python examples/echo.py: the echo of Flask-Sockets' README, on today's Flask.

What changed: the route works again, because `pushlab.sockets` declares it as one for WebSockets.
The loop ends when `receive` returns None; the README's sent that back to a browser that had
disconnected. There is a page to try it.
"""

if __name__ == "__main__":
    import on_gevent  # first: from here on, code that waits lets other greenlets run

from flask import Flask, render_template

from pushlab.sockets import Sockets
from pushlab.websocket.connection import Connection
from pushlab.wsgi.policy import configure

app = configure(Flask(__name__))
sockets = Sockets(app)


@sockets.route("/echo")
def echo(socket: Connection) -> None:
    """Send each message back: text as text, bytes as bytes."""
    while (message := socket.receive()) is not None:
        socket.send(message)


@app.get("/")
def page() -> str:
    """Return a page that sends, and shows the replies."""
    return render_template("echo.html")


if __name__ == "__main__":
    on_gevent.serve(app)
