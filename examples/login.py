"""python examples/login.py: a socket that knows who it is, as asked of Flask-Sockets (its #34).

What changed: it can say no. The socket reads Flask's session and answers 401 before the 101 if
there is no login; logging out ends the login, whoever has a copy of its cookie, and closes its
sockets. Pages of other sites can neither post nor connect: their Origin gives them away.
"""

if __name__ == "__main__":
    import on_gevent  # first of all: from here on, whatever waits lets others run

import json

from flask import Flask, abort, render_template, request, session
from flask.typing import ResponseReturnValue

from examples.logins import Logins, Password
from pushlab.websocket.connection import Connection
from pushlab.wsgi.policy import configure

app = configure(Flask(__name__))
logins = Logins(app)
password = Password("EXAMPLE_PASSWORD")


@app.post("/login")
def log_in() -> ResponseReturnValue:
    """Take `{"name", "password"}` as JSON, which no form of another site can send."""
    match request.get_json():
        case {"name": str(name), "password": str(said)} if (
            0 < len(name.strip()) <= 30 and name.isprintable()
        ):
            if not password.is_it(said):
                abort(401, "that is not the password")
        case _:
            abort(400, "not a name of 1 to 30 characters, and a password")
    logins.end(session.get("login"))
    session.update(name=name.strip(), login=logins.begin())
    return {"name": session["name"]}


@app.post("/logout")
def log_out() -> ResponseReturnValue:
    """End the login, and with it its sockets in all tabs."""
    logins.end(session.get("login"))
    session.clear()
    return {}


@app.route("/whoami", websocket=True)
def whoami() -> str:
    """Say who is there, and with each message who has sent it."""
    socket: Connection = request.environ["wsgi.websocket"]
    with logins.using(session.get("login"), socket):
        socket.send(json.dumps({"you": session["name"]}))
        while (message := socket.receive()) is not None:
            socket.send(json.dumps({"from": session["name"], "text": str(message)}))
    return ""


@app.get("/")
def page() -> str:
    """Return the page, for whoever is logged in by now."""
    name = session["name"] if session.get("login") in logins else ""
    return render_template("login.html", name=name)


if __name__ == "__main__":
    on_gevent.serve(app)
