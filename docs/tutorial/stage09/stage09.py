"""Stage 9: a topic for each match."""

from flask import Flask, Response, render_template_string, request

from pushlab import Push

PAGE = """<!doctype html><title>Live ticker</title><h1>{{ text }}</h1>
<form onsubmit="fetch('', { method: 'POST', body: new FormData(this) }); return false">
<input name="text" autocomplete="off" autofocus><button>Say</button></form>
<script type="module">
  import { follow } from "/push/push.js";
  const show = ({ text }) => { document.querySelector("h1").textContent = text; };
  follow({{ topic | tojson }}, { onReading: ({ value }) => show(value) });
</script>"""

app = Flask(__name__)
push = Push(app)  # adds /push/update and /push/push.js


@push.topic("match/<name>")
def match(name: str) -> dict[str, str]:
    """Let all follow; return the text from before any was said."""
    return {"text": f"The match {name} begins."}


@app.get("/match/<name>")
def page(name: str) -> str:
    return render_template_string(PAGE, text="...", topic=f"match/{name}")


@app.post("/match/<name>")
def say(name: str) -> Response:
    push.publish(f"match/{name}", {"text": request.form["text"]})
    return Response(status=204)
