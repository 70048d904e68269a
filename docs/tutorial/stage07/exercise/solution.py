"""Exercise 7: a queue has one text at most."""

import threading
from contextlib import suppress
from queue import Empty, Queue

from flask import Flask, Response, render_template_string, request

from pushlab import connection_of
from pushlab.hosting.werkzeug import WerkzeugUpgrade

PAGE = """<!doctype html><title>Live ticker</title><h1>{{ text }}</h1>
<form onsubmit="fetch('', { method: 'POST', body: new FormData(this) }); return false">
<input name="text" autocomplete="off" autofocus><button>Say</button></form>
<script type="module">
  const show = ({ text }) => { document.querySelector("h1").textContent = text; };
  new WebSocket(`ws://${location.host}/news`).onmessage = ({ data }) => show({ text: data });
</script>"""

app = Flask(__name__)
WerkzeugUpgrade.of(app)  # Flask's own server has no WebSockets: this adds them
texts = ["The match begins."]  # all that was said, the newest last
queues: list[Queue[str]] = []
lock = threading.Lock()  # one text after the other: each browser gets them in the same order


@app.get("/")
def page() -> str:
    return render_template_string(PAGE, text=texts[-1])


@app.route("/news", websocket=True)
def news() -> Response:
    socket, queue = connection_of(request.environ), Queue[str]()
    with lock:
        queue.put(texts[-1])
        queues.append(queue)
    try:
        while True:
            socket.send(queue.get())
    finally:
        queues.remove(queue)


@app.post("/")
def say() -> Response:
    with lock:
        texts.append(request.form["text"])
        for queue in queues:
            with suppress(Empty):
                queue.get_nowait()  # an older text that was not sent: nobody needs it now
            queue.put(texts[-1])
        print("queued:", [queue.qsize() for queue in queues])
    return Response(status=204)
