"""Stage 3, WRONG: a long poll that loses texts."""

import threading

from flask import Flask, Response, jsonify, render_template_string, request

PAGE = """<!doctype html><title>Live ticker</title><h1>{{ text }}</h1>
<form onsubmit="fetch('', { method: 'POST', body: new FormData(this) }); return false">
<input name="text" autocomplete="off" autofocus><button>Say</button></form>
<script type="module">
  const show = ({ text }) => { document.querySelector("h1").textContent = text; };
  for (;;) {
    const response = await fetch("/news", { cache: "no-store" });
    if (response.status === 200) show(await response.json());
  }
</script>"""

app = Flask(__name__)
texts = ["The match begins."]  # all that was said, the newest last
changed = threading.Event()


@app.get("/")
def page() -> str:
    return render_template_string(PAGE, text=texts[-1])


@app.get("/news")
def news() -> Response:
    is_news = changed.wait(timeout=25)  # seconds; then the browser asks again
    return jsonify(text=texts[-1]) if is_news else Response(status=204)


@app.post("/")
def say() -> Response:
    texts.append(request.form["text"])
    changed.set()  # wakes the requests that wait ...
    changed.clear()  # ... and lets the next ones wait
    return Response(status=204)
