"""One WebSocket connection (RFC 6455) on any blocking socket: what `environ["wsgi.websocket"]` is.

A route may converse over it with `receive` and `send`, or hand it over to the hub, which takes
the bare socket away with `detach`. The 101 is sent at the first of these calls and not before,
so that a route can still refuse: with `abort(403)`, or by not existing.

Each server makes a subclass that knows how to answer the handshake and how to let go of the
socket; the rest is the same everywhere.
"""

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Protocol

from werkzeug.exceptions import ClientDisconnected

from pushlab.websocket import frames
from pushlab.websocket.frames import (
    BytesMessage,
    CloseConnection,
    CloseReason,
    Ping,
    Pong,
    TextMessage,
)

logger = logging.getLogger(__name__)

#: Seconds between two pings of the server, and how long it then waits for the pong.
PING_INTERVAL = PING_TIMEOUT = 20.0
#: Seconds that a peer may take to accept what is sent, and to answer a close frame.
SEND_TIMEOUT = 20.0
CLOSE_TIMEOUT = 2.0
#: Bytes that the kernel may hold for one push socket: a slow browser's backlog is bounded there.
SEND_BUFFER = 32 * 1024
#: Seconds that one conversation may go on before others have their turn.
TURN = 0.0005


class ConnectionClosed(ClientDisconnected):
    """Nothing can be sent any more: the connection is closed, or closing.

    Browsers leave all the time. Werkzeug's exception for that is one that Flask does not log.
    """


class Channel(Protocol):
    """A bare socket that never blocks, and tells when it is ready: what the hub keeps of one."""

    def send(self, data: bytes | memoryview, /) -> int:
        """Write what fits and return how many bytes that was; BlockingIOError if none did."""

    def receive(self, size: int, /) -> bytes:
        """Read up to `size` bytes, b"" at the end; BlockingIOError if there are none yet."""

    def watch(self, callback: Callable[[Any], None], argument: Any, *, writing: bool) -> None:
        """Call `callback(argument)` whenever it can be read, or, if `writing`, be written."""

    def finish(self) -> None:
        """Send no more, but let what was sent arrive (TCP FIN)."""

    def close(self) -> None:
        """Let go of everything at once."""


class Connection:
    """A conversation with one browser: `receive`, `send`, `close`, `closed`.

    Several threads or greenlets may send, one may receive. While somebody receives, pings are
    answered, the server's own go out, and a peer that leaves one unanswered is given up.
    """

    def __init__(
        self,
        *,
        max_message: int = frames.MAX_MESSAGE,
        ping_interval: float = PING_INTERVAL,
        ping_timeout: float = PING_TIMEOUT,
    ) -> None:
        self.accepted = False  #: the 101 is out
        self.detached = False  #: the hub has the socket
        #: What the peer's close frame said: 1005 if it said nothing, None if there was none.
        self.close_code: int | None = None
        self._socket: Any = None
        self._decoder: frames.Decoder | None = None
        self._max_message = max_message
        self._early = b""
        self._events: Iterator[Any] = iter(())  # what the bytes so far mean, not yet acted on
        self._parts: list[Any] = []
        self._sending = threading.Lock()
        self._close_sent = False
        self._over = False
        self._ping_interval = ping_interval
        self._ping_timeout = ping_timeout
        self._pong_due: float | None = None
        self._ping_due = 0.0
        self._turn_ends = 0.0

    # What each server does in its own way.

    def _open(self) -> tuple[Any, bytes]:
        """Answer the handshake; return the socket and the bytes that came after the request."""
        raise NotImplementedError

    def _release(self) -> Channel:
        """Take the socket away from whoever waits on it, and make it a channel."""
        raise NotImplementedError

    # The two below are for greenlets, which never run at the same instant: a socket has only one
    # timeout, which is of no use to two threads.

    def _receive(self, size: int, timeout: float) -> bytes:
        """Wait for bytes of the peer's; TimeoutError if none come within `timeout` seconds."""
        self._socket.settimeout(timeout)
        data: bytes = self._socket.recv(size)
        return data

    def _send_all(self, data: bytes) -> None:
        """Send all of it; TimeoutError if the peer does not take it within SEND_TIMEOUT."""
        self._socket.settimeout(SEND_TIMEOUT)
        self._socket.sendall(data)

    # What a route does with it.

    @property
    def closed(self) -> bool:
        """True as soon as nothing can be sent any more."""
        return self._over or self._close_sent or self.detached

    def accept(self) -> None:
        """Answer the handshake with 101, if that has not happened yet.

        Raises ConnectionClosed if the browser has left already.
        """
        with self._sending:  # whoever else wants to send at first waits for the 101
            if self.accepted:
                return
            self.accepted = True
            try:
                self._socket, self._early = self._open()
            except OSError as error:
                self._over = True
                raise ConnectionClosed(str(error)) from error
            self._plan_ping()

    def detach(self) -> tuple[Channel, bytes]:
        """Give up the socket: return it as a channel, and the bytes that were read too early."""
        self.accept()
        self.detached = True
        return self._release(), self._early

    def send(self, message: str | bytes) -> None:
        """Send one message: text for str, binary for bytes.

        Raises ConnectionClosed if the connection is closed, or if the peer does not take the
        message within SEND_TIMEOUT: half a frame may be out then, so it cannot go on.
        """
        event = TextMessage(message) if isinstance(message, str) else BytesMessage(bytes(message))
        self.accept()
        if self.closed:
            raise ConnectionClosed("the connection is closed")
        self._write(frames.encode(event))

    def receive(self) -> str | bytes | None:
        """Wait for the next message: text, bytes, or None once the connection is closed."""
        with suppress(ConnectionClosed):
            self.accept()
        self._give_way()
        while not self.closed:
            # One event after the other: what comes before a mistake is answered before it.
            for event in self._events:
                message = self._take(event)
                if message is not None:
                    return message
            if not self.closed:
                self._read()
        return None

    def close(self, code: int = CloseReason.NORMAL_CLOSURE, reason: str = "") -> None:
        """Send a close frame; the rest of the handshake is up to `receive`, or to `finish`."""
        with suppress(ConnectionClosed):
            self.accept()
        if not self.closed:
            self._send_close(CloseConnection(code, reason))

    # How a server ends it.

    def finish(self, code: int = CloseReason.NORMAL_CLOSURE) -> None:
        """Close, and wait up to CLOSE_TIMEOUT for the peer to do the same.

        Whoever closes a TCP connection while the other's bytes are still arriving resets it,
        and the peer may never see the close frame. So: stop sending, read on for a moment.
        """
        if self._socket is None:
            return  # the browser left before it had its 101
        self.close(code)
        self._ping_due = self._pong_due = float("inf")
        deadline = time.monotonic() + CLOSE_TIMEOUT
        try:
            while not self._over and time.monotonic() < deadline:
                for event in self._events:
                    self._take(event)
                if not self._over:
                    self._read(deadline)
            self._socket.shutdown(1)  # SHUT_WR
            while (left := deadline - time.monotonic()) > 0 and self._receive(4096, left):
                pass
        except OSError:
            pass  # it is gone already, which is what we want

    # The inside.

    def _read(self, deadline: float = float("inf")) -> None:
        """Take in one piece of what the peer sends, or its silence, or its end."""
        data, self._early = self._early, b""
        if not data:
            now = time.monotonic()
            if self._pong_due is None and now >= self._ping_due:
                self._pong_due = now + self._ping_timeout
                self._write(frames.encode(Ping(b"")), give_up=True)
            wake = min(deadline, self._ping_due if self._pong_due is None else self._pong_due)
            try:
                data = self._receive(4 * 1024, max(0.001, wake - now))
            except TimeoutError:
                if self._pong_due is not None and time.monotonic() >= self._pong_due:
                    logger.info("no pong within %s s: given up", self._ping_timeout)
                    self._over = True
                return
            except OSError:
                data = b""
        if not data:
            self._over = True
            return
        if self._decoder is None:
            self._decoder = frames.Decoder(max_message=self._max_message)
        self._events = self._decoder.feed(data)

    def _take(self, event: Any) -> str | bytes | None:
        """Act on what the peer says; return a message if this completes one."""
        if isinstance(event, (TextMessage, BytesMessage)):
            if self._close_sent:
                return None  # the route has stopped listening
            if event.data:  # an empty fragment adds nothing, but thousands of them would
                self._parts.append(event.data)
            if event.message_finished:
                empty: Any = event.data[:0]
                message: str | bytes = empty.join(self._parts)
                self._parts.clear()
                return message
        elif isinstance(event, Ping):
            self._write(frames.encode(event.response()), give_up=True)
        elif isinstance(event, Pong):
            self._pong_due = None
            self._plan_ping()
        elif isinstance(event, CloseConnection):
            self.close_code = int(event.code)
            if not self._close_sent:
                self._send_close(event.response())
            self._over = True
        self._give_way()
        return None

    def _give_way(self) -> None:
        # Under gevent neither reading nor writing gives way while it need not wait: whoever sends
        # thousands of small messages would have the server for himself.
        if time.monotonic() >= self._turn_ends:
            time.sleep(0)
            self._turn_ends = time.monotonic() + TURN

    def _plan_ping(self) -> None:
        # Some jitter, or all who connected at the same moment would be pinged at the same moment.
        self._ping_due = time.monotonic() + self._ping_interval * random.uniform(0.75, 1.0)

    def _send_close(self, event: CloseConnection) -> None:
        self._write(frames.encode(event), give_up=True, last=True)

    def _write(self, data: bytes, *, give_up: bool = False, last: bool = False) -> None:
        """Send whole frames, one sender at a time; `give_up` instead of raising if it fails."""
        try:
            with self._sending:  # two senders at once would mix their frames
                if self._close_sent or self._socket is None:
                    if give_up:
                        return
                    raise ConnectionClosed("the connection is closing")
                self._close_sent = last
                self._send_all(data)
        except OSError as error:
            self._over = True  # part of a frame may be out: nothing can follow it
            if not give_up:
                raise ConnectionClosed(str(error)) from error
