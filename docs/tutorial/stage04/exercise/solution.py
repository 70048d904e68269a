"""Exercise 4: every text that the browser has missed."""

import threading

from flask import Flask, Response, jsonify, render_template_string, request

PAGE = """<!doctype html><title>Live ticker</title>
<ol>{% for text in texts %}<li>{{ text }}</li>{% endfor %}</ol>
<form onsubmit="fetch('', { method: 'POST', body: new FormData(this) }); return false">
<input name="text" autocomplete="off" autofocus><button>Say</button></form>
<script type="module">
  const add = (text) => document.querySelector("ol").append(
    Object.assign(document.createElement("li"), { textContent: text }));
  for (let after = {{ number }}; ;) {
    const response = await fetch(`/news?after=${after}`, { cache: "no-store" });
    if (response.status !== 200) continue;
    const news = await response.json();
    news.texts.forEach(add);
    after = news.number;
  }
</script>"""

app = Flask(__name__)
texts = ["The match begins."]  # all that was said, the newest last
changed = threading.Condition()


@app.get("/")
def page() -> str:
    return render_template_string(PAGE, number=len(texts), texts=tuple(texts))


@app.get("/news")
def news() -> Response:
    after = request.args.get("after", 0, type=int)
    with changed:
        if after == len(texts):  # the browser has the newest: wait for a newer one
            changed.wait(timeout=25)
        is_news = after != len(texts)
        missed = texts[after:] or texts  # all of them, if the server was restarted
        return jsonify(number=len(texts), texts=missed) if is_news else Response(status=204)


@app.post("/")
def say() -> Response:
    with changed:
        texts.append(request.form["text"])
        changed.notify_all()
    return Response(status=204)
