"""The hub: every waiting browser, notified without waiting for any.

A route hands its connection to the hub and returns. From then on only the hub reads and writes it.
It keeps no thread, no greenlet and no request per browser, and none per feed:

- A long poll is a connection in a group (polls.py), and gets one response.
- A WebSocket or an event stream is a Subscriber. News is encoded once for all that are encoded
  alike, and written to every socket that has room for it.
- A subscriber whose socket is full is behind: all it has is a cursor. When there is room, it gets
  what it lacks from the feed; of a state, only the newest reading. If it stays behind, it is
  dropped.
- What browsers send is read when it arrives: pongs, pings and close frames.
"""

import _thread
import logging
import math
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from itertools import cycle
from typing import ClassVar, Protocol

from pushlab import counts, limits
from pushlab.feed import Feed, Position, Reading
from pushlab.polls import Polls, Send, Turns, send_to
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
    is_empty_pong,
)
from pushlab.wsgi.waiting import Follower, Stream, last_event_id

logger = logging.getLogger(__name__)

_GOING_AWAY = CloseConnection(CloseReason.GOING_AWAY)
_FULL = CloseConnection(CloseReason.TRY_AGAIN_LATER)
_REVOKED = CloseConnection(4401, "you were disconnected; log in again")

# One object for all that are not broadcasting, that have none apart, or none encoded alike.
_NOBODY: set[Send] = set()
_NOT_APART: "dict[Following, None]" = {}
_NO_GROUP: "dict[Send, Following]" = {}

#: What our close frames are called where a follower has left.
_REASONS = {_GOING_AWAY: "shutdown", _FULL: "full", _REVOKED: "disconnected"}


class Encoding(Protocol):
    """How a kind of subscriber is written to."""

    transport: str
    ping: bytes  #: sent where nothing else was for a while
    replies: bool  #: whether browsers send anything: pongs, pings, close frames

    def news(self, reading: Reading, last_id: str) -> bytes:
        """Return the bytes of a reading.

        `last_id` names the cursors of all feeds."""

    def close(self, event: CloseConnection) -> bytes:
        """Return what ends the connection."""


class Frames:
    """For WebSockets: a frame for each reading."""

    transport = "websocket"
    ping = encode(Ping(b""))
    replies = True

    def __init__(self, *, carry: bool) -> None:
        self._carry = carry

    def news(self, reading: Reading, last_id: str) -> bytes:
        return encode(TextMessage((reading.carry if self._carry else reading.signal).decode()))

    def close(self, event: CloseConnection) -> bytes:
        return encode(event)


class Chunks:
    """For event streams: a chunk for each event.

    The source is RFC 9112 section 7.1.
    """

    transport = "sse"
    replies = False

    def __init__(self, event: Callable[[Reading, str], bytes], heartbeat: bytes) -> None:
        self._event = event
        self.ping = chunk(heartbeat)

    def news(self, reading: Reading, last_id: str) -> bytes:
        return chunk(self._event(reading, last_id))

    def close(self, event: CloseConnection) -> bytes:
        return chunk(b"")


def _observe_last_write(reading: Reading) -> None:
    """Count the age of what was sent to all.

    With Redis it may be that of another process.
    """
    age = reading.feed.now() - reading.changed_at if reading.feed.is_shared else reading.age
    counts.last_write.observe(age)


def chunk(data: bytes) -> bytes:
    """Return data as a chunk; without data, the last."""
    return b"%x\r\n%b\r\n" % (len(data), data)


SIGNALS, READINGS = Frames(carry=False), Frames(carry=True)
#: The same object for all streams whose events are the same.
chunks = lru_cache(maxsize=100)(Chunks)


class _News:
    """Readings in every encoding that has been needed."""

    __slots__ = ("_encoded", "cursor", "readings")

    def __init__(self, readings: Sequence[Reading]) -> None:
        self.cursor = readings[-1].cursor
        self.readings = readings
        self._encoded: tuple[tuple[Encoding, bytes], ...] = ()

    def by(self, encoding: Encoding) -> bytes:
        for each, data in self._encoded:
            if each is encoding:
                return data
        data = b"".join(encoding.news(reading, reading.cursor) for reading in self.readings)
        self._encoded += ((encoding, data),)
        return data


class Audience:
    """The subscribers of one feed.

    Of most topics that is one browser: so there are tuples, which are smaller than dicts.
    """

    __slots__ = (
        "apart", "broadcasting", "feed", "news", "previous", "removed", "silent_since",
        "size", "unsent", "up_to_date",
    )  # fmt: skip

    def __init__(self, feed: Feed) -> None:
        self.feed = feed
        self.size = 0  #: all subscribers, also those that are behind
        self.news = _News((feed.latest,))  #: what was broadcast last
        # Those that have every reading so far, in the order in which they came. The keys are their
        # sockets' `send`: a broadcast only has to call each key. Subscribers that are behind or
        # closing are not in these dicts.
        self.up_to_date: tuple[tuple[Encoding, dict[Send, Following]], ...] = ()
        #: Not behind, and yet not up to date: ahead of the broadcast, or with bytes of their own.
        self.apart: dict[Following, None] = _NOT_APART
        self.broadcasting = False
        # While broadcasting: those that are not yet sent to, and the cursor that they have; and
        # those that have left since, which are skipped.
        self.unsent: Iterable[tuple[Encoding, Sequence[Send]]] = ()
        self.previous = self.news.cursor
        self.removed: set[Send] = _NOBODY
        self.silent_since = time.monotonic()  # nothing was sent to all since then

    def group(self, encoding: Encoding) -> "dict[Send, Following]":
        """Return those that are up to date, by their encoding."""
        for each, group in self.up_to_date:
            if each is encoding:
                return group
        return _NO_GROUP

    def add_to_group(self, following: "Following") -> None:
        """Have a subscriber sent to by the next broadcast."""
        encoding = following.subscriber.encoding
        group = self.group(encoding)
        if group is _NO_GROUP:
            group = {}
            self.up_to_date += ((encoding, group),)
        group[following.subscriber.send] = following

    def set_apart(self, following: "Following") -> None:
        """Have a subscriber looked at by the next broadcast."""
        if self.apart is _NOT_APART:
            self.apart = {}
        self.apart[following] = None


class Following:
    """A subscriber in the audience of one feed."""

    __slots__ = ("after", "audience", "subscriber")

    def __init__(self, subscriber: "Subscriber", audience: Audience, after: str | None) -> None:
        self.subscriber = subscriber
        self.audience = audience
        self.after = after  #: the last reading that was sent, if it is not up to date

    def leave_broadcasts(self, *, to_return: bool = True) -> None:
        """Be no longer sent to, also by the current broadcast."""
        audience, subscriber = self.audience, self.subscriber
        audience.apart.pop(self, None)
        group = audience.group(subscriber.encoding)
        if group.pop(subscriber.send, None) is None:
            return
        if not group:
            audience.up_to_date = tuple(each for each in audience.up_to_date if each[1])
        if audience.broadcasting:
            if to_return:
                is_sent = not any(subscriber.send in sends for _, sends in audience.unsent)
                self.after = audience.news.cursor if is_sent else audience.previous
            audience.removed.add(subscriber.send)
        else:
            self.after = audience.news.cursor


class Subscriber:
    """One browser's WebSocket or stream, and what it was sent."""

    __slots__ = (
        "awaiting_pong",
        "channel",
        "closing",
        "decoder",
        "encoding",
        "follower",
        "followings",
        "hub",
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
        self.followings: tuple[Following, ...] = ()
        self.follower: Follower | None = None
        #: The rest of a frame that did not fit; nothing else may be sent before it.
        self.unsent: bytes | memoryview = b""
        #: Only while a message or a frame is incomplete.
        self.decoder: Decoder | None = None
        #: A ping was sent, and its pong has not come.
        self.awaiting_pong = False
        #: Why it ends, if our close frame is sent or unsent, or the socket is gone: nothing more is
        #: sent then.
        self.closing = ""
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

    def revoke(self) -> None:
        """Close with 4401: its follower is disconnected."""
        self.hub.close_subscriber(self, _REVOKED)


class Hub:
    """All browsers that wait for news: `feed.subscribe(hub.broadcast)`.

    One hub serves any number of feeds. `ping_interval` is in seconds. More than `max_subscribers`
    are closed with 1013.
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
        self._on_readable = self._readable  # one object for all subscribers
        self._audiences: dict[Feed, Audience] = {}  # of feeds that have subscribers
        self._polls = Polls()
        self.hold = self._polls.hold  #: of a long poll, until it has a response
        self._max_subscribers = max_subscribers
        # A subscriber is pinged once in every interval: those of slot 0 first, then slot 1...
        # They join the slots in turn, so that ten thousand pings never fall on one moment.
        self._slots: list[set[Subscriber]] = [set() for _ in range(20)]
        self._next_slot = cycle(self._slots)
        self.ping_interval = ping_interval  #: seconds
        self._deadlines: dict[Subscriber, float] = {}  # for a close frame, or for room
        self._keepalive_thread: threading.Thread | None = None
        self._keepalive_ended = threading.Event()
        self._keepalive_ended.set()
        self._closed = False
        self._stopped = threading.Event()  # the keepalive thread ends
        self._empty = threading.Event()
        self._empty.set()

    def __len__(self) -> int:
        return sum(map(len, self._slots))

    @property
    def is_closed(self) -> bool:
        """True once `close` was called."""
        return self._closed

    def add(
        self, connection: Connection, feed: Feed, *, after: str | None = None, carry: bool = False
    ) -> Subscriber:
        """Take the connection's socket; send it every reading from now.

        What it lacks that has the cursor `after` is sent at once (`Feed.since`). A reading is a
        text frame: `{"cursor"}`, or with `carry` the whole reading. Returns what can close it
        later.

        Raises ConnectionClosed, which a route need not catch, if the browser is gone; and if the
        hub is full or closed, after a close frame with 1013 or 1001.
        """
        return self.follow(connection, ((feed, after),), carry=carry)

    def follow(
        self,
        connection: Connection,
        positions: Sequence[Position],
        *,
        carry: bool = False,
        follower: Follower | None = None,
    ) -> Subscriber:
        """Take the connection's socket as `add` does, for several feeds."""
        if self._closed or len(self) >= self._max_subscribers:
            close = connection.close  # a handshake without a greenlet has none: Flask calls again
            counts.refuse(503)
            close((_GOING_AWAY if self._closed else _FULL).code)
            raise ConnectionClosed("the hub is closed" if self._closed else "the hub is full")
        channel, early = connection.detach()
        encoding = READINGS if carry else SIGNALS
        return self._join(channel, encoding, positions, follower=follower, early=early)

    def stream(self, channel: Channel, stream: Stream, headers: bytes) -> Subscriber:
        """Take a connection; send it headers, and then the stream.

        When the hub is closed, the stream ends at once.
        """
        encoding = chunks(stream.event, stream.heartbeat)
        first = headers + chunk(stream.first)
        return self._join(
            channel, encoding, stream.positions, follower=stream.follower, first=first
        )

    def _join(
        self,
        channel: Channel,
        encoding: Encoding,
        positions: Sequence[Position],
        *,
        follower: Follower | None,
        first: bytes = b"",
        early: bytes = b"",
    ) -> Subscriber:
        subscriber = Subscriber(self, channel, next(self._next_slot), encoding)
        thread: threading.Thread | None = None
        with self._lock:
            followings = []
            for feed, after in positions:
                audience = self._audience_of(feed)
                audience.size += 1
                followings.append(Following(subscriber, audience, after))
            subscriber.followings = tuple(followings)
            subscriber.slot.add(subscriber)
            counts.opened(encoding.transport, (feed for feed, _ in positions))
            subscriber.follower = follower
            self._empty.clear()
            if self._keepalive_thread is None:
                thread = threading.Thread(target=self._keep_alive, name="hub", daemon=True)
                self._keepalive_thread = thread
                self._keepalive_ended.clear()
            channel.watch(self._on_readable, subscriber, writing=False)
            ending = self._ending(follower)
            if ending is not None:
                counts.refuse(401 if ending is _REVOKED else 503)
                self._write(subscriber, first)
                self._start_closing(subscriber, ending)
            elif follower is not None:
                # Before it is sent anything: what is published after it is revoked must not be.
                follower.attach(subscriber.revoke)
            if not subscriber.closing:
                self._catch_up(subscriber, first)
            if early:
                self._handle_data(subscriber, early)
        if thread is not None:
            # `start` waits, which is not possible in an event loop: another thread calls it. gevent
            # may have replaced the function since the import.
            _thread.start_new_thread(thread.start, ())
        return subscriber

    def _ending(self, follower: Follower | None) -> CloseConnection | None:
        """Return how a new subscriber is closed at once."""
        if self._closed:  # while the 101 was sent
            return _GOING_AWAY
        if follower is not None and follower.is_revoked:
            return _REVOKED
        # Others were added at the same time.
        return _FULL if len(self) > self._max_subscribers else None

    def _audience_of(self, feed: Feed) -> Audience:
        audience = self._audiences.get(feed)
        if audience is None:
            audience = self._audiences[feed] = Audience(feed)
        return audience

    def broadcast(self, reading: Reading) -> None:
        """Send what is new in the feed, waiting for nobody.

        Other work gets its turn after every `limits.BROADCAST_CHUNK` subscribers. During another
        call for the same feed it does nothing: the call in progress sends what came meanwhile.
        """
        feed: Feed = reading.feed
        if self._polls.broadcast(feed):
            _observe_last_write(reading)
        with self._lock:
            audience = self._audiences.get(feed)
            if audience is None or audience.broadcasting:
                return
            audience.broadcasting = True
            audience.removed = set()
        audience.silent_since = time.monotonic()
        turns = Turns(limits.BROADCAST_CHUNK)
        try:
            while self._broadcast_news(audience, turns):
                _observe_last_write(audience.news.readings[-1])
        except BaseException:
            self._end_broadcast(audience)
            raise

    def _broadcast_news(self, audience: Audience, turns: Turns) -> bool:
        """Send what is new since the last broadcast.

        Returns False if nothing is."""
        with self._lock:
            readings = audience.feed.since(audience.news.cursor)
            if not readings:
                self._end_broadcast(audience)  # within the lock, or news might slip between
                return False
            audience.previous, audience.news = audience.news.cursor, _News(readings)
            audience.removed = set()
            size = limits.BROADCAST_CHUNK
            unsent = audience.unsent = deque(
                (encoding, sends[start : start + size])
                for encoding, sends in [(each, tuple(o)) for each, o in audience.up_to_date]
                for start in range(0, len(sends), size)
            )
            apart = tuple(audience.apart)
        while unsent:
            with self._lock:
                encoding, sends = unsent.popleft()
                self._send_to(audience, sends, encoding)
            turns.count(len(sends))
        for some in turns.chunks(apart):
            with self._lock:
                for following in some:
                    if following in audience.apart:
                        self._catch_up(following.subscriber)
        return True

    @staticmethod
    def _end_broadcast(audience: Audience) -> None:
        audience.broadcasting = False
        audience.unsent, audience.removed = (), _NOBODY

    def _send_to(self, audience: Audience, sends: Sequence[Send], encoding: Encoding) -> None:
        """Send the same bytes to each."""
        news = audience.news
        data = news.by(encoding)
        if removed := audience.removed:
            sends = [send for send in sends if send not in removed]
        counts.news(encoding.transport, news.readings, audience.previous, times=len(sends))
        counts.sent_bytes[encoding.transport] += len(data) * len(sends)
        for send, sent in send_to(sends, data):
            counts.sent_bytes[encoding.transport] -= len(data) - max(0, sent)
            groups = [group for _, group in audience.up_to_date]
            subscriber = next(group[send] for group in groups if send in group).subscriber
            if sent < 0:
                self._drop(subscriber, "closed")
            else:
                self._fall_behind(subscriber, memoryview(data)[sent:])

    def close(self) -> None:
        """Close every socket with 1001; wait up to CLOSE_TIMEOUT.

        Everything that the hub has started has ended then, its keepalive thread included.
        """
        with self._lock:
            self._closed = True
        self._polls.close()  # which waits, as nobody may that holds the lock
        with self._lock:
            for subscriber in self._subscribers():
                self._start_closing(subscriber, _GOING_AWAY)
        self._empty.wait(limits.CLOSE_TIMEOUT)
        self._stopped.set()
        with self._lock:
            for subscriber in self._subscribers():
                self._drop(subscriber, subscriber.closing)
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

    def _catch_up(self, subscriber: Subscriber, first: bytes = b"") -> None:
        """Send what it lacks, as far as there is room.

        Then it joins the broadcasts. `first` is sent before, in one packet with the beginning.
        """
        data = first
        for following in subscriber.followings:
            audience, encoding = following.audience, subscriber.encoding
            if subscriber.send in audience.group(encoding):
                continue
            before = following.after
            readings = audience.feed.since(before)
            if readings == audience.news.readings and not self._has_own_ids(subscriber):
                following.after = audience.news.cursor
                data += audience.news.by(encoding)
                counts.news(encoding.transport, readings, before)
                continue
            for number, reading in enumerate(readings, 1):
                following.after = reading.cursor
                last_id = last_event_id(each.after for each in subscriber.followings)
                data += encoding.news(reading, last_id)
                if len(data) >= limits.CATCH_UP:
                    self._write(subscriber, data)
                    data = b""
                    if not self._can_send(subscriber):
                        counts.news(encoding.transport, readings[:number], before)
                        return
            if readings:
                counts.news(encoding.transport, readings, before)
        if data:
            self._write(subscriber, data)
        if self._can_send(subscriber):
            for following in subscriber.followings:
                self._join_broadcasts(following)

    def _join_broadcasts(self, following: Following) -> None:
        audience, subscriber = following.audience, following.subscriber
        if following.after == audience.news.cursor and not self._has_own_ids(subscriber):
            audience.apart.pop(following, None)
            audience.add_to_group(following)
        else:
            audience.set_apart(following)

    @staticmethod
    def _has_own_ids(subscriber: Subscriber) -> bool:
        """Tell whether its events have ids of their own."""
        return not subscriber.encoding.replies and len(subscriber.followings) > 1

    @staticmethod
    def _can_send(subscriber: Subscriber) -> bool:
        return not subscriber.unsent and not subscriber.closing

    @staticmethod
    def _leave_broadcasts(subscriber: Subscriber, *, to_return: bool) -> None:
        for following in subscriber.followings:
            following.leave_broadcasts(to_return=to_return)

    def _fall_behind(self, subscriber: Subscriber, rest: bytes | memoryview) -> None:
        # While it does not read what we send, we do not read what it sends: a browser that pings
        # without ever reading the pongs must not make its unsent bytes grow.
        self._leave_broadcasts(subscriber, to_return=True)
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
            self._drop(subscriber, "closed")
            return
        counts.sent_bytes[subscriber.encoding.transport] += sent
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
                    self._drop(subscriber, subscriber.closing)
                    return
                self._deadlines.pop(subscriber, None)
            subscriber.channel.watch(self._on_readable, subscriber, writing=False)
            if subscriber.read_closed:
                subscriber.channel.shutdown_write()
            if not subscriber.closing:  # nothing may follow the close frame
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
                self._drop(subscriber, subscriber.closing or "closed")

    def _handle_data(self, subscriber: Subscriber, data: bytes) -> None:
        """Act on control frames; ignore messages."""
        if subscriber.read_closed or not subscriber.encoding.replies:
            return
        if subscriber.decoder is None and is_empty_pong(data):  # what most ever send
            subscriber.awaiting_pong = False
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
            subscriber.closing = _REASONS.get(event, "closed")
            subscriber.channel.close_code = int(event.code)
            self._leave_broadcasts(subscriber, to_return=False)
            self._deadlines[subscriber] = time.monotonic() + limits.CLOSE_TIMEOUT
            self._write(subscriber, subscriber.encoding.close(event))
            if not subscriber.encoding.replies and not subscriber.unsent:
                self._drop(subscriber, subscriber.closing)

    def _drop(self, subscriber: Subscriber, reason: str) -> None:
        """Close the socket; the reason is for the follower."""
        subscriber.closing = reason
        self._leave_broadcasts(subscriber, to_return=False)
        subscriber.unsent = b""
        self._deadlines.pop(subscriber, None)
        subscriber.channel.close()
        if subscriber not in subscriber.slot:
            return
        subscriber.slot.discard(subscriber)
        transport = subscriber.encoding.transport
        counts.opened(transport, (each.audience.feed for each in subscriber.followings), -1)
        if reason in ("slow", "silent"):
            counts.dropped[transport, reason] += 1
        for following in subscriber.followings:
            following.audience.size -= 1
            if not following.audience.size:
                del self._audiences[following.audience.feed]
        if subscriber.follower is not None:
            subscriber.follower.left(reason)
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
        gap = self.ping_interval / len(self._slots)
        slots, ping_due = cycle(self._slots), time.monotonic() + gap
        while not self._stopped.wait(self._until(ping_due)):
            now = time.monotonic()
            with self._lock:
                if now >= ping_due:
                    ping_due = now + gap
                    for subscriber in tuple(next(slots)):
                        self._ping(subscriber)
                late = [each for each, due in self._deadlines.items() if due < now]
                for subscriber in late:
                    self._drop(subscriber, subscriber.closing or "slow")
                if not len(self):
                    self._keepalive_thread = None
                    return
            self._beat(now)

    def _until(self, ping_due: float) -> float:
        """Return the seconds until something is due."""
        with self._lock:
            silent_since = [audience.silent_since for audience in self._audiences.values()]
        due = min([ping_due, *(since + limits.HEARTBEAT for since in silent_since)])
        return min(1.0, max(0.0, due - time.monotonic()))

    def _beat(self, now: float) -> None:
        """Send a heartbeat to event streams that were silent."""
        with self._lock:
            silent = [
                audience
                for audience in self._audiences.values()
                if now >= audience.silent_since + limits.HEARTBEAT
            ]
            streams = {
                following.subscriber: None
                for audience in silent
                for group in (*(group.values() for _, group in audience.up_to_date), audience.apart)
                for following in group
                if not following.subscriber.encoding.replies
            }
            for audience in silent:
                audience.silent_since = now
        for some in Turns(limits.BROADCAST_CHUNK).chunks(tuple(streams)):
            with self._lock:
                for subscriber in some:
                    if self._can_send(subscriber):
                        self._write(subscriber, subscriber.encoding.ping)

    def _ping(self, subscriber: Subscriber) -> None:
        if subscriber.closing or not subscriber.encoding.replies:
            return
        if subscriber.awaiting_pong:
            # Where the process has stood still, the pong may be there, or room for the ping.
            sent = [following.after for following in subscriber.followings]
            if not subscriber.unsent:
                self._readable(subscriber)
            else:
                self._writable(subscriber)
                now_sent = [following.after for following in subscriber.followings]
                if not subscriber.unsent or now_sent != sent:
                    return  # the ping has been sent only now
            if subscriber.closing:
                return
        if subscriber.awaiting_pong:  # for a whole interval: no pong, or no room even for the ping
            logger.info("no pong from a browser within %s s: dropped", self.ping_interval)
            self._drop(subscriber, "slow" if subscriber.unsent else "silent")
            return
        subscriber.awaiting_pong = True
        self._write(subscriber, subscriber.encoding.ping)
