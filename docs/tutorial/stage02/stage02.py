"""Stage 2: the browser asks every second."""

from flask import Flask, Response, jsonify, render_template_string, request

PAGE = """<!doctype html><title>Live ticker</title><h1>{{ text }}</h1>
<form onsubmit="fetch('', { method: 'POST', body: new FormData(this) }); return false">
<input name="text" autocomplete="off" autofocus><button>Say</button></form>
<script type="module">
  const show = ({ text }) => { document.querySelector("h1").textContent = text; };
  setInterval(async () => show(await (await fetch("/news")).json()), 1000);
</script>"""

app = Flask(__name__)
texts = ["The match begins."]  # all that was said, the newest last


@app.get("/")
def page() -> str:
    return render_template_string(PAGE, text=texts[-1])


@app.get("/news")
def news() -> Response:
    response = jsonify(text=texts[-1])
    response.add_etag()  # a name for this content; the browser sends it with its next request
    response.cache_control.no_cache = True  # the browser must ask before it uses its copy
    response.make_conditional(request)  # 304 and no body if the browser has this content
    return response


@app.post("/")
def say() -> Response:
    texts.append(request.form["text"])
    return Response(status=204)  # No Content
