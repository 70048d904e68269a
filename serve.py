"""WebSocket push in Flask: read it, then run it.

The data changes in the background. Each change goes to every browser over a WebSocket at /update:
"data ready", and the browser fetches /data. The same change ends every long poll that waits at
/update. `diff serve.py serve2.py` shows the same with Flask-Sockets.
"""

from lab import requirements_check  # first: a missing package is one clear line

requirements_check.check("requirements.txt")

from gevent import monkey

monkey.patch_all()  # before other imports: code that waits now lets other greenlets run

from lab.app import create_app, create_feed
from lab.instruments import Lab
from lab.settings import from_command_line
from pushlab import Hub
from pushlab.hosting import gevent_server, lifecycle
from pushlab.transports import websocket
from pushlab.wsgi.direct import direct
from pushlab.wsgi.responses import Environ

settings = from_command_line(__name__)
feed = create_feed(settings)  # the newest reading; polls and event streams wait on it
hub = Hub(ping_interval=settings.ping_interval)  # every browser that waits
feed.subscribe(hub.broadcast)  # every reading that is published goes to all of them
lab = Lab(feed, settings, freeze=gevent_server.freeze)  # the page's instruments and controls
app = create_app(feed, hub, lab, settings)  # plain Flask: the page, /data, the long poll at /update


@app.route("/update", websocket=True, endpoint="websocket")  # beside the long poll, at its URL
@direct  # a server may call it without Flask
def update(environ: Environ) -> None:
    """Hand the socket to the hub; the connection stays open."""
    websocket.update(hub, [feed], environ)


def publish_changes() -> None:
    """Publish each value of the source, in the background."""
    for value in lab.source_values():
        feed.publish(value)


if __name__ == "__main__":
    gevent_server.run(app, settings, background=publish_changes, while_serving=lab.far_ports)
else:  # another server has imported `app`: see servers/
    lifecycle.start_with_first_request(app, feed, publish_changes)
