"""Responses that wait for news.

A transport's function returns one of these where there is no news yet. A server that can hold a
connection without a thread or greenlet gives it to the hub, and the request is over. On any other
server the request waits in its thread or greenlet: same function, same bytes.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import flask

from pushlab.websocket.connection import ConnectionClosed
from pushlab.wsgi.responses import Environ, Headers, Response

#: Where a server leaves its way of waiting in a request whose client may go.
WAIT = "pushlab.wait"


class Waitable(Protocol):
    """A feed."""

    closed: bool
    hub: Any  #: what holds connections that wait; None: nothing does

    @property
    def latest(self) -> Any:
        """The newest reading."""

    def wait(self, after: str | None, *, timeout: float) -> Any:
        """Return the newest reading once it is not `after`."""


def wait(feed: Waitable, environ: Environ, after: str | None, *, timeout: float) -> Any:
    """Wait as `feed.wait` does.

    Raises ConnectionClosed if the client is gone.
    """
    servers_own = environ.get(WAIT)
    if servers_own is None:
        return feed.wait(after, timeout=timeout)
    return servers_own(feed, after, timeout=timeout)


class _Waiting:
    """A response that is not there yet."""

    headers: Headers

    def response(self, environ: Environ) -> Response:
        """Return the response once it is there."""
        raise NotImplementedError

    def __call__(self, environ: Environ, start_response: Any) -> "Held":
        return Held(self, [], environ, start_response)

    def for_flask(self) -> flask.Response:
        """Return a response of Flask's that waits."""
        return Pending.of(self)


@dataclass(frozen=True, slots=True)
class Wait(_Waiting):
    """A response that is made when there is news.

    That is once the newest reading is not `after`; `respond` gets it, or None after `timeout`
    seconds. Waits with the same `after` and `respond` get the same bytes.
    """

    feed: Waitable
    after: str | None
    timeout: float
    respond: Callable[[Any], Response]
    headers: Headers = field(default_factory=list)  #: known before there is news

    def response(self, environ: Environ) -> Response:
        return self.respond(wait(self.feed, environ, self.after, timeout=self.timeout))


@dataclass(frozen=True, slots=True)
class Stream(_Waiting):
    """A response without an end: an event for each reading.

    It begins with `first`, and has every reading after `after`. Streams with the same `event` get
    the same bytes. After `interval` seconds without news, `heartbeat` is sent.
    """

    feed: Waitable
    after: str | None
    headers: Headers
    first: bytes
    event: Callable[[Any], bytes]
    heartbeat: bytes
    interval: float

    def response(self, environ: Environ) -> Response:
        return Response("200 OK", self.headers, self._pieces(environ))

    def _pieces(self, environ: Environ) -> Iterator[bytes]:
        yield self.first
        after = self.after
        while not self.feed.closed:
            try:
                reading = wait(self.feed, environ, after, timeout=self.interval)
            except ConnectionClosed:
                return
            if reading is None:
                yield self.heartbeat
            else:
                after = reading.cursor
                yield self.event(reading)


class Held:
    """The body of a response that waits.

    A server that can hold the connection calls `begin`, and gives `what` to the hub. Any other
    iterates, as does a middleware: then the request waits, and the response begins after it.
    """

    def __init__(self, what: Any, headers: Headers, environ: Environ, start_response: Any) -> None:
        self.what = what
        self._headers = headers
        self._environ = environ
        self._start_response = start_response
        self.close: Callable[[], None] = lambda: None  #: called when the request is over

    def begin(self) -> None:
        """Call `start_response` with the headers that are known."""
        self._start_response("200 OK", [*self.what.headers, *self._headers])

    def __iter__(self) -> Iterator[bytes]:
        response = self.what.response(self._environ)
        response.headers = [*response.headers, *self._headers]
        yield from response(self._environ, self._start_response) or (b"",)


class Pending(flask.Response):
    """A response of Flask's that waits.

    `after_request` functions get it before there is news; the headers that they add are kept.
    """

    what: Any

    @classmethod
    def of(cls, what: _Waiting) -> "Pending":
        """Return Flask's response for what waits."""
        response = cls()
        response.what = what
        response.headers.clear()
        return response

    def __call__(self, environ: Environ, start_response: Any) -> Any:
        held = Held(self.what, self.headers.to_wsgi_list(), environ, start_response)
        held.close = self.close
        return held
