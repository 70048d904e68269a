"""A server with a fault, which a measurement must detect.

python tests/forgetful.py 5000 amnesia    a browser that returns does not get what it missed
python tests/forgetful.py 5000 silence    no browser is notified of a change
python tests/forgetful.py 5000 stutter    every browser receives the first reading for ever
"""

from gevent import monkey

monkey.patch_all()

import sys

from flask import request

from lab.app import create_app
from lab.instruments import Lab
from lab.settings import Settings
from pushlab.feed import Feed, Reading
from pushlab.hosting.gevent_server import Server, freeze
from pushlab.hosting.listener import listen
from pushlab.hub import Hub, Subscriber
from pushlab.websocket.connection import Connection

port, fault = int(sys.argv[1]), sys.argv[2]


class ForgetfulFeed(Feed):
    """A feed whose wait has the fault."""

    def wait(self, after: str | None, *, timeout: float) -> Reading | None:
        if fault == "stutter" and self.latest.sequence > 0:
            return first[0]
        return super().wait(self.latest.cursor, timeout=60 if fault == "silence" else timeout)


class ForgetfulHub(Hub):
    """A hub that sends a new subscriber nothing."""

    def add(
        self, connection: Connection, feed: Feed, *, after: str | None = None, carry: bool = False
    ) -> Subscriber:
        return super().add(connection, feed, after=feed.latest.cursor, carry=carry)

    def broadcast(self, reading: Reading) -> None:
        if fault != "silence":
            super().broadcast(first[0] if fault == "stutter" else reading)


settings = Settings(source="http", far=(), direct=False)
first: list[Reading] = []
feed = ForgetfulFeed()
feed.subscribe(lambda reading: first.append(reading))
hub = ForgetfulHub()
feed.subscribe(hub.broadcast)
app = create_app(feed, hub, Lab(feed, settings, freeze=freeze), settings)


@app.route("/update", websocket=True, endpoint="websocket")
def update() -> str:
    """Give the socket to the hub."""
    hub.add(request.environ["wsgi.websocket"], feed, carry=request.args.get("carry") == "1")
    return ""


if __name__ == "__main__":
    listener = listen("127.0.0.1", port)
    server = Server(listener, app)
    server.start()
    print(f"faulty at http://127.0.0.1:{listener.getsockname()[1]} ", flush=True)
    server.serve_forever()
