"""Server push for Flask, by WebSocket, event stream or polling.

RULE: the library imports neither the demo (`lab`) nor the measurement (`bench`). Inside, imports go
one way: revived, push -> topics -> redis_feed -> sockets -> hosting -> transports -> hub -> wsgi ->
feed -> websocket -> limits.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pushlab.feed import Feed, Reading
    from pushlab.hub import Hub
    from pushlab.push import Push
    from pushlab.sockets import Sockets
    from pushlab.websocket.middleware import connection_of

__all__ = ["Feed", "Hub", "Push", "Reading", "Sockets", "connection_of"]
__version__ = "2.0.0.dev0"

_MODULES = {
    "Feed": "feed",
    "Hub": "hub",
    "Push": "push",
    "Reading": "feed",
    "Sockets": "sockets",
    "connection_of": "websocket.middleware",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is used.

    A feed needs no Flask; what only names transports or reads a limit needs little at all.
    """
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
