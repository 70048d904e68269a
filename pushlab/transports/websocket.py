"""WebSocket: one open connection for every change.

`/update?after=C` becomes a WebSocket on which every change is a text frame: a signal, or with
`carry=1` the reading. A browser that names an old reading, or none, receives the newest at once.
"""

from collections.abc import Sequence

from pushlab.feed import Feed, positions
from pushlab.hub import Hub
from pushlab.transports import TRANSPORT
from pushlab.websocket.middleware import connection_of
from pushlab.wsgi import parameters
from pushlab.wsgi.responses import Environ
from pushlab.wsgi.waiting import Follower


def update(
    hub: Hub, feeds: Sequence[Feed], environ: Environ, follower: Follower | None = None
) -> None:
    """Hand the request's socket to the hub.

    A 400 for a bad parameter comes before the 101: the hub accepts the handshake when it takes the
    socket.
    """
    environ[TRANSPORT] = "websocket"
    _, afters, _, carry = parameters.read(environ)
    hub.follow(connection_of(environ), positions(feeds, afters), carry=carry, follower=follower)
