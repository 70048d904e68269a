"""The feed: the newest reading, and waiting for the next.

A feed keeps one reading, the newest. A subscriber that has an older one receives the newest, never
a backlog. Nothing here knows about browsers, and plain `threading` primitives serve native threads
and, after gevent's monkey patching, greenlets alike.
"""

import json
import logging
import secrets
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from pushlab import limits

logger = logging.getLogger(__name__)


class ValueTooLarge(ValueError):
    """The value is longer than `limits.MAX_VALUE` as JSON."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One state of the data, encoded once in both payloads."""

    cursor: str
    changed_at: float  #: seconds since the epoch, server clock
    value: Mapping[str, Any]
    signal: bytes  #: {"cursor"}: "data ready", no more
    carry: bytes  #: {"cursor", "changed_at", "value"}: the reading itself
    #: When it was published, by the monotonic clock: that of the day may be set meanwhile.
    published_at: float = field(default_factory=time.monotonic)

    @property
    def sequence(self) -> int:
        """The number of this reading in its epoch, from 0."""
        return int(self.cursor.rpartition("-")[2])

    @property
    def age(self) -> float:
        """Seconds since it was published, by the monotonic clock."""
        return time.monotonic() - self.published_at


def encode(value: Mapping[str, Any]) -> bytes:
    """Encode as compact JSON.

    Raises ValueError for NaN and the infinities, which JSON does not have, and for a value that is
    nested too deeply; TypeError for a type that JSON does not have.
    """
    value = dict(value)  # of mappings, json.dumps takes only dicts
    try:
        text = json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    except RecursionError as error:
        raise ValueError("the value is nested too deeply") from error
    except (TypeError, ValueError) as error:  # "Object of type Decimal is not JSON serializable"
        raise type(error)(f"the value cannot be published: {error}") from error
    try:
        return text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair: legal in JSON if it stays escaped
        return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()


class Feed:
    """A sequence of readings, of which it keeps the newest.

    Before the first `publish` the newest reading is number 0, an empty value: there is always
    something to show and something to be newer than.
    """

    #: The feeds of this process: a server closes them when it stops.
    instances: ClassVar["weakref.WeakSet[Feed]"] = weakref.WeakSet()
    #: Why this process may not have a feed; set by a server of several processes.
    forbidden: ClassVar[str] = ""

    def __init__(self) -> None:
        if Feed.forbidden:
            raise RuntimeError(Feed.forbidden)
        Feed.instances.add(self)
        # A new epoch for every life of the feed: after a restart an old cursor names nothing,
        # so the browser that has it receives the newest reading at once.
        self.epoch = secrets.token_hex(4)
        self.closed = False
        self.hub: Any = None  #: what holds connections that wait; None: they wait in `wait`
        self._publishing = threading.Lock()
        self._listeners: tuple[Callable[[Reading], None], ...] = ()
        self._changing_listeners = threading.Lock()
        # The newest reading together with the event that is set when it is superseded. One tuple,
        # so that no thread can read the one without the other.
        self._now = (self._reading(0, {}), threading.Event())

    @property
    def latest(self) -> Reading:
        """The newest reading."""
        return self._now[0]

    def _reading(self, sequence: int, value: Mapping[str, Any]) -> Reading:
        encoded = encode(value)
        if len(encoded) > (most := limits.MAX_VALUE):
            raise ValueTooLarge(f"the value is {len(encoded)} bytes long; {most} are allowed")
        cursor, changed_at = f"{self.epoch}-{sequence}", round(time.time(), 6)
        return Reading(
            cursor=cursor,
            changed_at=changed_at,
            value=value,
            signal=encode({"cursor": cursor}),
            carry=b'{"cursor":"%s","changed_at":%s,"value":%s}'
            % (cursor.encode(), f"{changed_at:.6f}".encode(), encoded),
        )

    def publish(self, value: Mapping[str, Any] | None = None) -> Reading:
        """Make the value the newest reading; notify waiters and listeners.

        The value is a mapping of what JSON has: dicts with names that are strings, numbers or None,
        lists, tuples, strings, numbers, booleans and None. Later changes of the mapping do not
        change the reading that is sent. None publishes the newest value once more, as a new
        reading.

        Raises TypeError for any other value, or one within it, such as a Decimal, a date, bytes or
        a set; ValueError for NaN and the infinities, which JSON does not have, and for a value that
        contains itself or is nested too deeply; ValueTooLarge for more than `limits.MAX_VALUE`
        bytes of JSON. Nothing has happened then: the newest reading is still the one before.
        """
        if value is not None and not isinstance(value, Mapping):
            raise TypeError(f"a reading's value is a dict, not a {type(value).__name__}")
        with self._publishing:  # listeners receive readings in their order
            value = self.latest.value if value is None else value
            reading = self._reading(self.latest.sequence + 1, value)
            superseded = self._now[1]
            self._now = (reading, superseded if self.closed else threading.Event())
            superseded.set()
            for listener in self._listeners:
                try:
                    listener(reading)
                except Exception:  # one broken listener must not keep readings from the others
                    logger.exception("a listener failed at reading %s", reading.cursor)
        return reading

    def reset(self) -> None:
        """Begin a new epoch, as a new feed would.

        A process that was forked after the feed was made calls this: its siblings have the same
        feed, and their cursors would be the same.
        """
        with self._publishing:
            self.epoch = secrets.token_hex(4)
            superseded = self._now[1]
            self._now = (self._reading(0, {}), threading.Event())
            superseded.set()
            for listener in self._listeners:
                listener(self.latest)

    @property
    def age(self) -> float:
        """Seconds since the newest reading, by the monotonic clock."""
        return self.latest.age

    def subscribe(self, listener: Callable[[Reading], None]) -> None:
        """Call the listener with every reading; it must not block.

        The hub whose `broadcast` is subscribed holds the connections that wait for this feed.
        """
        owner = getattr(listener, "__self__", None)
        with self._changing_listeners:
            if hasattr(owner, "hold"):
                self.hub = owner
            self._listeners = (*self._listeners, listener)

    def unsubscribe(self, listener: Callable[[Reading], None]) -> None:
        """Undo one `subscribe`.

        A `publish` under way may still call the listener. Raises ValueError if there is none.
        """
        with self._changing_listeners:
            listeners = list(self._listeners)
            if listener not in listeners:
                raise ValueError(f"{listener} is not subscribed")
            listeners.remove(listener)
            if getattr(listener, "__self__", None) is self.hub:
                self.hub = None
            self._listeners = tuple(listeners)

    def wait(self, after: str | None, *, timeout: float) -> Reading | None:
        """Return the newest reading once it is not `after`.

        None, a foreign epoch, an older sequence and one not reached yet all name another
        reading, so the newest is returned at once. Returns None after `timeout` seconds, and
        when the feed is closed.

        Every reading has an event of its own, which is set once and never cleared: a caller waits
        for the end of just the reading that it has, and if that has ended already, not at all. One
        event for all, with `set(); clear()`, would be missed by every caller that is not waiting at
        that instant.
        """
        deadline = time.monotonic() + timeout
        while True:
            reading, superseded = self._now
            if reading.cursor != after:
                return reading
            if self.closed or not superseded.wait(max(0.0, deadline - time.monotonic())):
                return None

    def close(self) -> None:
        """End every wait, now and from now on."""
        with self._publishing:
            self.closed = True
            self._now[1].set()
