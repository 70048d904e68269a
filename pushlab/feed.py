"""The feed: a topic's readings, and waiting for the next.

A feed that keeps one reading is a state: a subscriber that has an older one receives the newest,
never a backlog. One that keeps more is a log: a subscriber receives each reading once, in order,
from where it was. Nothing here knows about browsers, and plain `threading` primitives serve native
threads and, after gevent's monkey patching, greenlets alike.
"""

import hashlib
import json
import logging
import secrets
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from json.encoder import encode_basestring
from typing import Any, ClassVar, TypeAlias

from pushlab import limits

logger = logging.getLogger(__name__)


class NotPublished(RuntimeError):
    """Redis could not publish, or did not respond.

    In the second case it may have published all the same.
    """


class ValueTooLarge(ValueError):
    """The value is longer than `limits.MAX_VALUE` as JSON."""


@dataclass(frozen=True, slots=True)
class Reading:
    """A value with a cursor, encoded once in both payloads.

    With `is_reset` it has no value: a subscriber's cursor names nothing that the log still keeps.
    """

    cursor: str
    changed_at: float  #: seconds since the epoch, server clock
    value: Mapping[str, Any]
    signal: bytes  #: {"cursor"}: "data ready", no more; with a topic's name if it has one
    carry: bytes  #: {"cursor", "changed_at", "value"}: the reading itself
    feed: Any = field(default=None, repr=False, compare=False)
    #: When it was published, by the monotonic clock: that of the day may be set meanwhile.
    published_at: float = field(default_factory=time.monotonic)
    is_reset: bool = False

    @property
    def sequence(self) -> int:
        """The number of this reading in its epoch, from 0."""
        return int(self.cursor.rpartition("-")[2])

    @property
    def age(self) -> float:
        """Seconds since it was published, by the monotonic clock."""
        return time.monotonic() - self.published_at


#: Where a subscriber is: a feed, and the cursor of the last reading that it has, or None.
Position: TypeAlias = "tuple[Feed, str | None]"


def positions(feeds: Sequence["Feed"], afters: Sequence[str | None]) -> tuple[Position, ...]:
    """Return where a subscriber is, once its cursors are loaded.

    A browser that comes from a process that was a moment faster gets nothing that it has had.
    """
    found = tuple(zip(feeds, afters))  # noqa: B905 - the lab has one feed, whatever is named
    for feed, after in found:
        feed.load(after)
    return found


def news(positions: Sequence[Position]) -> list[Reading]:
    """Return what a subscriber at these positions lacks."""
    found: list[Reading] = []
    for feed, after in positions:
        if after != feed.latest.cursor:
            found += feed.since(after)
    return found


def any_closed(positions: Sequence[Position]) -> bool:
    """Tell whether a feed is closed: nothing more will come."""
    for feed, _ in positions:  # noqa: SIM110 - for each poll, and often for one
        if feed.closed:
            return True
    return False


def wait(
    positions: Sequence[Position], *, timeout: float, woken: threading.Event | None = None
) -> list[Reading]:
    """Return what is missing there, once something is.

    Returns nothing after `timeout` seconds, when a feed is closed, and when somebody else has set
    `woken`.

    Every call has an event of its own, which is set once and never cleared, and which the feeds
    have before they are looked at: so no reading can come between the look and the wait. One event
    for all, with `set(); clear()`, would be missed by every caller that is not waiting at that
    instant.
    """
    woken = woken or threading.Event()
    for feed, _ in positions:
        feed.wake(woken)
    try:
        found = news(positions)
        if not found and not any_closed(positions):
            woken.wait(timeout)
            found = news(positions)
        return found
    finally:
        for feed, _ in positions:
            feed.forget(woken)


#: For every value: `json.dumps` would make one each time.
_compact = json.JSONEncoder(allow_nan=False, ensure_ascii=False, separators=(",", ":"))


def encode(value: Mapping[str, Any]) -> bytes:
    """Encode as compact JSON.

    Raises ValueError for NaN and the infinities, which JSON does not have, and for a value that is
    nested too deeply; TypeError for a type that JSON does not have.
    """
    value = dict(value)  # of mappings, json.dumps takes only dicts
    try:
        text = _compact.encode(value)
    except RecursionError as error:
        raise ValueError("the value is nested too deeply") from error
    except (TypeError, ValueError) as error:  # "Object of type Decimal is not JSON serializable"
        raise type(error)(f"the value cannot be published: {error}") from error
    try:
        return text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair: legal in JSON if it stays escaped
        return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()


def check_mapping(value: object) -> None:
    """Raise TypeError unless it is a mapping, as values are."""
    if not isinstance(value, Mapping):
        raise TypeError(f"a reading's value is a dict, not a {type(value).__name__}")


def encode_value(value: Mapping[str, Any]) -> bytes:
    """Encode what is published, as `Feed.publish` describes.

    Raises TypeError, ValueError and ValueTooLarge as it does.
    """
    check_mapping(value)
    encoded = encode(value)
    if len(encoded) > (most := limits.MAX_VALUE):
        raise ValueTooLarge(f"the value is {len(encoded)} bytes long; {most} are allowed")
    return encoded


def encode_message(topic: str, cursor: str, **more: Any) -> bytes:
    """Encode a message without a value."""
    return encode({**({"topic": topic} if topic else {}), "cursor": cursor, **more})


@lru_cache(limits.REMEMBERED)
def _head_of(topic: str) -> bytes:
    """Return a topic's messages up to their cursors."""
    return encode_message(topic, "")[: -len('""}')]


def make_reading(
    topic: str,
    cursor: str,
    changed_at: float,
    value: Mapping[str, Any],
    encoded: bytes,
    feed: "Feed | None",
) -> Reading:
    """Return a reading with both payloads."""
    signal = b"%b%b}" % (_head_of(topic), encode_basestring(cursor).encode())
    time_of_change = f"{changed_at:.6f}".encode()
    carry = b'%s,"changed_at":%s,"value":%s}' % (signal[:-1], time_of_change, encoded)
    return Reading(cursor, changed_at, value, signal, carry, feed)


#: Objects for all feeds; nothing is put into them.
_NOBODY: set[threading.Event] = set()
_NOTHING: deque[Reading] = deque()


class Feed:
    """A sequence of readings, of which it keeps the newest.

    `keep` is how many: with 1 it is a state, with more a log. Before the first `publish` the
    newest reading is number 0, an empty value: there is always something to show and something to
    be newer than. With a `topic`, its messages name it, and number 0 is a cursor without a value.
    """

    __slots__ = (
        "__weakref__", "_kept", "_listeners", "_lock", "_waiting",
        "closed", "epoch", "hub", "keep", "latest", "rule", "topic",
    )  # fmt: skip

    # A thousand feeds with a follower each are usual, so a feed is small: what most do not need is
    # made when it is needed, and one lock is for all, held for moments, also by those who listen.
    _keeping: ClassVar = threading.RLock()
    #: The feeds of this process: a server closes them when it stops.
    instances: ClassVar["weakref.WeakSet[Feed]"] = weakref.WeakSet()
    #: Why this process may not have a feed; set by a server of several processes.
    forbidden: ClassVar[str] = ""
    #: Whether it is the same in every process.
    is_shared: ClassVar[bool] = False
    #: Tells whether the caller may wait; set by a server whose event loop calls.
    can_wait: ClassVar[Callable[[], bool]] = staticmethod(lambda: True)

    def __init__(self, keep: int = 1, *, topic: str = "", epoch: str = "") -> None:
        if Feed.forbidden and not self.is_shared:
            raise RuntimeError(Feed.forbidden)
        if keep < 1:
            raise ValueError("a feed keeps at least 1 reading")
        self.keep = keep
        self.topic = topic
        self.rule = ""  #: the class of its topic, such as `orders/<int:user>`
        # A new epoch for every life of the feed: after a restart an old cursor names nothing,
        # so the browser that has it receives the newest reading at once.
        self.epoch = epoch or secrets.token_hex(4)
        self.closed = False
        self.hub: Any = None  #: what holds connections that wait; None: they wait in `wait`
        self._lock: threading.Lock | None = None
        self._listeners: tuple[Callable[[Reading], None], ...] = ()
        self._waiting: set[threading.Event] = _NOBODY
        self._kept: deque[Reading] = _NOTHING
        self.latest = self._first()  #: the newest reading
        with self._keeping:
            Feed.instances.add(self)

    @classmethod
    def close_all(cls) -> None:
        """Close the feeds of this process."""
        with cls._keeping:  # requests may be making others
            feeds = tuple(Feed.instances)
        for feed in feeds:
            feed.close()

    @property
    def is_log(self) -> bool:
        """True if every reading counts, not only the newest."""
        return self.keep > 1

    def _first(self) -> Reading:
        """Return reading number 0."""
        cursor, now = f"{self.epoch}-0", round(time.time(), 6)
        if self.topic:
            position = encode_message(self.topic, cursor)
            return Reading(cursor, now, {}, position, position, self)
        return make_reading("", cursor, now, {}, b"{}", self)

    def since(self, after: str | None) -> Sequence[Reading]:
        """Return what a subscriber lacks that has this cursor.

        None, a foreign epoch, an older sequence and one not reached yet all name another reading
        than the newest. Of a state, that is the newest. Of a log, it is every reading after it, in
        order, and after None every one since the first; if it does not keep them any more, one
        reset, whose cursor is the newest.
        """
        latest = self.latest
        if after == latest.cursor:
            return ()
        if self.keep == 1:
            return (latest,)
        with self._keeping:
            latest = self.latest
            if after is None and not self._kept:
                return (latest,)
            epoch, _, sequence = (after or f"{self.epoch}-0").rpartition("-")
            is_ours = epoch == self.epoch and sequence.isdecimal()
            missing = latest.sequence - int(sequence) if is_ours else -1
            if 0 <= missing <= len(self._kept):
                return tuple(islice(self._kept, len(self._kept) - missing, None))
        return (self._reset_to(latest),)

    def _reset_to(self, latest: Reading) -> Reading:
        message = encode_message(self.topic, latest.cursor, reset=True)
        return Reading(latest.cursor, latest.changed_at, {}, message, message, self, is_reset=True)

    def _publishing(self) -> threading.Lock:
        """Return the lock that is held while listeners are called."""
        if self._lock is not None:  # for good
            return self._lock
        with self._keeping:
            self._lock = self._lock or threading.Lock()
            return self._lock

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
        with self._publishing():  # listeners receive readings in their order
            return self._publish(self.latest.value if value is None else value)

    def begin(self, value: Mapping[str, Any]) -> None:
        """Publish the value if nothing was published before.

        The same value has the same cursor if the feed had the same epoch: one that was forgotten
        and is made again has nothing new for a poll that comes back.
        """
        with self._publishing():
            if not self.latest.sequence:
                text = self.epoch.encode() + encode_value(value)
                self.epoch = hashlib.blake2s(text, digest_size=4).hexdigest()
                self._publish(value)

    def _publish(self, value: Mapping[str, Any]) -> Reading:
        encoded, now = encode_value(value), round(time.time(), 6)
        cursor = f"{self.epoch}-{self.latest.sequence + 1}"
        reading = make_reading(self.topic, cursor, now, value, encoded, self)
        self._append(reading)
        return reading

    def _append(self, reading: Reading) -> None:
        """Keep a reading; notify waiters and listeners."""
        with self._keeping:
            self.latest = reading
            if self._kept is _NOTHING:
                self._kept = deque(maxlen=self.keep)
            self._kept.append(reading)
        self._notify(reading)

    def _notify(self, reading: Reading) -> None:
        with self._keeping:
            waiting, self._waiting = self._waiting, _NOBODY
        for woken in waiting:
            woken.set()
        for listener in self._listeners:
            try:
                listener(reading)
            except Exception:  # one broken listener must not keep readings from the others
                logger.exception("a listener failed at reading %s", reading.cursor)

    def reset(self) -> None:
        """Begin a new epoch, as a new feed would.

        A process that was forked after the feed was made calls this: its siblings have the same
        feed, and their cursors would be the same.
        """
        with self._publishing():
            self._restart(secrets.token_hex(4), ())

    def _restart(self, epoch: str, readings: Sequence[Reading]) -> None:
        """Begin a new epoch with these readings."""
        with self._keeping:
            self.epoch = epoch
            self._kept = deque(readings, maxlen=self.keep)
            self.latest = readings[-1] if readings else self._first()
        self._notify(self.latest)

    def load(self, after: str | None = None) -> None:
        """Have what a subscriber with this cursor may ask for."""

    @property
    def problem(self) -> str:
        """Why nothing new comes, or nothing."""
        return ""

    def now(self) -> float:
        """Return the time by the clock of `changed_at`."""
        return time.time()

    @property
    def redis(self) -> Any:
        """What it shares with other processes, or None."""
        return None

    def release(self) -> bool:
        """End what keeps it up to date.

        Returns False if it is too early for that.
        """
        return True

    @property
    def age(self) -> float:
        """Seconds since the newest reading, by the monotonic clock."""
        return self.latest.age

    def subscribe(self, listener: Callable[[Reading], None]) -> None:
        """Call the listener with every reading; it must not block.

        The hub whose `broadcast` is subscribed holds the connections that wait for this feed.
        """
        owner = getattr(listener, "__self__", None)
        with self._keeping:
            if hasattr(owner, "hold"):
                self.hub = owner
            self._listeners = (*self._listeners, listener)

    def unsubscribe(self, listener: Callable[[Reading], None]) -> None:
        """Undo one `subscribe`.

        A `publish` under way may still call the listener. Raises ValueError if there is none.
        """
        with self._keeping:
            listeners = list(self._listeners)
            if listener not in listeners:
                raise ValueError(f"{listener} is not subscribed")
            listeners.remove(listener)
            if getattr(listener, "__self__", None) is self.hub:
                self.hub = None
            self._listeners = tuple(listeners)

    def wake(self, woken: threading.Event) -> None:
        """Set the event when there is a reading, once."""
        with self._keeping:
            if self._waiting is _NOBODY:
                self._waiting = set()
            self._waiting.add(woken)

    def forget(self, woken: threading.Event) -> None:
        """Undo `wake`."""
        with self._keeping:
            self._waiting.discard(woken)

    def wait(self, after: str | None, *, timeout: float) -> Reading | None:
        """Return the newest reading once it is not `after`.

        Returns None after `timeout` seconds, and when the feed is closed.
        """
        found = wait(((self, after),), timeout=timeout)
        return found[-1] if found else None

    def close(self) -> None:
        """End every wait, now and from now on."""
        with self._keeping:
            self.closed = True
            waiting, self._waiting = self._waiting, _NOBODY
        for woken in waiting:
            woken.set()
