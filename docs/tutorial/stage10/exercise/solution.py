"""Exercise 10: the server keeps the logins."""

import secrets

from flask import Flask, abort, redirect, render_template_string, request, session
from werkzeug.wrappers import Response

from pushlab import Push

PAGE = """<!doctype html><title>Live ticker</title><h1>{{ text }}</h1>
<form onsubmit="fetch('', { method: 'POST', body: new FormData(this) }); return false">
<input name="text" autocomplete="off" autofocus><button>Say</button></form>
<form method="post"><button formaction="/login">Log in</button>
<button formaction="/logout">Log out</button></form>
<script type="module">
  import { follow } from "/push/push.js";
  const show = ({ text }) => { document.querySelector("h1").textContent = text; };
  const onRefused = () => show({ text: "Log in first." });
  follow({{ topic | tojson }}, { onReading: ({ value }) => show(value), onRefused });
</script>"""

app = Flask(__name__)
app.secret_key = secrets.token_hex()  # signs the cookie in which the session is
push = Push(app, identify=lambda: session.get("login"))
logins: set[str] = set()  # in a real app, a table of the database


def require_login() -> None:
    if session.get("login") not in logins:
        abort(401)


@push.topic("match/<name>")
def match(name: str) -> dict[str, str]:
    require_login()
    return {"text": f"The match {name} begins."}


@app.get("/match/<name>")
def page(name: str) -> str:
    return render_template_string(PAGE, text="...", topic=f"match/{name}")


@app.post("/match/<name>")
def say(name: str) -> Response:
    require_login()
    push.publish(f"match/{name}", {"text": request.form["text"]})
    return Response(status=204)


@app.post("/login")
def log_in() -> Response:
    session["login"] = secrets.token_hex()  # a real app asks for a password first
    logins.add(session["login"])
    return redirect(request.referrer or "/match/final")


@app.post("/logout")
def log_out() -> Response:
    login = session.pop("login", "")
    logins.discard(login)  # first: from here on, a copy of the cookie is worth nothing
    push.disconnect(login)
    return redirect(request.referrer or "/match/final")
