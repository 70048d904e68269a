"""Flask-Sockets: routes, a variable, a blueprint, a session; on the server named last."""

import os

from flask import Blueprint, Flask, request, session

from pushlab.sockets import Sockets

html = Blueprint("html", __name__)
ws = Blueprint("ws", __name__)


@html.route("/")
def hello():  # type: ignore[no-untyped-def]
    return "Hello"


@html.route("/login", methods=["POST"])
def login():  # type: ignore[no-untyped-def]
    session["name"] = "Zoë"
    return ""


@ws.route("/echo")
def echo_socket(socket):  # type: ignore[no-untyped-def]
    while not socket.closed:
        message = socket.receive()
        socket.send(message)


app = Flask(__name__)
app.secret_key = "of a test"
sockets = Sockets(app)


@sockets.route("/room/<name>/<int:number>")
def room(socket, name, number):  # type: ignore[no-untyped-def]
    socket.send(f"{name} {number} {session.get('name')} {request.cookies.get('taste')}")


@sockets.route("/frames")
def send_frames(socket):  # type: ignore[no-untyped-def]
    socket.send_frame("text", socket.OPCODE_TEXT)
    socket.send_frame(b"\0\xff", socket.OPCODE_BINARY)
    socket.send_frame(b"ping", socket.OPCODE_PING)
    socket.receive()
    socket.close(4000, "enough")


app.register_blueprint(html, url_prefix="/")
sockets.register_blueprint(ws, url_prefix="/")


if __name__ == "__main__":
    from gevent import pywsgi
    from geventwebsocket.handler import WebSocketHandler

    server = pywsgi.WSGIServer(
        ("127.0.0.1", int(os.environ["PORT"])), app, handler_class=WebSocketHandler
    )
    server.serve_forever()
