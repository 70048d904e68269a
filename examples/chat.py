"""python examples/chat.py: Flask-uWSGI-WebSocket's chat, with many rooms, on any server.

What changed: it needs no uWSGI, but runs there, too; a message is put in everyone's backlog, so
that whoever reads slowly holds up nobody, and is dropped when his backlog is full; all hear all in
the same order, who comes and goes as well; and names and texts have limits, and are no HTML.
"""

if __name__ == "__main__":
    import on_gevent  # first of all: from here on, whatever waits lets others run

from flask import Flask, abort, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from examples.chat_rooms import Rooms
from pushlab.websocket.connection import Connection
from pushlab.websocket.frames import CloseReason
from pushlab.wsgi.policy import configure

LONGEST_NAME, LONGEST_TEXT = 30, 1000

app = configure(Flask(__name__))
rooms = Rooms()


@app.get("/")
def lobby() -> Response:
    """Lead to a first room."""
    return redirect(url_for("page", room="lobby"))


@app.get("/chat/<room>")
def page(room: str) -> str:
    """Return the page of a room, which also tells of others."""
    return render_template("chat.html", room=checked("room", room), rooms=rooms.sizes(20))


@app.route("/chat/<room>", websocket=True, endpoint="chat")  # beside its page
def chat(room: str) -> str:
    """Be in the room, by the name in `?name=`, and tell everyone what comes."""
    socket: Connection = request.environ["wsgi.websocket"]
    name = checked("name", request.args.get("name", ""))
    with rooms.entered(checked("room", room), socket, name) as member:
        while (text := socket.receive()) is not None:
            if isinstance(text, bytes):
                socket.close(CloseReason.UNSUPPORTED_DATA, "only text, please")
            elif len(text) > LONGEST_TEXT:
                member.tell({"error": f"not sent: more than {LONGEST_TEXT} characters"})
            elif text.strip():
                rooms.say(member, text)
    return ""


def checked(what: str, name: str) -> str:
    """Return a name that everyone can read; anything else is a 400, before the 101."""
    if not (0 < len(name) <= LONGEST_NAME and name.isprintable() and name == name.strip()):
        abort(400, f"{what}: not from 1 to {LONGEST_NAME} printable characters")
    return name


if __name__ == "__main__":
    on_gevent.serve(app)
