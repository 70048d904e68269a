"""The feed: the newest reading, its cursor, and waiting for a newer one.

A feed keeps one reading, the newest. Whoever has seen an older one is told the newest, never a
backlog. Nothing here knows about browsers, and plain `threading` primitives serve native threads
and, after gevent's monkey patching, greenlets alike.
"""

import json
import logging
import re
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

logger = logging.getLogger(__name__)

#: The largest value that a reading may have, in bytes of compact JSON.
MAX_VALUE = 16 * 1024

_CURSOR = re.compile(r"[0-9A-Za-z]{1,32}-[0-9]{1,18}")


class ValueTooLarge(ValueError):
    """The value needs more than MAX_VALUE bytes as JSON."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One state of the data, with both of its wire forms encoded once for everyone."""

    cursor: str
    changed_at: float  #: seconds since the epoch, server clock
    value: Mapping[str, Any]
    signal: bytes  #: {"cursor"}: "data ready", no more
    carry: bytes  #: {"cursor", "changed_at", "value"}: the reading itself

    @property
    def sequence(self) -> int:
        """How many readings this feed had published when it came to this one."""
        return int(self.cursor.rpartition("-")[2])


def is_cursor(text: str) -> bool:
    """Tell whether the text has the form of a cursor, `<epoch>-<sequence>`, of whatever feed."""
    return _CURSOR.fullmatch(text) is not None


def encode(value: Mapping[str, Any]) -> bytes:
    """Encode as compact JSON.

    Raises ValueError for NaN and the infinities, which JSON does not have, and for what is nested
    too deeply; TypeError for what JSON cannot say.
    """
    try:
        text = json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    except RecursionError as error:
        raise ValueError("the value is nested too deeply") from error
    try:
        return text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair: legal in JSON if it stays escaped
        return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()


class Feed:
    """The sequence of readings, of which it knows the newest.

    Before the first `publish` the newest reading is number 0, an empty value: there is always
    something to show and something to be newer than.
    """

    def __init__(self) -> None:
        # A new epoch for every life of the feed: after a restart an old cursor names nothing,
        # so its owner is told at once.
        self.epoch = secrets.token_hex(4)
        self.closed = False
        self._publishing = threading.Lock()
        self._listeners: list[Callable[[Reading], None]] = []
        # The newest reading together with the event that says that it no longer is. One tuple, so
        # that nobody can see the one without the other.
        self._now = (self._reading(0, {}), threading.Event())

    @property
    def latest(self) -> Reading:
        """The newest reading."""
        return self._now[0]

    def _reading(self, sequence: int, value: Mapping[str, Any]) -> Reading:
        encoded = encode(value)
        if len(encoded) > MAX_VALUE:
            raise ValueTooLarge(f"the value is {len(encoded)} bytes long; {MAX_VALUE} are allowed")
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
        """Make the value the newest reading, wake all who wait, tell the listeners.

        None is the newest value once more, as a new reading. Raises ValueError for a value that
        JSON cannot carry or that is larger than MAX_VALUE; the newest reading is then still the
        one before.
        """
        with self._publishing:  # listeners hear of readings in their order
            value = self.latest.value if value is None else value
            reading = self._reading(self.latest.sequence + 1, value)
            superseded = self._now[1]
            self._now = (reading, superseded if self.closed else threading.Event())
            superseded.set()
            for listener in self._listeners:
                try:
                    listener(reading)
                except Exception:  # one broken listener must not silence the others
                    logger.exception("a listener failed at reading %s", reading.cursor)
        return reading

    def reset(self) -> None:
        """Begin another life, with another epoch, as if the feed had only now been made.

        For a process that was forked from one that had made it: its parent may make more of them,
        whose cursors would be the same.
        """
        with self._publishing:
            self.epoch = secrets.token_hex(4)
            superseded = self._now[1]
            self._now = (self._reading(0, {}), threading.Event())
            superseded.set()
            for listener in self._listeners:
                listener(self.latest)

    def subscribe(self, listener: Callable[[Reading], None]) -> None:
        """Call the listener with every reading from now on; it must not wait for anyone."""
        self._listeners.append(listener)

    def wait(self, after: str | None, *, timeout: float) -> Reading | None:
        """Return the newest reading as soon as it is not the one that `after` names.

        None, a foreign epoch, an older sequence and one not reached yet all name another
        reading, so the newest is returned at once. Returns None after `timeout` seconds, and
        when the feed is closed.

        Every reading has an event of its own, which is set once and never cleared: whoever has
        seen a reading waits for the end of just that one, and if it has ended already, not at all.
        One event for all, with `set(); clear()`, would be missed by all who are not waiting at
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
        """Answer everyone who waits; nobody waits any more."""
        with self._publishing:
            self.closed = True
            self._now[1].set()
