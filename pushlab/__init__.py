"""Server push for Flask: WebSocket, server-sent events, long polling and short polling.

This is the library; the demo is in `lab`, the measurement in `bench`. Imports go down this list:
hosting and sockets -> hub, feed, transports -> wsgi -> websocket -> limits.
"""

from pushlab.feed import Feed, Reading
from pushlab.hub import Hub
from pushlab.sockets import Sockets

__all__ = ["Feed", "Hub", "Reading", "Sockets"]
__version__ = "2.0.0.dev0"
