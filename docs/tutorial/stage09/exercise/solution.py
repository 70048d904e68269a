"""Exercise 9: how many watch, as a second topic."""

from flask import Flask, Response, render_template_string, request

from pushlab import Push
from pushlab.presence import Follower

PAGE = """<!doctype html><title>Live ticker</title><h1>{{ text }}</h1><p></p>
<form onsubmit="fetch('', { method: 'POST', body: new FormData(this) }); return false">
<input name="text" autocomplete="off" autofocus><button>Say</button></form>
<script type="module">
  import { follow } from "/push/push.js";
  follow({{ topics | tojson }}, { onReading({ topic, value: { text } }) {
    document.querySelector(topic.startsWith("match/") ? "h1" : "p").textContent = text;
  } });
</script>"""

app = Flask(__name__)
push = Push(app)  # adds /push/update and /push/push.js


@push.topic("match/<name>")
def match(name: str) -> dict[str, str]:
    """Let all follow; return the text from before any was said."""
    return {"text": f"The match {name} begins."}


@push.topic("viewers/<name>")
def viewers(name: str) -> dict[str, str]:
    return {"text": f"{push.count(f'match/{name}')} watching"}


@push.on_follow
@push.on_leave
def count_again(follower: Follower, reason: str = "") -> None:
    for topic in follower.topics:
        kind, _, name = topic.partition("/")
        if kind == "match":
            push.publish(f"viewers/{name}", viewers(name))


@app.get("/match/<name>")
def page(name: str) -> str:
    return render_template_string(PAGE, text="...", topics=[f"match/{name}", f"viewers/{name}"])


@app.post("/match/<name>")
def say(name: str) -> Response:
    push.publish(f"match/{name}", {"text": request.form["text"]})
    return Response(status=204)
