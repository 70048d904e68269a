"""Long polls that wait, without a thread or greenlet.

A poll is a connection in a group, and nothing else. When there is news, its group is sent to in a
loop of `send`. With that every connection of the group is the server's again, and none has been
touched: a connection asks its group when its next request comes.

Only a server with an event loop holds connections, so all this runs in one thread.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, Protocol

from pushlab import counts, limits
from pushlab.feed import Feed, Reading, any_closed, news
from pushlab.wsgi.responses import HeaderFields, encode
from pushlab.wsgi.waiting import REVOKED, Follower, Wait

Send = Callable[[bytes | memoryview], int]


class HeldConnection(Protocol):
    """A connection that a server lets the hub hold."""

    send: Send
    group: "Group | None"

    def park(self, seconds: float) -> None:
        """Watch the client; call `group.time_out` after so long."""

    def respond(self, data: bytes | memoryview) -> None:
        """Send the response, or its rest; then await a request."""

    def ignore(self) -> None:
        """Do not read for now."""

    def resume(self, early: bytes) -> None:
        """Await requests; these bytes have come already."""

    def close(self) -> None:
        """Close the socket and free everything at once."""


def send_to(sends: Iterable[Send], data: bytes) -> Iterator[tuple[Send, int]]:
    """Send to all, without waiting: what a change costs.

    Yields those that did not take all of it, with the size that they took; -1 if the connection is
    gone.
    """
    size, remaining = len(data), iter(sends)
    while True:
        try:
            for send in remaining:
                if (sent := send(data)) != size:
                    yield send, sent
        except BlockingIOError:
            yield send, 0
        except OSError:
            yield send, -1
        else:
            return


class Turns:
    """Lets other work have its turn after so many sends."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._sends = 0

    def count(self, sends: int) -> None:
        """Count sends; wait a moment after many."""
        self._sends += sends
        if self._sends >= self._size:
            self._sends = 0
            # Not 0, for which gevent runs what is ready, but does not look at what has arrived.
            time.sleep(1e-6)

    def chunks(self, those: Sequence[Any]) -> Iterator[Sequence[Any]]:
        """Yield those to send to, in pieces that are counted."""
        for start in range(0, len(those), self._size):
            some = those[start : start + self._size]
            yield some
            self.count(len(some))


class Group:
    """Up to POLL_CHUNK polls that get the same bytes."""

    __slots__ = (
        "_counts",
        "_early",
        "_followers",
        "_forget",
        "_headers",
        "held",
        "key",
        "responded_at",
        "wait",
    )

    def __init__(
        self, key: Any, wait: Wait, headers: HeaderFields, forget: Callable[["Group"], None]
    ) -> None:
        self.key = key
        self.wait = wait
        self._headers = headers
        self._forget = forget  # called if nobody waits any more
        self._counts = [counts.of("longpoll", feed.rule) for feed, _ in wait.positions]
        self.held: dict[Send, HeldConnection] = {}
        #: Requests that have come before the response to the poll.
        self._early: dict[HeldConnection, bytes] = {}
        #: Whose polls those are that have somebody to tell.
        self._followers: dict[HeldConnection, Follower] = {}
        #: The monotonic time of the response; 0 before it.
        self.responded_at = 0.0

    def add(self, connection: HeldConnection, follower: Follower | None) -> None:
        """Hold a connection."""
        connection.group = self
        self.held[connection.send] = connection
        for count in self._counts:
            count.subscribers += 1
        if follower is not None:
            self._followers[connection] = follower
            follower.attach(partial(self._revoke, connection))

    def _encode(self, found: Sequence[Reading]) -> bytes:
        return encode(self.wait.respond(found), self._headers)

    def respond(self, found: Sequence[Reading]) -> None:
        """Send the response to all."""
        data = self._encode(found)
        size = len(data.partition(b"\r\n\r\n")[2])
        counts.response("longpoll", self.wait.positions, found, size, times=len(self.held))
        for count in self._counts:
            count.subscribers -= len(self.held)
        self.responded_at = time.monotonic()
        followers, self._followers = self._followers, {}
        for send, sent in send_to(self.held, data):
            connection = self.held[send]
            connection.group = None
            if sent < 0:
                self._early.pop(connection, None)
                connection.close()
            else:
                connection.respond(memoryview(data)[sent:])
        self.held.clear()
        early, self._early = self._early, {}
        for connection, data in early.items():
            connection.resume(data)
        for follower in followers.values():
            follower.left("answered")

    def received(self, connection: HeldConnection, data: bytes) -> None:
        """Handle bytes before the response, or the client's end."""
        if data:  # the next request, which is read once this one has its response
            self._early[connection] = data
            connection.ignore()
        else:
            self._remove(connection, "closed")
            connection.close()

    def time_out(self, connection: HeldConnection) -> None:
        """Respond to a poll that has waited long enough."""
        self._respond_to(connection, self._encode(()), "answered")

    def _revoke(self, connection: HeldConnection) -> None:
        """Respond to a poll whose follower is revoked."""
        if connection.send in self.held:
            self._respond_to(connection, encode(REVOKED), "disconnected")

    def _respond_to(self, connection: HeldConnection, data: bytes, reason: str) -> None:
        early = self._early.pop(connection, None)
        self._remove(connection, reason)
        connection.respond(data)
        if early:
            connection.resume(early)

    def _remove(self, connection: HeldConnection, reason: str) -> None:
        connection.group = None
        del self.held[connection.send]
        for count in self._counts:
            count.subscribers -= 1
        if not self.held:
            self._forget(self)
        follower = self._followers.pop(connection, None)
        if follower is not None:
            follower.left(reason)


class Polls:
    """All polls that wait, by what they wait for."""

    def __init__(self) -> None:
        #: Groups that have room.
        self._open: dict[Any, Group] = {}
        #: All groups, at each feed that they wait for, in the order in which they came.
        self._groups: dict[Feed, dict[Group, None]] = {}
        self._closed = False

    def hold(self, connection: HeldConnection, wait: Wait, headers: HeaderFields) -> None:
        """Respond when there is news, with these headers added."""
        follower = wait.follower
        if follower is not None and follower.is_revoked:
            connection.respond(encode(REVOKED))
            follower.left("disconnected")
            return
        found = news(wait.positions)  # published meanwhile
        if found or wait.timeout <= 0 or self._closed or any_closed(wait.positions):
            connection.respond(encode(wait.count(found), headers))
            if follower is not None:
                follower.left("answered")
            return
        key = wait.positions, wait.respond, tuple(headers)
        group = self._open.get(key)
        if group is None or len(group.held) >= limits.POLL_CHUNK:
            group = self._open[key] = Group(key, wait, headers, self._forget)
            for feed, _ in wait.positions:
                self._groups.setdefault(feed, {})[group] = None
        group.add(connection, follower)
        connection.park(wait.timeout)

    def _forget(self, group: Group) -> None:
        if self._open.get(group.key) is group:
            del self._open[group.key]
        for feed, _ in group.wait.positions:
            groups = self._groups[feed]
            del groups[group]
            if not groups:
                del self._groups[feed]

    def broadcast(self, feed: Feed) -> bool:
        """Respond to all that lack a reading of this feed.

        Other work gets its turn after every `limits.POLL_CHUNK` polls. One that comes meanwhile
        with the new cursor waits on. Returns whether there were any.
        """
        return self._respond(tuple(self._groups.get(feed, ())), even_without_news=False)

    def close(self) -> None:
        """Respond to all, and from now on at once."""
        self._closed = True
        groups = dict.fromkeys(group for groups in self._groups.values() for group in groups)
        self._respond(tuple(groups), even_without_news=True)

    def _respond(self, groups: Sequence[Group], *, even_without_news: bool) -> bool:
        turns, has_responded = Turns(limits.POLL_CHUNK), False
        for group in groups:
            size = len(group.held)
            if not size:  # timed out, or another broadcast was faster: that of `close`
                continue
            found = news(group.wait.positions)
            if found or even_without_news:
                self._forget(group)
                group.respond(found)
                has_responded = True
                turns.count(size)  # not before: a connection of a forgotten group may end then
        return has_responded
