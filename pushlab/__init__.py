"""Server push for Flask, by WebSocket, event stream or polling.

RULE: the library imports neither the demo (`lab`) nor the measurement (`bench`). Inside, imports go
one way: push -> sockets -> hosting -> transports -> hub -> wsgi -> feed -> websocket -> limits.
"""

from pushlab.feed import Feed, Reading
from pushlab.hub import Hub
from pushlab.push import Push
from pushlab.sockets import Sockets
from pushlab.websocket.middleware import connection_of

__all__ = ["Feed", "Hub", "Push", "Reading", "Sockets", "connection_of"]
__version__ = "2.0.0.dev0"
