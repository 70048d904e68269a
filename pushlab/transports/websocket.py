"""WebSocket: one connection held open, on which the server speaks when there is something to say.

`/update?after=C` becomes a socket on which every change is a text frame: a signal, or with
`carry=1` the reading. Whoever names an old reading, or none, is told at once.
"""

from pushlab.hub import Hub
from pushlab.websocket.connection import Connection
from pushlab.wsgi import parameters as query


def update(hub: Hub, socket: Connection) -> None:
    """Hand the current request's socket to the hub, which tells it of every change from now on.

    A 400 for a bad parameter comes before the 101: the handshake is answered only when the hub
    takes the socket.
    """
    hub.add(socket, after=query.after(), carry=query.carry())
