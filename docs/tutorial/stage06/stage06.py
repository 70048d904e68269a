"""Stage 6: a WebSocket each, sent to in turn."""

from contextlib import suppress

from flask import Flask, Response, render_template_string, request

from pushlab import connection_of
from pushlab.hosting.werkzeug import WerkzeugUpgrade
from pushlab.websocket.connection import Connection, ConnectionClosed

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
sockets: list[Connection] = []


@app.get("/")
def page() -> str:
    return render_template_string(PAGE, text=texts[-1])


@app.route("/news", websocket=True)
def news() -> Response:
    socket = connection_of(request.environ)
    socket.send(texts[-1])
    sockets.append(socket)
    try:
        while socket.receive() is not None:  # None: the browser has closed the connection
            pass
    finally:
        sockets.remove(socket)
    return Response()


@app.post("/")
def say() -> Response:
    texts.append(request.form["text"])
    for socket in tuple(sockets):
        with suppress(ConnectionClosed):  # this browser is gone: go on with the others
            socket.send(texts[-1])
    return Response(status=204)
