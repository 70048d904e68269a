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

from pushlab import limits
from pushlab.feed import Reading
from pushlab.wsgi.responses import Headers, encode
from pushlab.wsgi.waiting import Wait

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
    """Lets other work have its turn after every BROADCAST_CHUNK sends."""

    def __init__(self) -> None:
        self._sends = 0

    def count(self, sends: int) -> None:
        """Count sends; wait a moment after many."""
        self._sends += sends
        if self._sends >= limits.BROADCAST_CHUNK:
            self._sends = 0
            # Not 0, for which gevent runs what is ready, but does not look at what has arrived.
            time.sleep(1e-6)

    def chunks(self, those: Sequence[Any]) -> Iterator[Sequence[Any]]:
        """Yield those to send to, in pieces that are counted."""
        size = limits.BROADCAST_CHUNK
        for start in range(0, len(those), size):
            yield those[start : start + size]
            self.count(min(size, len(those) - start))


class Group:
    """Up to BROADCAST_CHUNK polls that get the same bytes."""

    __slots__ = ("_early", "_forget", "_headers", "_wait", "held", "responded_at")

    def __init__(self, wait: Wait, headers: Headers, forget: Callable[["Group"], None]) -> None:
        self._wait = wait
        self._headers = headers
        self._forget = forget  # called if nobody waits any more
        self.held: dict[Send, HeldConnection] = {}
        #: Requests that have come before the response to the poll.
        self._early: dict[HeldConnection, bytes] = {}
        #: The monotonic time of the response; 0 before it.
        self.responded_at = 0.0

    def _encode(self, reading: Reading | None) -> bytes:
        return encode(self._wait.respond(reading), self._headers)

    def respond(self, reading: Reading | None) -> None:
        """Send the response to all."""
        data = self._encode(reading)
        self.responded_at = time.monotonic()
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

    def received(self, connection: HeldConnection, data: bytes) -> None:
        """Handle bytes before the response, or the client's end."""
        if data:  # the next request, which is read once this one has its response
            self._early[connection] = data
            connection.ignore()
        else:
            self._remove(connection)
            connection.close()

    def time_out(self, connection: HeldConnection) -> None:
        """Respond to a poll that has waited long enough."""
        early = self._early.pop(connection, None)
        self._remove(connection)
        connection.respond(self._encode(None))
        if early:
            connection.resume(early)

    def _remove(self, connection: HeldConnection) -> None:
        connection.group = None
        del self.held[connection.send]
        if not self.held:
            self._forget(self)


class Polls:
    """All polls that wait, by what they wait for."""

    def __init__(self) -> None:
        self._groups: dict[Any, list[Group]] = {}

    def __len__(self) -> int:
        return sum(len(group.held) for groups in self._groups.values() for group in groups)

    def hold(self, connection: HeldConnection, wait: Wait, headers: Headers) -> None:
        """Respond when there is news, with these headers added."""
        latest = wait.feed.latest
        is_over = wait.timeout <= 0 or wait.feed.closed
        if is_over or latest.cursor != wait.after:  # published meanwhile
            news = latest if latest.cursor != wait.after else None
            connection.respond(encode(wait.respond(news), headers))
            return
        key = wait.after, wait.respond, tuple(headers)
        groups = self._groups.setdefault(key, [])
        if not groups or len(groups[-1].held) >= limits.BROADCAST_CHUNK:
            groups.append(Group(wait, headers, partial(self._forget, key)))
        connection.group = groups[-1]
        groups[-1].held[connection.send] = connection
        connection.park(wait.timeout)

    def _forget(self, key: Any, group: Group) -> None:
        groups = self._groups[key]
        groups.remove(group)
        if not groups:
            del self._groups[key]

    def broadcast(self, reading: Reading | None) -> None:
        """Respond to all that lack this reading; None: to all.

        Other work gets its turn after every `limits.BROADCAST_CHUNK` polls. One that comes
        meanwhile with the new cursor waits on.
        """
        turns = Turns()
        cursor = reading.cursor if reading else None
        waiting = [
            (key, group)
            for key, groups in self._groups.items()
            if key[0] != cursor
            for group in groups
        ]
        for key, group in waiting:
            if not group.held:  # timed out, or another broadcast was faster: that of `close`
                continue
            self._forget(key, group)
            turns.count(len(group.held))
            group.respond(reading)
