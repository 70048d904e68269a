"""Stage 10: only with a login."""

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


@push.topic("match/<name>")
def match(name: str) -> dict[str, str]:
    if "login" not in session:
        abort(401)  # nobody follows without a login
    return {"text": f"The match {name} begins."}


@app.get("/match/<name>")
def page(name: str) -> str:
    return render_template_string(PAGE, text="...", topic=f"match/{name}")


@app.post("/match/<name>")
def say(name: str) -> Response:
    push.publish(f"match/{name}", {"text": request.form["text"]})
    return Response(status=204)


@app.post("/login")
def log_in() -> Response:
    session["login"] = secrets.token_hex()  # a real app asks for a password first
    return redirect(request.referrer or "/match/final")


@app.post("/logout")
def log_out() -> Response:
    push.disconnect(session.pop("login", None))  # ends all that this login has opened
    return redirect(request.referrer or "/match/final")
