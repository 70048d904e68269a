"""Flask-uWSGI-WebSocket: each method of its client; `app.run` gets OPTIONS."""

import json
import os
import time

from flask import Blueprint, Flask

from pushlab.revived.flask_uwsgi_websocket import (
    WebSocket,
    WebSocketClient,
    WebSocketMiddleware,
)


class Client(WebSocketClient):
    def shout(self, msg: str) -> None:
        self.send(msg.upper())


class Middleware(WebSocketMiddleware):
    client = Client


class Routes(WebSocket):
    middleware = Middleware


app = Flask(__name__)
ws = Routes()
routes = Blueprint("routes", __name__)
ended: list[str] = []


@app.route("/")
def hello():  # type: ignore[no-untyped-def]
    return {"pid": os.getpid(), "ended": ended}


@routes.route("/methods")
def methods(client):  # type: ignore[no-untyped-def]
    client.shout("shouted")
    client.send("text")
    client.send(b"\0\xff")
    client.send_binary("as bytes")
    client.send("so, too", binary=True)
    assert client.recv_nb() == ""
    client.send("go on")
    while not (message := client.recv_nb()):
        time.sleep(0.01)
    client.send(f"not waited for: {message}")
    client.send(f"waited for: {client.recv()}")
    client.close(4000, "enough")
    assert not client.connected
    assert client.receive() is None


@routes.route("/area/<int:number>")
def area(client, number):  # type: ignore[no-untyped-def]
    try:
        client.send_from_sharedarea(number, 6)
        client.send_binary_from_sharedarea(number, 0)
    except ValueError as error:
        client.send(f"ValueError: {error}")


@routes.route("/ticks")
def ticks(client):  # type: ignore[no-untyped-def]
    """Send, and never receive."""
    while client.connected:
        client.send("tick")
        time.sleep(0.02)
    ended.append("ticks")


@routes.route("/polls")
def polls(client):  # type: ignore[no-untyped-def]
    """End by the OSError, as uWSGI's programs do."""
    try:
        while True:
            client.recv_nb()
            time.sleep(0.02)
    except OSError:
        ended.append("polls")


ws.init_app(app)
ws.register_blueprint(routes, url_prefix="/client")

if __name__ == "__main__":
    ws.run(False, "127.0.0.1", int(os.environ["PORT"]), **json.loads(os.environ["OPTIONS"]))
else:
    try:
        import uwsgi

        uwsgi.sharedarea_write(0, 0, b"Hello, area!")
    except (ImportError, AttributeError):  # another server, or no area
        pass
