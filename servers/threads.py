"""python servers/threads.py: the same app without gevent, on Werkzeug's server and native threads.

It takes the options of serve.py. `flask --app servers/threads run --debug` works, too, with the
reloader and the debugger. A poll or an event stream costs a thread while it waits; a WebSocket
costs none, as the hub has one thread for all of them.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # where pushlab is

from lab import requirements_check as needed

needed.demand(gevent=False)

import logging
import os
import threading

from flask import request

from lab import settings as options
from lab.app import create_app
from lab.far_ports import far_ports
from pushlab.feed import Feed
from pushlab.hosting.lifecycle import shutdown_at_exit, start_with_first_request
from pushlab.hub import Hub
from lab.instruments import Lab
from pushlab.hosting.listener import listen
from lab.pace import Pace
from lab.sources import SOURCES
from pushlab.hosting.threaded_server import Server, freeze
from pushlab.transports import websocket
from pushlab.hosting.werkzeug import WerkzeugUpgrade

# When another server imports this file, the command line is that server's, not ours.
settings = options.parse(sys.argv[1:] if __name__ == "__main__" else [])

feed = Feed()
hub = Hub(feed, ping_interval=settings.ping_interval)
pace = Pace(settings.every)
lab = Lab(feed, pace, settings, freeze)
app = create_app(feed, hub, lab, settings)
upgrade = WerkzeugUpgrade(app.wsgi_app, settings)  # Werkzeug's server knows no WebSockets
app.wsgi_app = upgrade  # type: ignore[method-assign]
on_shutdown = (feed.close, upgrade.close, hub.close)


@app.route("/update", websocket=True, endpoint="websocket")
def update() -> str:
    """Give the browser's socket to the hub."""
    websocket.update(hub, request.environ["wsgi.websocket"])
    return ""


def change_the_data() -> None:
    """Run in the background: wait for the source's next value, publish it, and so on."""
    for value in SOURCES[settings.source](pace):
        feed.publish(value)


if __name__ == "__main__":
    logging.basicConfig(level=settings.log_level.upper())
    listener = listen(settings.host, settings.port)
    server = Server(
        listener,
        app,
        on_shutdown=on_shutdown,
        meters=lab.meters,
        max_clients=settings.max_clients,
        head_timeout=settings.head_timeout,
        ssl_context=settings.tls(),
    )
    threading.Thread(target=change_the_data, name="source", daemon=True).start()
    server.start()
    port = listener.getsockname()[1]
    print(f"Pushlab is at {settings.url(port)} (Ctrl-C stops it)", flush=True)
    with far_ports(settings.far, host=settings.host, port=port) as relays:
        for far in relays:
            print(f"{far.milliseconds:g} ms away: {settings.url(far.port)}", flush=True)
        lab.is_at(port, relays)
        server.serve_forever()
else:  # `flask run`, or another server
    if settings.certfile and os.environ.get("FLASK_RUN_FROM_CLI"):
        sys.exit("`flask run` takes its certificate from --cert and --key.")
    start_with_first_request(app, change_the_data)
    shutdown_at_exit(on_shutdown)
