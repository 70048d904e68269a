"""Responses that wait for news.

A transport's function returns one of these where there is no news yet. A server that can hold a
connection without a thread or greenlet gives it to the hub, and the request is over. On any other
server the request waits in its thread or greenlet: same function, same bytes.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import flask

from pushlab import counts
from pushlab import feed as feeds
from pushlab.feed import Position, Reading
from pushlab.websocket.connection import ConnectionClosed
from pushlab.wsgi.responses import Environ, HeaderFields, Headers, Response, error

#: Where a server leaves its way of waiting in a request whose client may go.
WAIT = "pushlab.wait"

#: The response to a follower that is revoked while it waits.
REVOKED = error(
    "401 Unauthorized", "you were disconnected; log in again", ("Cache-Control", "no-store")
)


class Follower(Protocol):
    """Whose a response that waits is."""

    is_revoked: bool  #: it may not follow any more

    def attach(self, end: Callable[[], object]) -> None:
        """Call `end` when it is revoked, from any thread."""

    def left(self, reason: str) -> None:
        """Take note that it does not wait any more."""


class _Waiting:
    """A response that is not there yet."""

    positions: tuple[Position, ...]
    headers: HeaderFields
    follower: Follower | None

    @property
    def hub(self) -> Any:
        """What holds connections that wait, or None."""
        hub = self.positions[0][0].hub
        for feed, _ in self.positions:
            if feed.hub is not hub:
                return None
        return hub

    @property
    def is_closed(self) -> bool:
        """True if a feed is closed: nothing more will come."""
        return feeds.any_closed(self.positions)

    def response(self, environ: Environ) -> Response:
        """Return the response once it is there."""
        raise NotImplementedError

    def _wait(
        self, environ: Environ, positions: tuple[Position, ...], *, timeout: float
    ) -> list[Reading]:
        """Wait in this request, as its server does.

        Raises ConnectionClosed if the client is gone.
        """
        woken = threading.Event()
        if self.follower is not None:
            self.follower.attach(woken.set)
        found: list[Reading] = environ.get(WAIT, feeds.wait)(
            positions, timeout=timeout, woken=woken
        )
        return found

    def _is_revoked(self) -> bool:
        return self.follower is not None and self.follower.is_revoked

    def _left(self, reason: str) -> None:
        if self.follower is not None:
            self.follower.left(reason)

    def __call__(self, environ: Environ, start_response: Any) -> "Held":
        return Held(self, [], environ, start_response)

    def for_flask(self) -> flask.Response:
        """Return a response of Flask's that waits."""
        return Pending.of(self)


@dataclass(slots=True, eq=False)
class Wait(_Waiting):
    """A response that is made when there is news.

    That is once something is missing at the positions; `respond` gets it, or nothing after
    `timeout` seconds. Waits with the same positions and `respond` get the same bytes.
    """

    positions: tuple[Position, ...]
    timeout: float
    respond: Callable[[Sequence[Reading]], Response]
    headers: HeaderFields = ()  #: known before there is news
    follower: Follower | None = None

    def count(self, found: Sequence[Reading]) -> Response:
        """Return the response with what was found, and count it."""
        response = self.respond(found)
        counts.response("longpoll", self.positions, found, sum(map(len, response.body)))
        return response

    def response(self, environ: Environ) -> Response:
        reason = "closed"
        try:
            with counts.waiting("longpoll", self.positions):
                found = self._wait(environ, self.positions, timeout=self.timeout)
            reason = "disconnected" if self._is_revoked() else "answered"
        finally:
            self._left(reason)
        return REVOKED if reason == "disconnected" else self.count(found)


@dataclass(slots=True, eq=False)
class Stream(_Waiting):
    """A response without an end: an event for each reading.

    It begins with `first`, and has every reading after the positions. `event` gets the reading, and
    the cursors of all positions as text. Streams with the same `event` get the same bytes. After
    `interval` seconds without news, `heartbeat` is sent.
    """

    positions: tuple[Position, ...]
    headers: HeaderFields
    first: bytes
    event: Callable[[Reading, str], bytes]
    heartbeat: bytes
    interval: float
    follower: Follower | None = None

    def response(self, environ: Environ) -> Response:
        return Response("200 OK", [*self.headers], self._counted(environ))

    def _counted(self, environ: Environ) -> Iterator[bytes]:
        with counts.waiting("sse", self.positions):
            for piece in self._pieces(environ):
                counts.sent("sse", len(piece))
                yield piece

    def _pieces(self, environ: Environ) -> Iterator[bytes]:
        after = dict(self.positions)
        reason = "closed"
        try:
            yield self.first
            while not self.is_closed:
                positions = tuple(after.items())
                found = self._wait(environ, positions, timeout=self.interval)
                if self._is_revoked():
                    reason = "disconnected"
                    return
                if not found:
                    yield self.heartbeat
                counts.response("sse", positions, found, 0)
                for reading in found:
                    after[reading.feed] = reading.cursor
                    yield self.event(reading, last_event_id(after.values()))
            reason = "shutdown"
        except ConnectionClosed:
            return
        finally:
            self._left(reason)


def last_event_id(cursors: Iterable[str | None]) -> str:
    """Return an event's id: the cursor of every feed.

    With it a browser resumes all of them (WHATWG HTML section 9.2.6).
    """
    return ",".join(cursor or "" for cursor in cursors)


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
