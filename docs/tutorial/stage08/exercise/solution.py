"""Exercise 8: connect again, and get what was missed."""

from flask import Flask, Response, render_template_string, request

from pushlab import Feed, Hub, connection_of
from pushlab.hosting.werkzeug import WerkzeugUpgrade

PAGE = """<!doctype html><title>Live ticker</title><ol></ol>
<form onsubmit="fetch('', { method: 'POST', body: new FormData(this) }); return false">
<input name="text" autocomplete="off" autofocus><button>Say</button></form>
<script type="module">
  const add = ({ text }) => document.querySelector("ol").append(
    Object.assign(document.createElement("li"), { textContent: text }));
  let after = "";
  function connect() {
    const socket = new WebSocket(`ws://${location.host}/news?after=${after}`);
    socket.onmessage = ({ data }) => {
      const reading = JSON.parse(data);
      if (!reading.reset) add(reading.value);
      else if (after) location.reload();  // the server has not kept what this page missed
      after = reading.cursor;
    };
    socket.onclose = () => setTimeout(connect, 1000);
  }
  connect();
</script>"""

app = Flask(__name__)
WerkzeugUpgrade.of(app)  # Flask's own server has no WebSockets: this adds them
feed = Feed(keep=100)  # has the last hundred texts, and a cursor for each
hub = Hub()  # has the browsers
feed.subscribe(hub.broadcast)  # what is published to the feed goes to all browsers of the hub
feed.publish({"text": "The match begins."})


@app.get("/")
def page() -> str:
    return render_template_string(PAGE)


@app.route("/news", websocket=True)
def news() -> Response:
    after = request.args.get("after") or None  # None: the browser has nothing yet
    hub.add(connection_of(request.environ), feed, after=after, carry=True)
    return Response()  # the request ends here; the connection is the hub's


@app.post("/")
def say() -> Response:
    feed.publish({"text": request.form["text"]})
    return Response(status=204)
