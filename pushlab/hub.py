"""The hub: every open WebSocket, told at once, none waited for.

A route hands its socket over and returns; from then on the hub is the only one who reads and
writes it. It keeps no thread, no greenlet and no request per browser, only a Member:

- News is one frame, encoded once, written to every socket that takes it.
- A socket whose buffer is full is behind. It is told the newest reading when it can take it,
  never a backlog, and dropped if it stays behind.
- What browsers say is read when it arrives: pongs, and the wish to close.
"""

import logging
import math
import random
import threading
import time
from collections.abc import Callable, Sequence

from pushlab.feed import Feed, Reading
from pushlab.websocket.connection import CLOSE_TIMEOUT, PING_INTERVAL, Channel, Connection
from pushlab.websocket.frames import (
    CloseConnection,
    CloseReason,
    Decoder,
    Ping,
    Pong,
    TextMessage,
    encode,
)

logger = logging.getLogger(__name__)

#: How many sockets are told in one go before others get their turn.
CHUNK = 256

_PING = encode(Ping(b""))


class _News:
    """A reading as frames: the same bytes for everyone."""

    __slots__ = ("carry", "cursor", "signal")

    def __init__(self, reading: Reading) -> None:
        self.cursor = reading.cursor
        self.signal = encode(TextMessage(reading.signal.decode()))
        self.carry = encode(TextMessage(reading.carry.decode()))


Send = Callable[[bytes | memoryview], int]


class Member:
    """One browser's socket, and how far it is."""

    # fmt: off
    __slots__ = ("carry", "channel", "closing", "deaf", "decoder", "outbox", "pinged", "send",
                 "slot", "told")
    # fmt: on

    def __init__(self, channel: Channel, slot: set["Member"], *, carry: bool) -> None:
        self.channel = channel
        self.send: Send = channel.send
        self.slot = slot
        self.carry = carry
        #: The last news sent while it was apart from those who are told with everyone. (So one who
        #: comes apart over a ping may hear the newest twice, which a cursor makes harmless.)
        self.told: _News | None = None
        #: The rest of a frame that did not fit; nothing else may be sent before it.
        self.outbox: bytes | memoryview = b""
        #: Only while a message or a frame is incomplete.
        self.decoder: Decoder | None = None
        #: A ping waits for its pong.
        self.pinged = False
        #: Our close frame is out or in the outbox, or the socket is gone: nothing more is sent.
        self.closing = False
        #: The peer has closed or broken a rule: nothing more is listened to.
        self.deaf = False


class Hub:
    """All open push sockets of one feed."""

    def __init__(
        self,
        feed: Feed,
        *,
        ping_interval: float = PING_INTERVAL,
        max_members: float = math.inf,
    ) -> None:
        self._lock = threading.RLock()
        self._news = _News(feed.latest)
        self._telling = False
        self._max_members = max_members
        # Those who can be told the next news, in the order in which they came: all that telling
        # them takes is to call the key. Who is behind or closing is not in here.
        self._signalled: dict[Send, Member] = {}
        self._carried: dict[Send, Member] = {}
        # Of these, some need no telling: who heard the newest when he joined, and who is no longer
        # here although the round under way still has him on its list.
        self._fresh: set[Send] = set()
        self._gone: set[Send] = set()
        # A member is visited once in every round of pings: those of slot 0 first, then slot 1...
        # Spread like that, and joined by chance, ten thousand pings never fall on one moment.
        self._slots: list[set[Member]] = [set() for _ in range(20)]
        self._round = ping_interval
        self._leaving: dict[Member, float] = {}  # closing, and until when we wait for the peer
        self._visitor: threading.Thread | None = None
        self._closed = False
        self._empty = threading.Event()
        self._empty.set()
        feed.subscribe(self.broadcast)

    def __len__(self) -> int:
        return sum(map(len, self._slots))

    def add(self, connection: Connection, *, after: str | None = None, carry: bool = False) -> None:
        """Take the connection's socket, and tell it the newest reading unless `after` names it.

        From now on it is sent a text frame per change: `{"cursor"}`, or with `carry` the whole
        reading. Closes with 1013 when the hub is full, with 1001 when it is closing.
        """
        if self._closed or len(self) >= self._max_members:
            connection.close(
                CloseReason.GOING_AWAY if self._closed else CloseReason.TRY_AGAIN_LATER
            )
            return
        channel, early = connection.detach()
        member = Member(channel, random.choice(self._slots), carry=carry)
        with self._lock:
            if self._news.cursor == after:
                member.told = self._news
            member.slot.add(member)
            self._empty.clear()
            if self._visitor is None:
                self._visitor = threading.Thread(target=self._visit, name="hub", daemon=True)
                self._visitor.start()
            channel.watch(self._readable, member, writing=False)
            if self._closed:  # while the handshake was answered
                self._start_closing(member, CloseConnection(CloseReason.GOING_AWAY))
            elif len(self) > self._max_members:  # by those who came at the same time
                self._start_closing(member, CloseConnection(CloseReason.TRY_AGAIN_LATER))
            self._catch_up(member)
            if early:
                self._take(member, early)

    def broadcast(self, reading: Reading) -> None:
        """Tell every member; let others have their turn after each CHUNK of them.

        Called again while it is still telling, it only notes the newer reading: the call under
        way sees to it that everyone gets that one, too.
        """
        with self._lock:
            self._news = _News(reading)
            self._fresh.clear()
            if self._telling:
                return
            self._telling = True
        try:
            while self._tell_everyone():
                pass
        except BaseException:
            self._telling = False
            raise

    def _tell_everyone(self) -> bool:
        """Tell the newest; return whether there is a newer one by then."""
        with self._lock:
            news = self._news
            self._gone.clear()
            rounds = ((news.signal, tuple(self._signalled)), (news.carry, tuple(self._carried)))
        for frame, sends in rounds:
            for start in range(0, len(sends), CHUNK):
                with self._lock:
                    self._tell(sends[start : start + CHUNK], frame, news)
                time.sleep(0)
        with self._lock:
            if self._news is news:
                self._telling = False  # within the lock, or a newer one might slip between
                return False
            return True

    def _tell(self, sends: Sequence[Send], frame: bytes, news: "_News") -> None:
        """Send the frame by each of these, without waiting. This loop is what a change costs."""
        if self._gone or self._fresh:
            sends = [send for send in sends if send not in self._gone and send not in self._fresh]
        size, left = len(frame), iter(sends)
        while True:
            try:
                for send in left:
                    if (sent := send(frame)) != size:
                        break
                else:
                    return
            except BlockingIOError:
                sent = 0
            except OSError:
                self._drop(self._member_of(send))
                continue
            member = self._member_of(send)
            member.told = news
            self._fall_behind(member, memoryview(frame)[sent:])

    def _mates(self, member: Member) -> dict[Send, Member]:
        """Return those who are told the same way as this member."""
        return self._carried if member.carry else self._signalled

    def _member_of(self, send: Send) -> Member:
        return self._signalled.get(send) or self._carried[send]

    def close(self, *, timeout: float = CLOSE_TIMEOUT) -> None:
        """Close every socket with 1001, "going away", and wait for the peers, `timeout` at most."""
        with self._lock:
            self._closed = True
            for member in self._members():
                self._start_closing(member, CloseConnection(CloseReason.GOING_AWAY))
        self._empty.wait(timeout)
        with self._lock:
            for member in self._members():
                self._drop(member)

    def _members(self) -> list[Member]:
        return [member for slot in self._slots for member in slot]

    # Writing. The hub is a socket's only writer, so no two frames can mix.

    def _catch_up(self, member: Member) -> None:
        """Bring a member to the newest reading, and then among those who are told with everyone."""
        news = self._news
        if member.told is not news and not member.outbox and not member.closing:
            member.told = news
            self._write(member, news.carry if member.carry else news.signal)
        if member.told is news and not member.outbox and not member.closing:
            self._mates(member)[member.send] = member
            self._fresh.add(member.send)

    def _set_apart(self, member: Member) -> None:
        """Take a member from those who are told with everyone."""
        self._mates(member).pop(member.send, None)
        self._fresh.discard(member.send)
        if self._telling:
            self._gone.add(member.send)

    def _fall_behind(self, member: Member, rest: bytes | memoryview) -> None:
        # While it does not take what we send, we do not read what it sends: a browser that pings
        # without ever reading the pongs must not make its outbox grow.
        self._set_apart(member)
        member.outbox = rest
        member.channel.watch(self._writable, member, writing=True)

    def _write(self, member: Member, data: bytes | memoryview) -> None:
        if member.outbox:  # a control frame, behind the rest of another frame
            member.outbox = bytes(member.outbox) + data
            return
        try:
            sent = member.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._drop(member)
            return
        if sent < len(data):
            self._fall_behind(member, memoryview(data)[sent:])

    def _writable(self, member: Member) -> None:
        with self._lock:
            if member not in member.slot:
                return  # dropped by another thread, a moment ago
            rest, member.outbox = member.outbox, b""
            self._write(member, rest)
            if member.outbox or member not in member.slot:
                return
            member.channel.watch(self._readable, member, writing=False)
            if member.deaf:
                member.channel.finish()
            self._catch_up(member)

    # Reading.

    def _readable(self, member: Member) -> None:
        with self._lock:
            if member not in member.slot:
                return  # dropped by another thread, a moment ago
            try:
                data = member.channel.receive(2048)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if data:
                self._take(member, data)
            else:
                self._drop(member)

    def _take(self, member: Member, data: bytes) -> None:
        """Act on what a browser says; a push socket has no use for messages, only for control."""
        if member.deaf:
            return
        decoder = member.decoder or Decoder()
        pongs = []
        for event in decoder.feed(data):
            if isinstance(event, Pong):
                member.pinged = False
            elif isinstance(event, Ping):
                pongs.append(encode(event.response()))
            elif isinstance(event, CloseConnection):
                self._answer(member, pongs)
                member.deaf = True
                self._start_closing(member, event.response())
                if not member.outbox and member in member.slot:
                    member.channel.finish()
        member.decoder = None if member.deaf or decoder.idle else decoder
        self._answer(member, pongs)

    def _answer(self, member: Member, pongs: list[bytes]) -> None:
        if pongs and not member.closing:
            self._write(member, b"".join(pongs))

    # Leaving.

    def _start_closing(self, member: Member, event: CloseConnection) -> None:
        """Send our close frame, once; whoever does not leave within CLOSE_TIMEOUT is dropped."""
        if not member.closing:
            member.closing = True
            self._set_apart(member)
            self._leaving[member] = time.monotonic() + CLOSE_TIMEOUT
            self._write(member, encode(event))

    def _drop(self, member: Member) -> None:
        member.closing = True
        self._set_apart(member)
        member.outbox = b""
        member.slot.discard(member)
        self._leaving.pop(member, None)
        member.channel.close()
        if not len(self):
            self._empty.set()

    # Looking after those of whom nothing is heard.

    def _visit(self) -> None:
        """Visit one slot after the other, all within one ping interval, for as long as we live."""
        while True:
            for slot in self._slots:
                time.sleep(self._round / len(self._slots))
                with self._lock:
                    for member in tuple(slot):
                        self._ping(member)
                    now = time.monotonic()
                    for member in [m for m, until in self._leaving.items() if until < now]:
                        self._drop(member)

    def _ping(self, member: Member) -> None:
        if member.closing:
            return
        if member.pinged:  # a whole round ago, and no pong, or no room even for the ping
            logger.info("a browser was silent or behind for %s s: dropped", self._round)
            self._drop(member)
            return
        member.pinged = True
        self._write(member, _PING)
