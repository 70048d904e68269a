"""The hub: every waiting browser, notified without waiting for any.

A route hands its connection to the hub and returns. From then on only the hub reads and writes it.
It keeps no thread, no greenlet and no request per browser:

- A long poll is a connection in a group (polls.py), and gets one response.
- A WebSocket or an event stream is a Subscriber. News is encoded once for all that are encoded
  alike, and written to every socket that has room for it.
- A subscriber whose socket is full is behind. It gets the newest reading when there is room,
  never a backlog, and is dropped if it stays behind.
- What browsers send is read when it arrives: pongs, pings and close frames.
"""

import _thread
import logging
import math
import random
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import cycle
from typing import ClassVar, Protocol

from pushlab import limits
from pushlab.feed import Feed, Reading
from pushlab.polls import HeldConnection, Polls, Send, Turns, send_to
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
from pushlab.wsgi.responses import Headers
from pushlab.wsgi.waiting import Stream, Wait, Waitable

logger = logging.getLogger(__name__)

_GOING_AWAY = CloseConnection(CloseReason.GOING_AWAY)
_FULL = CloseConnection(CloseReason.TRY_AGAIN_LATER)


class Encoding(Protocol):
    """How a kind of subscriber is written to."""

    ping: bytes  #: sent where nothing else was for a while
    replies: bool  #: whether browsers send anything: pongs, pings, close frames

    def news(self, reading: Reading) -> bytes:
        """Return the reading as it is sent."""

    def close(self, event: CloseConnection) -> bytes:
        """Return what ends the connection."""


class Frames:
    """For WebSockets: a frame for each reading."""

    ping = encode(Ping(b""))
    replies = True

    def __init__(self, *, carry: bool) -> None:
        self._carry = carry

    def news(self, reading: Reading) -> bytes:
        return encode(TextMessage((reading.carry if self._carry else reading.signal).decode()))

    def close(self, event: CloseConnection) -> bytes:
        return encode(event)


class Chunks:
    """For event streams: a chunk for each event.

    The source is RFC 9112 section 7.1.
    """

    replies = False

    def __init__(self, event: Callable[[Reading], bytes], heartbeat: bytes) -> None:
        self._event = event
        self.ping = chunk(heartbeat)

    def news(self, reading: Reading) -> bytes:
        return chunk(self._event(reading))

    def close(self, event: CloseConnection) -> bytes:
        return chunk(b"")


def chunk(data: bytes) -> bytes:
    """Return data as a chunk; without data, the last."""
    return b"%x\r\n%b\r\n" % (len(data), data)


SIGNALS, READINGS = Frames(carry=False), Frames(carry=True)
#: The same object for all streams whose events are the same.
chunks = lru_cache(maxsize=100)(Chunks)


class _News:
    """A reading in every encoding that has been needed."""

    __slots__ = ("_encoded", "cursor", "reading")

    def __init__(self, reading: Reading) -> None:
        self.cursor = reading.cursor
        self.reading = reading
        self._encoded: dict[Encoding, bytes] = {}

    def by(self, encoding: Encoding) -> bytes:
        data = self._encoded.get(encoding)
        if data is None:
            data = self._encoded[encoding] = encoding.news(self.reading)
        return data


class Subscriber:
    """One browser's WebSocket or stream, and what it was sent."""

    __slots__ = (
        "awaiting_pong",
        "channel",
        "closing",
        "decoder",
        "encoding",
        "hub",
        "last_sent",
        "read_closed",
        "send",
        "slot",
        "unsent",
    )

    def __init__(
        self, hub: "Hub", channel: Channel, slot: set["Subscriber"], encoding: Encoding
    ) -> None:
        self.hub = hub
        self.channel = channel
        self.send: Send = channel.send
        self.slot = slot
        self.encoding = encoding
        #: Last reading sent to this subscriber outside the broadcast. A subscriber that falls
        #: behind because of a ping may get the latest reading twice; browsers ignore the repeated
        #: cursor.
        self.last_sent: _News | None = None
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
    """All browsers that wait for news of one feed: `feed.subscribe(hub.broadcast)`.

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
        self._news: _News | None = None  # the newest reading
        self._polls = Polls()
        self._broadcasting = False
        self._max_subscribers = max_subscribers
        # Subscribers that have every reading so far, in the order in which they came. The keys are
        # their sockets' `send`: a broadcast only has to call each key. Subscribers that are behind
        # or closing are not in these dicts.
        self._up_to_date: dict[Encoding, dict[Send, Subscriber]] = {}
        # Skipped in the current broadcast: `_already_sent` already have this reading; `_removed`
        # were removed after the broadcast took its snapshot.
        self._already_sent: set[Send] = set()
        self._removed: set[Send] = set()
        # A subscriber is pinged once in every interval: those of slot 0 first, then slot 1...
        # Each joins a slot at random, so that ten thousand pings never fall on one moment.
        self._slots: list[set[Subscriber]] = [set() for _ in range(20)]
        self._ping_interval = ping_interval
        self._deadlines: dict[Subscriber, float] = {}  # for a close frame, or for room
        self._silent_since = 0.0  # streams have got nothing since then
        self._keepalive_thread: threading.Thread | None = None
        self._keepalive_ended = threading.Event()
        self._keepalive_ended.set()
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
        return self._join(channel, READINGS if carry else SIGNALS, feed, after, early=early)

    def stream(self, channel: Channel, stream: Stream, headers: bytes) -> Subscriber:
        """Take a connection; send it headers, and then the stream.

        When the hub is closed, the stream ends at once.
        """
        encoding = chunks(stream.event, stream.heartbeat)
        first = headers + chunk(stream.first)
        return self._join(channel, encoding, stream.feed, stream.after, first=first)

    def hold(self, connection: HeldConnection, wait: Wait, headers: Headers) -> None:
        """Hold a connection until its long poll has a response.

        `headers` are added to the response's own. The connection is then the server's again.
        """
        self._polls.hold(connection, replace(wait, timeout=0) if self._closed else wait, headers)

    def _join(
        self,
        channel: Channel,
        encoding: Encoding,
        feed: Waitable,
        after: str | None,
        *,
        first: bytes = b"",
        early: bytes = b"",
    ) -> Subscriber:
        subscriber = Subscriber(self, channel, random.choice(self._slots), encoding)
        thread: threading.Thread | None = None
        with self._lock:
            if self._news is None:
                self._news = _News(feed.latest)
            if self._news.cursor == after:
                subscriber.last_sent = self._news
            subscriber.slot.add(subscriber)
            self._empty.clear()
            if self._keepalive_thread is None:
                thread = threading.Thread(target=self._keep_alive, name="hub", daemon=True)
                self._keepalive_thread = thread
                self._keepalive_ended.clear()
            channel.watch(self._readable, subscriber, writing=False)
            if first:
                if subscriber.last_sent is None:  # in one packet
                    subscriber.last_sent = self._news
                    first += self._news.by(encoding)
                self._write(subscriber, first)
            if self._closed:  # while the 101 was sent
                self._start_closing(subscriber, _GOING_AWAY)
            elif len(self) > self._max_subscribers:  # others were added at the same time
                self._start_closing(subscriber, _FULL)
            self._catch_up(subscriber)
            if early:
                self._handle_data(subscriber, early)
        if thread is not None:
            # `start` waits, which is not possible in an event loop: another thread calls it. gevent
            # may have replaced the function since the import.
            _thread.start_new_thread(thread.start, ())
        return subscriber

    def broadcast(self, reading: Reading) -> None:
        """Send the reading to every subscriber, without waiting for any.

        Other work gets its turn after every `limits.BROADCAST_CHUNK` subscribers. A call during
        another one only sets the newer reading: the call in progress sends it.
        """
        with self._lock:
            self._news = _News(reading)
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
            news = self._news
            assert news is not None  # noqa: S101 - `broadcast` has set it
            self._removed.clear()
            groups = [
                (news.by(encoding), tuple(subscribers))
                for encoding, subscribers in self._up_to_date.items()
                if subscribers
            ]
        self._polls.broadcast(news.reading)
        self._silent_since = time.monotonic()
        turns = Turns()
        for data, sends in groups:
            for some in turns.chunks(sends):
                with self._lock:
                    self._send_to(some, data, news)
        with self._lock:
            if self._news is news:
                self._broadcasting = False  # within the lock, or a newer one might slip between
                return False
            return True

    def _send_to(self, sends: Sequence[Send], data: bytes, news: _News) -> None:
        """Send the same bytes to each."""
        if self._removed or self._already_sent:
            removed, already_sent = self._removed, self._already_sent
            sends = [send for send in sends if send not in removed and send not in already_sent]
        for send, sent in send_to(sends, data):
            subscriber = self._subscriber_of(send)
            if sent < 0:
                self._drop(subscriber)
            else:
                subscriber.last_sent = news
                self._fall_behind(subscriber, memoryview(data)[sent:])

    def _group(self, subscriber: Subscriber) -> dict[Send, Subscriber]:
        """Return those with the same bytes that are not behind."""
        return self._up_to_date.setdefault(subscriber.encoding, {})

    def _subscriber_of(self, send: Send) -> Subscriber:
        return next(group[send] for group in self._up_to_date.values() if send in group)

    def close(self) -> None:
        """Close every socket with 1001; wait up to CLOSE_TIMEOUT.

        Everything that the hub has started has ended then, its keepalive thread included.
        """
        with self._lock:
            self._closed = True
        self._polls.broadcast(None)  # which waits, as nobody may that holds the lock
        with self._lock:
            for subscriber in self._subscribers():
                self._start_closing(subscriber, _GOING_AWAY)
        self._empty.wait(limits.CLOSE_TIMEOUT)
        self._stopped.set()
        with self._lock:
            for subscriber in self._subscribers():
                self._drop(subscriber)
            thread = self._keepalive_thread
        self._keepalive_ended.wait(limits.CLOSE_TIMEOUT)
        if thread is not None and thread.ident is not None:  # it has been started
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
        news = self._news
        if news is None:
            return
        if subscriber.last_sent is not news and self._can_send(subscriber):
            subscriber.last_sent = news
            self._write(subscriber, news.by(subscriber.encoding))
        if subscriber.last_sent is news and self._can_send(subscriber):
            self._group(subscriber)[subscriber.send] = subscriber
            self._already_sent.add(subscriber.send)

    @staticmethod
    def _can_send(subscriber: Subscriber) -> bool:
        return not subscriber.unsent and not subscriber.closing

    def _leave_broadcast(self, subscriber: Subscriber) -> None:
        """Remove a subscriber from broadcasts, also from the current one."""
        group = self._up_to_date.get(subscriber.encoding, {})
        if group.pop(subscriber.send, None) and not group:
            del self._up_to_date[subscriber.encoding]
        self._already_sent.discard(subscriber.send)
        if self._broadcasting:
            self._removed.add(subscriber.send)

    def _fall_behind(self, subscriber: Subscriber, rest: bytes | memoryview) -> None:
        # While it does not read what we send, we do not read what it sends: a browser that pings
        # without ever reading the pongs must not make its unsent bytes grow.
        self._leave_broadcast(subscriber)
        subscriber.unsent = rest
        if not subscriber.encoding.replies:  # no ping finds out that it stays behind
            self._deadlines.setdefault(subscriber, time.monotonic() + limits.RESPONSE_TIMEOUT)
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
            if not subscriber.encoding.replies:
                if subscriber.closing:
                    self._drop(subscriber)
                    return
                self._deadlines.pop(subscriber, None)
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
        if subscriber.read_closed or not subscriber.encoding.replies:
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
            self._deadlines[subscriber] = time.monotonic() + limits.CLOSE_TIMEOUT
            self._write(subscriber, subscriber.encoding.close(event))
            if not subscriber.encoding.replies and not subscriber.unsent:
                self._drop(subscriber)

    def _drop(self, subscriber: Subscriber) -> None:
        subscriber.closing = True
        self._leave_broadcast(subscriber)
        subscriber.unsent = b""
        subscriber.slot.discard(subscriber)
        self._deadlines.pop(subscriber, None)
        subscriber.channel.close()
        if not len(self):
            self._empty.set()

    # Keepalive.

    def _keep_alive(self) -> None:
        """Run the keepalive thread."""
        try:
            self._ping_until_stopped()
        finally:
            self._keepalive_ended.set()

    def _ping_until_stopped(self) -> None:
        """Ping one slot after another, all within one interval.

        Also sends the heartbeats of streams, and enforces deadlines. Ends when the hub is closed or
        has no subscriber.
        """
        gap = self._ping_interval / len(self._slots)
        slots, ping_due = cycle(self._slots), time.monotonic() + gap
        self._silent_since = time.monotonic()
        while not self._stopped.wait(self._until(ping_due)):
            now = time.monotonic()
            with self._lock:
                if now >= ping_due:
                    ping_due = now + gap
                    for subscriber in tuple(next(slots)):
                        self._ping(subscriber)
                late = [each for each, due in self._deadlines.items() if due < now]
                for subscriber in late:
                    self._drop(subscriber)
                if not len(self):
                    self._keepalive_thread = None
                    return
            if now >= self._silent_since + limits.HEARTBEAT:
                self._silent_since = now
                self._beat()

    def _until(self, ping_due: float) -> float:
        """Return the seconds until something is due."""
        due = min(ping_due, self._silent_since + limits.HEARTBEAT)
        return min(1.0, max(0.0, due - time.monotonic()))

    def _beat(self) -> None:
        """Show every event stream that the server is there."""
        with self._lock:
            groups = [
                (encoding, tuple(subscribers.values()))
                for encoding, subscribers in self._up_to_date.items()
                if not encoding.replies
            ]
        turns = Turns()
        for encoding, streams in groups:
            for some in turns.chunks(streams):
                with self._lock:
                    for subscriber in some:
                        if self._can_send(subscriber):
                            self._write(subscriber, encoding.ping)

    def _ping(self, subscriber: Subscriber) -> None:
        if subscriber.closing or not subscriber.encoding.replies:
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
        self._write(subscriber, subscriber.encoding.ping)
