"""WebSocket push in Flask: read it from top to bottom, then run it.

The data changes in the background. Each change is signalled to every browser over a WebSocket
at /update ("data ready"), and the browser fetches /data. The same change answers every long
poll that waits at /update. `diff serve.py serve2.py` shows the same with Flask-Sockets.
"""

from lab import installed  # first, so that a missing package is one clear line

# From here on, whatever waits (a socket, a lock, time.sleep) lets other greenlets run. It must
# come before the modules that it changes are used.
from gevent import monkey

monkey.patch_all()

import logging
import sys

import gevent
from flask import request

from lab import settings as options
from lab.app import create_app
from lab.far_ports import far_ports
from pushlab.feed import Feed
from pushlab.hosting.gevent_handler import Handler
from pushlab.hosting.gevent_server import Server, freeze, listen
from pushlab.hosting.lifecycle import start_with_first_request
from pushlab.hub import Hub
from lab.instruments import Lab
from lab.pace import Pace
from lab.sources import SOURCES
from pushlab.transports import websocket

# When another server imports this file, the command line is that server's, not ours.
settings = options.parse(sys.argv[1:] if __name__ == "__main__" else [])

feed = Feed()  # the newest reading, and everyone who waits for a newer one
hub = Hub(feed, ping_interval=settings.ping_interval)  # every open WebSocket, told at once
pace = Pace(settings.every)  # when the data changes
lab = Lab(feed, pace, settings, freeze)  # the page's instruments and controls
app = create_app(feed, hub, lab, settings)  # plain Flask: the page, /data, the long poll at /update


# `websocket=True` keeps this apart from the long poll, which has the same URL.
@app.route("/update", websocket=True, endpoint="websocket")
def update() -> str:
    """Give the browser's socket to the hub. The request ends here; the connection stays open."""
    websocket.update(hub, request.environ["wsgi.websocket"])
    return ""  # Flask wants an answer, but the browser has had its own: the open WebSocket


def change_the_data() -> None:
    """Run in the background: wait for the source's next value, publish it, and so on."""
    for value in SOURCES[settings.source](pace):
        feed.publish(value)  # wakes the long polls, and through the hub every WebSocket


if __name__ == "__main__":
    logging.basicConfig(level=settings.log_level.upper())
    listener = listen(settings.host, settings.port)
    server = Server(  # gevent's WSGIServer, with a farewell to all who are connected
        listener,
        app,
        handler_class=Handler,  # gevent-websocket's, with connections that are safe to serve
        on_shutdown=[feed.close, hub.close],
        meters=lab.meters,  # who counts the bytes of each lane of the page
        **settings.server(),
    )
    gevent.spawn(change_the_data)
    server.start()  # accepts, and hears Ctrl-C, from here on
    port = listener.getsockname()[1]
    print(f"Pushlab is at {settings.url(port)} (Ctrl-C stops it)", flush=True)
    with far_ports(settings.far, host=settings.host, port=port) as relays:
        for far in relays:
            print(f"{far.milliseconds:g} ms away: {settings.url(far.port)}", flush=True)
        lab.is_at(port, relays)  # so that the page can link to them
        server.serve_forever()
else:  # another server has imported `app`: those in servers/ do
    start_with_first_request(app, change_the_data)
