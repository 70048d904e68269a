"""python examples/login.py: a WebSocket that knows its user (Flask-Sockets' #34).

What changed: it can refuse. Without a login the handshake gets a 401. Logging out ends the login,
for every copy of its cookie, and closes its WebSockets. Other sites can neither post nor connect.
"""

if __name__ == "__main__":
    import on_gevent  # first: from here on, code that waits lets other greenlets run

import json

from flask import Flask, abort, render_template, request, session
from flask.typing import ResponseReturnValue

from examples.logins import Logins, Password
from pushlab.websocket.middleware import connection_of
from pushlab.wsgi.policy import configure

app = configure(Flask(__name__))
logins = Logins(app)
password = Password("EXAMPLE_PASSWORD")


@app.post("/login")
def log_in() -> ResponseReturnValue:
    """Log in with `{"name", "password"}`: JSON, which no form sends."""
    match request.get_json():
        case {"name": str(name), "password": str(given)} if (
            0 < len(name.strip()) <= 30 and name.isprintable()
        ):
            if not password.matches(given):
                abort(401, "that is not the password")
        case _:
            abort(400, "not a name of 1 to 30 characters, and a password")
    logins.end(session.get("login"))
    session.update(name=name.strip(), login=logins.begin())
    return {"name": session["name"]}


@app.post("/logout")
def log_out() -> ResponseReturnValue:
    """End the login and its WebSockets in all tabs."""
    logins.end(session.get("login"))
    session.clear()
    return {}


@app.route("/whoami", websocket=True)
def whoami() -> str:
    """Send the user's name, and each message with its sender."""
    socket = connection_of(request.environ)
    with logins.using(session.get("login"), socket):
        socket.send(json.dumps({"you": session["name"]}))
        while isinstance(message := socket.receive(), str):
            socket.send(json.dumps({"from": session["name"], "text": message}))
        socket.close(1003, "only text, please")  # does nothing if the browser has closed it
    return ""


@app.get("/")
def page() -> str:
    """Return the page, with the user's name if logged in."""
    name = session["name"] if session.get("login") in logins else ""
    return render_template("login.html", name=name)


if __name__ == "__main__":
    on_gevent.serve(app)
