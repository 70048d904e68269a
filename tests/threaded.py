"""The routes of tests/conversing.py, on native threads.

It sends pings often, so that tests of silence are short. It takes the options of serve.py.
"""

import logging
import sys
import threading

from flask import Flask, request

from lab import settings as options
from pushlab.feed import Feed
from pushlab.hosting.listener import listen
from pushlab.hosting.threaded_server import Server
from pushlab.hosting.werkzeug import WerkzeugUpgrade
from pushlab.hub import Hub

settings = options.parse(sys.argv[1:] if __name__ == "__main__" else [])
app = Flask(__name__)
feed = Feed()
hub = Hub(ping_interval=1.0)
feed.subscribe(hub.broadcast)
upgrade = WerkzeugUpgrade(app.wsgi_app, settings, ping_interval=0.5, ping_timeout=0.5)
app.wsgi_app = upgrade  # type: ignore[method-assign]


@app.route("/echo", websocket=True)
def echo() -> str:
    socket = request.environ["wsgi.websocket"]
    while (message := socket.receive()) is not None:
        socket.send(message)
    return ""


@app.route("/many-senders", websocket=True)
def many_senders() -> str:
    """Ten threads send large messages of one letter, while messages are echoed."""
    socket = request.environ["wsgi.websocket"]

    def send(letter: str) -> None:
        for _ in range(20):
            socket.send(letter * 100_000)

    threads = [threading.Thread(target=send, args=(letter,)) for letter in "abcdefghij"]
    for thread in threads:
        thread.start()
    while (message := socket.receive()) is not None:
        socket.send(message)
    for thread in threads:
        thread.join()
    return ""


@app.route("/push", websocket=True)
def push() -> str:
    hub.add(request.environ["wsgi.websocket"], feed, carry=True)
    return ""


@app.post("/push")
def publish() -> str:
    return feed.publish({"text": request.get_data(as_text=True)}).cursor


@app.route("/fail", endpoint="fail")
@app.route("/fail-early", websocket=True, endpoint="fail-early")
def fail() -> str:
    raise RuntimeError("on purpose")


@app.route("/fail-late", websocket=True)
def fail_late() -> str:
    request.environ["wsgi.websocket"].receive()
    raise RuntimeError("on purpose")


if __name__ == "__main__":
    logging.basicConfig()
    listener = listen(settings.host, settings.port)
    server = Server(listener, app, settings, on_shutdown=(feed.close, upgrade.close, hub.close))
    server.start()
    print(f"at {settings.url(listener.getsockname()[1])}", flush=True)
    server.serve_forever()
