"""Exercise 6: the browser says its texts by WebSocket."""

from contextlib import suppress

from flask import Flask, Response, render_template_string, request

from pushlab import connection_of
from pushlab.hosting.werkzeug import WerkzeugUpgrade
from pushlab.websocket.connection import Connection, ConnectionClosed

PAGE = """<!doctype html><title>Live ticker</title><h1>{{ text }}</h1>
<form>
<input name="text" autocomplete="off" autofocus><button>Say</button></form>
<script type="module">
  const show = ({ text }) => { document.querySelector("h1").textContent = text; };
  const socket = new WebSocket(`ws://${location.host}/news`);
  socket.onmessage = ({ data }) => show({ text: data });
  document.querySelector("form").onsubmit = () => {
    socket.send(document.querySelector("input").value);
    return false;  // or the browser would send the form as well
  };
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
        while (text := socket.receive()) is not None:  # None: the browser has closed it
            send_to_all(str(text))
    finally:
        sockets.remove(socket)
    return Response()


def send_to_all(text: str) -> None:
    texts.append(text)
    for socket in tuple(sockets):
        with suppress(ConnectionClosed):  # this browser is gone: go on with the others
            socket.send(texts[-1])
