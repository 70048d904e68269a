"""The same app without gevent: `python servers/threads.py`.

It runs on Werkzeug's server and native threads, and takes the options of serve.py. `flask --app
servers/threads run --debug` adds the reloader and the debugger. A poll or an event stream keeps a
thread while it waits. A WebSocket keeps none: the hub has one thread for all of them.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # of pushlab and lab

from lab import requirements_check

requirements_check.check("requirements.txt", without=("gevent", "gevent-websocket"))

import os

from lab.app import create_app, create_feed
from lab.instruments import Lab
from lab.settings import from_command_line
from pushlab import Hub
from pushlab.hosting import lifecycle, threaded_server
from pushlab.hosting.werkzeug import WerkzeugUpgrade
from pushlab.transports import websocket
from pushlab.wsgi.direct import direct
from pushlab.wsgi.responses import Environ

settings = from_command_line(__name__)
feed = create_feed(settings)
hub = Hub(ping_interval=settings.ping_interval)
feed.subscribe(hub.broadcast)
lab = Lab(feed, settings, freeze=threaded_server.freeze)
app = create_app(feed, hub, lab, settings)
upgrade = WerkzeugUpgrade.of(app, settings)  # Werkzeug's server has no WebSockets


@app.route("/update", websocket=True, endpoint="websocket")
@direct  # a server may call it without Flask
def update(environ: Environ) -> None:
    """Hand the browser's socket to the hub."""
    websocket.update(hub, [feed], environ)


def publish_changes() -> None:
    """Publish each value of the source; runs in the background."""
    for value in lab.source_values():
        feed.publish(value)


if __name__ == "__main__":
    threaded_server.run(app, settings, background=publish_changes, while_serving=lab.far_ports)
else:  # `flask run`, or another server
    if settings.certfile and os.environ.get("FLASK_RUN_FROM_CLI"):
        sys.exit("`flask run` takes its certificate from --cert and --key.")
    lifecycle.start_with_first_request(app, feed, publish_changes)
    lifecycle.shutdown_at_exit((feed.close, upgrade.close, hub.close))
