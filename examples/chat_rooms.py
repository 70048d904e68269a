"""Rooms: whoever is in one hears all that is said there, in one order, and nobody waits for him.

The hub tells states, of which it may skip some; what is said in a room may not be skipped. So
each member has a backlog of what he has not been sent yet, and one thread that sends it: with
gevent's monkey patching, a greenlet. Who lets the backlog fill up is dropped with 1013.
"""

import json
import queue
import threading
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from pushlab.websocket.connection import Connection, ConnectionClosed
from pushlab.websocket.frames import CloseReason

#: How many messages somebody may be behind, and how many a newcomer is told.
BACKLOG = 100
HISTORY = 10


class Member:
    """Somebody in a room, and what he has not been sent yet."""

    def __init__(self, connection: Connection, room: "_Room", name: str, *, backlog: int) -> None:
        self.room = room
        self.name = name
        self.dropped = False
        self._connection = connection
        self._backlog: queue.Queue[str | None] = queue.Queue(backlog)
        self._left = False

    def tell(self, event: dict[str, Any]) -> None:
        """Send this after all that came before, if he is not too far behind; never waits."""
        self.put(_encode(event))

    def put(self, message: str) -> bool:
        """Add a message to the backlog; return whether there was room."""
        try:
            self._backlog.put_nowait(message)
        except queue.Full:
            return False
        return True

    def leave(self) -> None:
        """Have `send_backlog` end, whatever there may be left to send."""
        self._left = True
        with suppress(queue.Full):  # then it does not wait for more
            self._backlog.put_nowait(None)

    def send_backlog(self) -> None:
        """Send what there is to send, until one of the two has left."""
        with suppress(ConnectionClosed):
            while (message := self._backlog.get()) is not None and not self._left:
                self._connection.send(message)
        if self.dropped:
            self._connection.close(CloseReason.TRY_AGAIN_LATER, "too slow for this room")


class _Room:
    def __init__(self, history: int) -> None:
        self.members: dict[str, Member] = {}
        self.history: deque[dict[str, Any]] = deque(maxlen=history)

    def tell(self, event: dict[str, Any]) -> None:
        """Tell everyone; who is too far behind is dropped, which is told in turn."""
        events = deque([event])
        while events:
            message = _encode(events.popleft())
            for member in tuple(self.members.values()):
                if not member.put(message):
                    del self.members[member.name]
                    member.dropped = True
                    member.leave()
                    events.append({"left": member.name, "dropped": True})


class Rooms:
    """Rooms by their names, each there as long as somebody is in it."""

    def __init__(self, *, backlog: int = BACKLOG, history: int = HISTORY) -> None:
        self._backlog = backlog
        self._history = history
        self._lock = threading.Lock()
        self._rooms: dict[str, _Room] = {}

    @contextmanager
    def entered(self, name: str, connection: Connection, who: str) -> Iterator[Member]:
        """Be in a room while the `with` lasts; a name that is taken gets a number.

        The newcomer is told `{"you", "members", "history"}`, the others `{"joined"}`, and in the
        end `{"left"}`.
        """
        connection.accept()  # here, as some servers let only the request's own thread do that
        with self._lock:
            room = self._rooms.setdefault(name, _Room(self._history))
            own, number = who, 1
            while own in room.members:
                number += 1
                own = f"{who} {number}"
            room.tell({"joined": own})
            member = room.members[own] = Member(connection, room, own, backlog=self._backlog)
            member.tell({"you": own, "members": [*room.members], "history": [*room.history]})
        sender = threading.Thread(target=member.send_backlog, name="sender", daemon=True)
        try:
            sender.start()
            yield member
        finally:
            with self._lock:
                if not member.dropped:
                    del room.members[own]
                    room.tell({"left": own})
                # By now there may be another room of this name, for somebody else.
                if not room.members and self._rooms.get(name) is room:
                    del self._rooms[name]
            member.leave()
            if sender.ident is not None:  # the system had a thread for it
                sender.join()

    def say(self, member: Member, text: str) -> None:
        """Tell everyone in the room, the speaker as well, unless he is there no longer."""
        with self._lock:
            if not member.dropped:
                said = {"from": member.name, "text": text}
                member.room.history.append(said)
                member.room.tell(said)

    def sizes(self, most: int) -> dict[str, int]:
        """Return how many are in each room, for the fullest so many of them."""
        with self._lock:
            sizes = Counter({name: len(room.members) for name, room in self._rooms.items()})
        return dict(sizes.most_common(most))


def _encode(event: dict[str, Any]) -> str:
    return json.dumps(event, ensure_ascii=False, separators=(",", ":"))
