"""python examples/chat.py: Flask-uWSGI-WebSocket's chat, with many rooms, on any server.

What changed: it needs no uWSGI, but runs there, too. Each member has a queue of messages, so that
a slow reader delays nobody; one whose queue is full is disconnected. All members receive all
messages in the same order, also those about joining and leaving. Names and texts have limits, and
are shown as text, not as HTML.
"""

if __name__ == "__main__":
    import on_gevent  # first: from here on, code that waits lets other greenlets run

from flask import Flask, abort, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from examples.chat_rooms import Rooms
from pushlab.websocket.frames import CloseReason
from pushlab.websocket.middleware import connection_of
from pushlab.wsgi.policy import configure

LONGEST_NAME, LONGEST_TEXT = 30, 1000

app = configure(Flask(__name__))
rooms = Rooms()


@app.get("/")
def lobby() -> Response:
    """Redirect to the first room."""
    return redirect(url_for("page", room="lobby"))


@app.get("/chat/<room>")
def page(room: str) -> str:
    """Return the page of a room, with links to others."""
    return render_template("chat.html", room=checked("room", room), rooms=rooms.sizes(20))


@app.route("/chat/<room>", websocket=True, endpoint="chat")  # beside its page
def chat(room: str) -> str:
    """Join under the name in `?name=`; pass messages on."""
    socket = connection_of(request.environ)
    name = checked("name", request.args.get("name", ""))
    with rooms.joined(checked("room", room), socket, name) as member:
        while (text := socket.receive()) is not None:
            if isinstance(text, bytes):
                socket.close(CloseReason.UNSUPPORTED_DATA, "only text, please")
            elif len(text) > LONGEST_TEXT:
                member.send({"error": f"not sent: more than {LONGEST_TEXT} characters"})
            elif text.strip():
                rooms.say(member, text)
    return ""


def checked(what: str, name: str) -> str:
    """Return the name; abort with 400 unless it is printable."""
    if not (0 < len(name) <= LONGEST_NAME and name.isprintable() and name == name.strip()):
        abort(400, f"{what}: not from 1 to {LONGEST_NAME} printable characters")
    return name


if __name__ == "__main__":
    on_gevent.serve(app)
