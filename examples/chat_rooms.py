"""Rooms: every member receives all messages in one order.

The hub may skip states; a message in a room must not be skipped. So each member has a queue of
messages that are not sent yet, and a thread that sends them: with gevent's monkey patching, a
greenlet. A slow member delays nobody: one whose queue is full is disconnected with 1013.
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

BACKLOG = 100  #: messages that a member's queue holds
HISTORY = 10  #: messages that a new member receives


class Member:
    """One connection in a room, and its queue."""

    def __init__(self, connection: Connection, room: "_Room", name: str) -> None:
        self.room = room
        self.name = name
        self.dropped = False
        self._connection = connection
        self._queue: queue.Queue[str | None] = queue.Queue(BACKLOG)
        self._stopped = False

    def send(self, event: dict[str, Any]) -> None:
        """Queue an event, unless the queue is full."""
        self.put(_encode(event))

    def put(self, message: str) -> bool:
        """Queue a message; return whether there was room."""
        try:
            self._queue.put_nowait(message)
        except queue.Full:
            return False
        return True

    def stop(self) -> None:
        """Let `send_queued` end without sending the rest."""
        self._stopped = True
        with suppress(queue.Full):  # then it does not wait for more
            self._queue.put_nowait(None)

    def send_queued(self) -> None:
        """Send from the queue, until `stop` or a disconnect."""
        with suppress(ConnectionClosed):
            while (message := self._queue.get()) is not None and not self._stopped:
                self._connection.send(message)
        if self.dropped:
            self._connection.close(CloseReason.TRY_AGAIN_LATER, "too slow for this room")


class _Room:
    def __init__(self) -> None:
        self.members: dict[str, Member] = {}
        self.history: deque[dict[str, Any]] = deque(maxlen=HISTORY)

    def broadcast(self, event: dict[str, Any]) -> None:
        """Queue an event for all members.

        A member whose queue is full is dropped, which is an event in turn.
        """
        events = deque([event])
        while events:
            message = _encode(events.popleft())
            for member in tuple(self.members.values()):
                if not member.put(message):
                    del self.members[member.name]
                    member.dropped = True
                    member.stop()
                    events.append({"left": member.name, "dropped": True})


class Rooms:
    """Rooms by name, each existing while it has members."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rooms: dict[str, _Room] = {}

    @contextmanager
    def joined(self, name: str, connection: Connection, member_name: str) -> Iterator[Member]:
        """Be a member of a room while the `with` lasts.

        A name that is taken gets a number. The new member receives `{"you", "members", "history"}`,
        the others `{"joined"}`, and in the end `{"left"}`.
        """
        connection.accept()  # some servers let only the request's own thread do that
        with self._lock:
            room = self._rooms.setdefault(name, _Room())
            own, number = member_name, 1
            while own in room.members:
                number += 1
                own = f"{member_name} {number}"
            room.broadcast({"joined": own})
            member = room.members[own] = Member(connection, room, own)
            member.send({"you": own, "members": [*room.members], "history": [*room.history]})
        sender = threading.Thread(target=member.send_queued, name="sender", daemon=True)
        try:
            sender.start()
            yield member
        finally:
            with self._lock:
                if not member.dropped:
                    del room.members[own]
                    room.broadcast({"left": own})
                # By now there may be another room with this name.
                if not room.members and self._rooms.get(name) is room:
                    del self._rooms[name]
            member.stop()
            if sender.ident is not None:  # the system had a thread for it
                sender.join()

    def say(self, member: Member, text: str) -> None:
        """Send a member's text to all members of its room."""
        with self._lock:
            if not member.dropped:
                message = {"from": member.name, "text": text}
                member.room.history.append(message)
                member.room.broadcast(message)

    def sizes(self, most: int) -> dict[str, int]:
        """Return how many members the largest rooms have."""
        with self._lock:
            sizes = Counter({name: len(room.members) for name, room in self._rooms.items()})
        return dict(sizes.most_common(most))


def _encode(event: dict[str, Any]) -> str:
    return json.dumps(event, ensure_ascii=False, separators=(",", ":"))
