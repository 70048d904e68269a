"""WebSocket: one open connection for every change.

`/update?after=C` becomes a WebSocket on which every change is a text frame: a signal, or with
`carry=1` the reading. A browser that names an old reading, or none, receives the newest at once.
"""

from pushlab.feed import Feed
from pushlab.hub import Hub
from pushlab.websocket.middleware import connection_of
from pushlab.wsgi import parameters
from pushlab.wsgi.responses import Environ


def update(hub: Hub, feed: Feed, environ: Environ) -> None:
    """Hand the request's socket to the hub.

    A 400 for a bad parameter comes before the 101: the hub accepts the handshake when it takes the
    socket.
    """
    after, _, carry = parameters.read(environ)
    hub.add(connection_of(environ), feed, after=after, carry=carry)
