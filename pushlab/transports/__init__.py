"""The transports, and the registry that names them.

RULE: one module per transport; its function `update` runs whatever dispatches the request.
`TRANSPORTS` is the one place for a transport's name, titles, colours and defaults: the page, the
plots, the terminal, the report and the tests read it. CONTRIBUTING.rst says how to add one.
"""

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

if TYPE_CHECKING:  # names and colours need no Flask, as in a load generator
    from pushlab.feed import Feed
    from pushlab.wsgi.responses import Environ, Response
    from pushlab.wsgi.waiting import Stream, Wait

    #: What a transport's function returns: a response, or one that waits for news.
    Outcome: TypeAlias = Response | Wait | Stream
    #: What chooses the transport that a request asks for: a function of feeds and the environ.
    Respond: TypeAlias = Callable[[Sequence[Feed], Environ], Outcome]


#: The key, in the environ, of the transport's name; for the access log.
TRANSPORT = "pushlab.transport"


class Colour(NamedTuple):
    """One hue, for a light page and a dark one."""

    light: str
    dark: str


class Transport(NamedTuple):
    """How a transport is named, shown and started."""

    name: str  #: in URLs, file names and options
    title: str
    short: str  #: the title where there is little room
    tagline: str  #: what it does, in a few words
    colour: Colour
    marker: str  #: in plots, as Matplotlib names it: for readers who do not see hues
    autostart: bool = True  #: whether its lane starts with the page
    carry: bool = True  #: whether its lane begins by carrying readings
    path: str = "/update"  #: the URL of its `update`
    accept: str = ""  #: what its requests' Accept header contains, if transports share the path
    upgrades: bool = False  #: whether it is a WebSocket, whose route is in serve.py


_ALL = (
    Transport(
        name="poll",
        title="Short polling",
        short="Short polling",
        tagline="asks again and again",
        path="/data",
        colour=Colour("#636b7c", "#a3abbb"),
        marker="s",
    ),
    Transport(
        name="longpoll",
        title="Long polling",
        short="Long polling",
        tagline="asks once, and waits",
        colour=Colour("#a56000", "#f2a43a"),
        marker="^",
    ),
    Transport(
        name="sse",
        title="Server-sent events",
        short="SSE",
        tagline="one response that never ends",
        colour=Colour("#00805a", "#36c795"),
        marker="D",
        autostart=False,
        accept="text/event-stream",
    ),
    Transport(
        name="websocket",
        title="WebSocket",
        short="WebSocket",
        tagline="one connection, held open",
        colour=Colour("#0062ab", "#5aaef5"),
        marker="o",
        upgrades=True,
    ),
)

#: Every transport by its name, in the order in which they are shown.
TRANSPORTS = {transport.name: transport for transport in _ALL}


def routes() -> "dict[str, Respond]":
    """Return by path what responds to GET and HEAD."""
    paths: dict[str, list[Transport]] = {}
    for transport in sorted(_ALL, key=lambda each: not each.accept):  # the particular ones first
        if not transport.upgrades:
            paths.setdefault(transport.path, []).append(transport)
    return {path: _route(shared) for path, shared in paths.items()}


def _route(transports: list[Transport]) -> "Respond":
    from pushlab.wsgi.accept import prefers
    from pushlab.wsgi.remembered import remembered

    candidates = [(each, import_module(f"{__name__}.{each.name}")) for each in transports]

    @remembered  # all browsers of a kind send the same
    def chosen(accept: str) -> tuple[str, Any]:
        return next(
            (transport.name, module)
            for transport, module in candidates
            if not transport.accept or prefers(transport.accept, accept)
        )

    def respond(feeds: "Sequence[Feed]", environ: "Environ") -> "Outcome":
        environ[TRANSPORT], module = chosen(environ.get("HTTP_ACCEPT", ""))
        response: Outcome = module.update(feeds, environ)
        return response

    return respond
