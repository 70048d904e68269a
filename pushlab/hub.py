"""The hub: every open WebSocket, sent to without waiting.

A route hands its socket to the hub and returns. From then on only the hub reads and writes it. It
keeps no thread, no greenlet and no request per browser, only a Subscriber:

- News is one frame, encoded once, written to every socket that has room for it.
- A subscriber whose socket is full is behind. It gets the newest reading when there is room,
  never a backlog, and is dropped if it stays behind.
- What browsers send is read when it arrives: pongs, pings and close frames.
"""

import logging
import math
import random
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from itertools import cycle
from typing import ClassVar

from pushlab import limits
from pushlab.feed import Feed, Reading
from pushlab.websocket.connection import Channel, Connection, ConnectionClosed
from pushlab.websocket.frames import (
    CloseConnection,
    CloseReason,
    Decoder,
    Ping,
    Pong,
    TextMessage,
    check_close,
    encode,
)

logger = logging.getLogger(__name__)

_PING = encode(Ping(b""))
_GOING_AWAY = CloseConnection(CloseReason.GOING_AWAY)
_FULL = CloseConnection(CloseReason.TRY_AGAIN_LATER)


class _Frames:
    """A reading as frames: the same bytes for every subscriber."""

    __slots__ = ("carry", "cursor", "signal")

    def __init__(self, reading: Reading) -> None:
        self.cursor = reading.cursor
        self.signal = encode(TextMessage(reading.signal.decode()))
        self.carry = encode(TextMessage(reading.carry.decode()))


Send = Callable[[bytes | memoryview], int]


class Subscriber:
    """One browser's socket, and what it was sent."""

    __slots__ = (
        "awaiting_pong",
        "carry",
        "channel",
        "closing",
        "decoder",
        "hub",
        "last_sent",
        "read_closed",
        "send",
        "slot",
        "unsent",
    )

    def __init__(
        self, hub: "Hub", channel: Channel, slot: set["Subscriber"], *, carry: bool
    ) -> None:
        self.hub = hub
        self.channel = channel
        self.send: Send = channel.send
        self.slot = slot
        self.carry = carry
        #: Last reading sent to this subscriber outside the broadcast. A subscriber that falls
        #: behind because of a ping may get the latest reading twice; browsers ignore the repeated
        #: cursor.
        self.last_sent: _Frames | None = None
        #: The rest of a frame that did not fit; nothing else may be sent before it.
        self.unsent: bytes | memoryview = b""
        #: Only while a message or a frame is incomplete.
        self.decoder: Decoder | None = None
        #: A ping was sent, and its pong has not come.
        self.awaiting_pong = False
        #: Our close frame is sent or unsent, or the socket is gone: nothing more is sent.
        self.closing = False
        #: The browser has closed or broken a rule: what it sends is no longer read.
        self.read_closed = False

    def close(self, code: int = CloseReason.NORMAL_CLOSURE, reason: str = "") -> None:
        """Send a close frame, from any thread, without waiting.

        The socket is closed as soon as the browser has replied, and about `limits.CLOSE_TIMEOUT`
        seconds later if it does not reply. Does nothing if it is closing already. A reason has at
        most 123 bytes of UTF-8, the rest is cut off; codes from 4000 on are yours (RFC 6455 section
        7.4.2). Raises ValueError for a code that must not be sent.
        """
        check_close(code, reason)
        self.hub.close_subscriber(self, CloseConnection(code, reason))


class Hub:
    """All open push WebSockets of one feed: `feed.subscribe(hub.broadcast)`.

    `ping_interval` is in seconds. More than `max_subscribers` are closed with 1013.
    """

    #: The hubs of this process: a server closes them when it stops.
    instances: ClassVar["weakref.WeakSet[Hub]"] = weakref.WeakSet()

    def __init__(
        self,
        *,
        ping_interval: float = limits.PING_INTERVAL,
        max_subscribers: float = math.inf,
    ) -> None:
        Hub.instances.add(self)
        self._lock = threading.RLock()
        self._frames: _Frames | None = None  # of the newest reading
        self._broadcasting = False
        self._max_subscribers = max_subscribers
        # Subscribers that have every reading so far, in the order in which they came. The keys are
        # their sockets' `send`: a broadcast only has to call each key. Subscribers that are behind
        # or closing are not in these dicts.
        self._signalled: dict[Send, Subscriber] = {}
        self._carried: dict[Send, Subscriber] = {}
        # Skipped in the current broadcast: `_already_sent` already have this reading; `_removed`
        # were removed after the broadcast took its snapshot.
        self._already_sent: set[Send] = set()
        self._removed: set[Send] = set()
        # A subscriber is pinged once in every interval: those of slot 0 first, then slot 1...
        # Each joins a slot at random, so that ten thousand pings never fall on one moment.
        self._slots: list[set[Subscriber]] = [set() for _ in range(20)]
        self._ping_interval = ping_interval
        self._closing_deadlines: dict[Subscriber, float] = {}  # for the browser's close frame
        self._keepalive_thread: threading.Thread | None = None
        self._closed = False
        self._stopped = threading.Event()  # the keepalive thread ends
        self._empty = threading.Event()
        self._empty.set()

    def __len__(self) -> int:
        return sum(map(len, self._slots))

    def add(
        self, connection: Connection, feed: Feed, *, after: str | None = None, carry: bool = False
    ) -> Subscriber:
        """Take the connection's socket; send it every reading from now.

        The newest reading is sent at once unless `after` is its cursor. A reading is a text frame:
        `{"cursor"}`, or with `carry` the whole reading. Returns what can close it later.

        Raises ConnectionClosed, which a route need not catch, if the browser is gone; and if the
        hub is full or closed, after a close frame with 1013 or 1001.
        """
        if self._closed or len(self) >= self._max_subscribers:
            connection.close((_GOING_AWAY if self._closed else _FULL).code)
            raise ConnectionClosed("the hub is closed" if self._closed else "the hub is full")
        channel, early = connection.detach()
        subscriber = Subscriber(self, channel, random.choice(self._slots), carry=carry)
        with self._lock:
            if self._frames is None:
                self._frames = _Frames(feed.latest)
            if self._frames.cursor == after:
                subscriber.last_sent = self._frames
            subscriber.slot.add(subscriber)
            self._empty.clear()
            if self._keepalive_thread is None:
                thread = threading.Thread(target=self._keepalive, name="hub", daemon=True)
                self._keepalive_thread = thread
                thread.start()
            channel.watch(self._readable, subscriber, writing=False)
            if self._closed:  # while the 101 was sent
                self._start_closing(subscriber, _GOING_AWAY)
            elif len(self) > self._max_subscribers:  # others were added at the same time
                self._start_closing(subscriber, _FULL)
            self._catch_up(subscriber)
            if early:
                self._handle_data(subscriber, early)
        return subscriber

    def broadcast(self, reading: Reading) -> None:
        """Send the reading to every subscriber, without waiting for any.

        Other work gets its turn after every `limits.BROADCAST_CHUNK` subscribers. A call during
        another one only sets the newer reading: the call in progress sends it.
        """
        with self._lock:
            self._frames = _Frames(reading)
            self._already_sent.clear()
            if self._broadcasting:
                return
            self._broadcasting = True
        try:
            while self._broadcast_newest():
                pass
        except BaseException:
            self._broadcasting = False
            raise

    def _broadcast_newest(self) -> bool:
        """Send the newest reading; return whether a newer one came."""
        with self._lock:
            frames = self._frames
            assert frames is not None  # noqa: S101 - `broadcast` has set it
            self._removed.clear()
            groups = (
                (frames.signal, tuple(self._signalled)),
                (frames.carry, tuple(self._carried)),
            )
        chunk = limits.BROADCAST_CHUNK
        for frame, sends in groups:
            for start in range(0, len(sends), chunk):
                with self._lock:
                    self._send_to(sends[start : start + chunk], frame, frames)
                time.sleep(0)
        with self._lock:
            if self._frames is frames:
                self._broadcasting = False  # within the lock, or a newer one might slip between
                return False
            return True

    def _send_to(self, sends: Sequence[Send], frame: bytes, frames: _Frames) -> None:
        """Send the frame by each: what a change costs."""
        if self._removed or self._already_sent:
            removed, already_sent = self._removed, self._already_sent
            sends = [send for send in sends if send not in removed and send not in already_sent]
        size, remaining = len(frame), iter(sends)
        while True:
            try:
                for send in remaining:
                    if (sent := send(frame)) != size:
                        break
                else:
                    return
            except BlockingIOError:
                sent = 0
            except OSError:
                self._drop(self._subscriber_of(send))
                continue
            subscriber = self._subscriber_of(send)
            subscriber.last_sent = frames
            self._fall_behind(subscriber, memoryview(frame)[sent:])

    def _up_to_date(self, subscriber: Subscriber) -> dict[Send, Subscriber]:
        """Return the group that gets the same frames."""
        return self._carried if subscriber.carry else self._signalled

    def _subscriber_of(self, send: Send) -> Subscriber:
        return self._signalled.get(send) or self._carried[send]

    def close(self) -> None:
        """Close every socket with 1001; wait up to CLOSE_TIMEOUT.

        Everything that the hub has started has ended then, its keepalive thread included.
        """
        with self._lock:
            self._closed = True
            for subscriber in self._subscribers():
                self._start_closing(subscriber, _GOING_AWAY)
        self._empty.wait(limits.CLOSE_TIMEOUT)
        self._stopped.set()
        with self._lock:
            for subscriber in self._subscribers():
                self._drop(subscriber)
            thread = self._keepalive_thread
        if thread is not None:
            thread.join(limits.CLOSE_TIMEOUT)

    def close_subscriber(self, subscriber: Subscriber, event: CloseConnection) -> None:
        """Close one of its sockets: `Subscriber.close`."""
        with self._lock:
            if subscriber in subscriber.slot:
                self._start_closing(subscriber, event)

    def _subscribers(self) -> list[Subscriber]:
        return [subscriber for slot in self._slots for subscriber in slot]

    # Writing. The hub is a socket's only writer, so no two frames can mix.

    def _catch_up(self, subscriber: Subscriber) -> None:
        """Send the newest reading if missing; then join the broadcasts."""
        frames = self._frames
        if frames is None:
            return
        if subscriber.last_sent is not frames and self._can_send(subscriber):
            subscriber.last_sent = frames
            self._write(subscriber, frames.carry if subscriber.carry else frames.signal)
        if subscriber.last_sent is frames and self._can_send(subscriber):
            self._up_to_date(subscriber)[subscriber.send] = subscriber
            self._already_sent.add(subscriber.send)

    @staticmethod
    def _can_send(subscriber: Subscriber) -> bool:
        return not subscriber.unsent and not subscriber.closing

    def _leave_broadcast(self, subscriber: Subscriber) -> None:
        """Remove a subscriber from broadcasts, also from the current one."""
        self._up_to_date(subscriber).pop(subscriber.send, None)
        self._already_sent.discard(subscriber.send)
        if self._broadcasting:
            self._removed.add(subscriber.send)

    def _fall_behind(self, subscriber: Subscriber, rest: bytes | memoryview) -> None:
        # While it does not read what we send, we do not read what it sends: a browser that pings
        # without ever reading the pongs must not make its unsent bytes grow.
        self._leave_broadcast(subscriber)
        subscriber.unsent = rest
        subscriber.channel.watch(self._writable, subscriber, writing=True)

    def _write(self, subscriber: Subscriber, data: bytes | memoryview) -> None:
        if subscriber.unsent:  # a control frame, behind the rest of another frame
            subscriber.unsent = bytes(subscriber.unsent) + data
            return
        try:
            sent = subscriber.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._drop(subscriber)
            return
        if sent < len(data):
            self._fall_behind(subscriber, memoryview(data)[sent:])

    def _writable(self, subscriber: Subscriber) -> None:
        with self._lock:
            if subscriber not in subscriber.slot:
                return  # dropped by another thread, a moment ago
            rest, subscriber.unsent = subscriber.unsent, b""
            self._write(subscriber, rest)
            if subscriber.unsent or subscriber not in subscriber.slot:
                return
            subscriber.channel.watch(self._readable, subscriber, writing=False)
            if subscriber.read_closed:
                subscriber.channel.shutdown_write()
            self._catch_up(subscriber)

    # Reading.

    def _readable(self, subscriber: Subscriber) -> None:
        with self._lock:
            if subscriber not in subscriber.slot:
                return  # dropped by another thread, a moment ago
            try:
                data = subscriber.channel.receive(2048)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if data:
                self._handle_data(subscriber, data)
            else:
                self._drop(subscriber)

    def _handle_data(self, subscriber: Subscriber, data: bytes) -> None:
        """Act on control frames; ignore messages."""
        if subscriber.read_closed:
            return
        decoder = subscriber.decoder or Decoder()
        pongs = []
        for event in decoder.feed(data):
            if isinstance(event, Pong):
                subscriber.awaiting_pong = False
            elif isinstance(event, Ping):
                pongs.append(encode(event.response()))
            elif isinstance(event, CloseConnection):
                self._send_pongs(subscriber, pongs)
                pongs = []
                subscriber.read_closed = True
                self._start_closing(subscriber, event.response())
                if not subscriber.unsent and subscriber in subscriber.slot:
                    subscriber.channel.shutdown_write()
        subscriber.decoder = None if subscriber.read_closed or decoder.idle else decoder
        self._send_pongs(subscriber, pongs)

    def _send_pongs(self, subscriber: Subscriber, pongs: list[bytes]) -> None:
        if pongs and not subscriber.closing:
            self._write(subscriber, b"".join(pongs))

    # Closing.

    def _start_closing(self, subscriber: Subscriber, event: CloseConnection) -> None:
        """Send our close frame, once; CLOSE_TIMEOUT starts."""
        if not subscriber.closing:
            subscriber.closing = True
            self._leave_broadcast(subscriber)
            self._closing_deadlines[subscriber] = time.monotonic() + limits.CLOSE_TIMEOUT
            self._write(subscriber, encode(event))

    def _drop(self, subscriber: Subscriber) -> None:
        subscriber.closing = True
        self._leave_broadcast(subscriber)
        subscriber.unsent = b""
        subscriber.slot.discard(subscriber)
        self._closing_deadlines.pop(subscriber, None)
        subscriber.channel.close()
        if not len(self):
            self._empty.set()

    # Keepalive.

    def _keepalive(self) -> None:
        """Ping one slot after another, all within one interval.

        Also enforces CLOSE_TIMEOUT. Ends when the hub is closed or has no subscriber.
        """
        gap = self._ping_interval / len(self._slots)
        slots, ping_due = cycle(self._slots), time.monotonic() + gap
        while not self._stopped.wait(min(1.0, max(0.0, ping_due - time.monotonic()))):
            now = time.monotonic()
            with self._lock:
                if now >= ping_due:
                    ping_due = now + gap
                    for subscriber in tuple(next(slots)):
                        self._ping(subscriber)
                late = [each for each, due in self._closing_deadlines.items() if due < now]
                for subscriber in late:
                    self._drop(subscriber)
                if not len(self):
                    self._keepalive_thread = None
                    return

    def _ping(self, subscriber: Subscriber) -> None:
        if subscriber.closing:
            return
        if subscriber.awaiting_pong:
            # Where the process has stood still, the pong may be there, or room for the ping.
            last_sent = subscriber.last_sent
            if not subscriber.unsent:
                self._readable(subscriber)
            else:
                self._writable(subscriber)
                if not subscriber.unsent or subscriber.last_sent is not last_sent:
                    return  # the ping has been sent only now
            if subscriber.closing:
                return
        if subscriber.awaiting_pong:  # for a whole interval: no pong, or no room even for the ping
            logger.info("no pong from a browser within %s s: dropped", self._ping_interval)
            self._drop(subscriber)
            return
        subscriber.awaiting_pong = True
        self._write(subscriber, _PING)
