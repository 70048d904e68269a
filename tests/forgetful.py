"""A server with a fault, which a measurement must detect.

python tests/forgetful.py 5000 amnesia    a browser that returns does not get what it missed
python tests/forgetful.py 5000 silence    no browser is notified of a change
python tests/forgetful.py 5000 stutter    every browser receives the first reading for ever
"""

from gevent import monkey

monkey.patch_all()

import re
import sys
from collections.abc import Sequence
from typing import Any

from flask import request

from lab.app import create_app
from lab.instruments import Lab
from lab.settings import Settings
from pushlab.feed import Feed, Reading
from pushlab.hosting.gevent_server import Server, freeze
from pushlab.hosting.listener import listen
from pushlab.hub import Hub

port, fault = int(sys.argv[1]), sys.argv[2]


class ForgetfulFeed(Feed):
    """A feed in which nothing is new, but for a broadcast the first reading."""

    is_broadcasting = False

    def since(self, after: str | None) -> Sequence[Reading]:
        if fault != "stutter":
            return super().since(after)
        found = first[: self.is_broadcasting]
        self.is_broadcasting = False
        return found


class ForgetfulHub(Hub):
    """A hub that notifies nobody, or always of the first reading."""

    def broadcast(self, reading: Reading) -> None:
        if fault != "silence":
            feed.is_broadcasting = True
            super().broadcast(reading)


class ForgetfulApp:
    """Middleware for which each browser has the newest reading."""

    def __init__(self, app: Any) -> None:
        self._app = app

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        environ.pop("HTTP_LAST_EVENT_ID", None)
        newest = f"after={feed.latest.cursor}"
        environ["QUERY_STRING"] = re.sub(r"after=[\w-]+", newest, environ["QUERY_STRING"])
        return self._app(environ, start_response)


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
    hub.add(
        request.environ["wsgi.websocket"],
        feed,
        after=request.args.get("after"),
        carry=request.args.get("carry") == "1",
    )
    return ""


if fault == "amnesia":
    app.wsgi_app = ForgetfulApp(app.wsgi_app)  # type: ignore[method-assign]

if __name__ == "__main__":
    listener = listen("127.0.0.1", port)
    server = Server(listener, app)
    server.start()
    print(f"faulty at http://127.0.0.1:{listener.getsockname()[1]} ", flush=True)
    server.serve_forever()
