"""Stage 4: a long poll that says what it has."""

import threading

from flask import Flask, Response, jsonify, render_template_string, request

PAGE = """<!doctype html><title>Live ticker</title><h1>{{ text }}</h1>
<form onsubmit="fetch('', { method: 'POST', body: new FormData(this) }); return false">
<input name="text" autocomplete="off" autofocus><button>Say</button></form>
<script type="module">
  const show = ({ text }) => { document.querySelector("h1").textContent = text; };
  for (let after = {{ number }}; ;) {
    const response = await fetch(`/news?after=${after}`, { cache: "no-store" });
    if (response.status === 200) show({ number: after } = await response.json());
  }
</script>"""

app = Flask(__name__)
texts = ["The match begins."]  # all that was said, the newest last
changed = threading.Condition()


@app.get("/")
def page() -> str:
    return render_template_string(PAGE, number=len(texts), text=texts[-1])


@app.get("/news")
def news() -> Response:
    after = request.args.get("after", type=int)
    with changed:
        if after == len(texts):  # the browser has the newest: wait for a newer one
            changed.wait(timeout=25)
        is_news = after != len(texts)
        return jsonify(number=len(texts), text=texts[-1]) if is_news else Response(status=204)


@app.post("/")
def say() -> Response:
    with changed:
        texts.append(request.form["text"])
        changed.notify_all()
    return Response(status=204)
