"""Stage 8: one hub for all browsers."""

from flask import Flask, Response, render_template_string, request

from pushlab import Feed, Hub, connection_of
from pushlab.hosting.werkzeug import WerkzeugUpgrade

PAGE = """<!doctype html><title>Live ticker</title><h1>{{ text }}</h1>
<form onsubmit="fetch('', { method: 'POST', body: new FormData(this) }); return false">
<input name="text" autocomplete="off" autofocus><button>Say</button></form>
<script type="module">
  const show = ({ text }) => { document.querySelector("h1").textContent = text; };
  const socket = new WebSocket(`ws://${location.host}/news`);
  socket.onmessage = ({ data }) => show(JSON.parse(data).value);
</script>"""

app = Flask(__name__)
WerkzeugUpgrade.of(app)  # Flask's own server has no WebSockets: this adds them
feed = Feed()  # has the newest text, and a cursor for it
hub = Hub()  # has the browsers
feed.subscribe(hub.broadcast)  # what is published to the feed goes to all browsers of the hub
feed.publish({"text": "The match begins."})


@app.get("/")
def page() -> str:
    return render_template_string(PAGE, text=feed.latest.value["text"])


@app.route("/news", websocket=True)
def news() -> Response:
    hub.add(connection_of(request.environ), feed, carry=True)
    return Response()  # the request ends here; the connection is the hub's


@app.post("/")
def say() -> Response:
    feed.publish({"text": request.form["text"]})
    return Response(status=204)
