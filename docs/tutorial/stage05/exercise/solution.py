"""Exercise 5: how many threads the server has."""

import json
import threading
from collections.abc import Iterator

from flask import Flask, Response, render_template_string, request

PAGE = """<!doctype html><title>Live ticker</title><h1>{{ text }}</h1>
<form onsubmit="fetch('', { method: 'POST', body: new FormData(this) }); return false">
<input name="text" autocomplete="off" autofocus><button>Say</button></form>
<script type="module">
  const show = ({ text }) => { document.querySelector("h1").textContent = text; };
  new EventSource("/news").onmessage = ({ data }) => show(JSON.parse(data));
</script>"""

app = Flask(__name__)
texts = ["The match begins."]  # all that was said, the newest last
changed = threading.Condition()


@app.get("/")
def page() -> str:
    return render_template_string(PAGE, text=texts[-1])


@app.get("/news")
def news() -> Response:
    after = request.headers.get("Last-Event-ID", 0, type=int)
    return Response(events(after), mimetype="text/event-stream")


def events(after: int) -> Iterator[str]:
    while True:
        with changed:
            if after == len(texts):  # the browser has the newest: wait for a newer one
                changed.wait(timeout=25)
            is_news = after != len(texts)
            after, data = len(texts), json.dumps({"text": texts[-1]})
        yield f"id: {after}\ndata: {data}\n\n" if is_news else ": nothing new\n\n"


@app.get("/threads")
def threads() -> str:
    return str(threading.active_count())


@app.post("/")
def say() -> Response:
    with changed:
        texts.append(request.form["text"])
        changed.notify_all()
    return Response(status=204)
