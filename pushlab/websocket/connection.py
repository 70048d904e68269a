"""One WebSocket connection (RFC 6455): `environ["wsgi.websocket"]`.

A route may converse over it with `receive` and `send`, or give it to the hub, which takes the
bare socket with `detach`. The 101 is sent at the first of these calls and not before,
so that a route can still refuse: with `abort(403)`, or by not existing.

Each server has a subclass that knows how to send the 101 and how to detach the socket; the rest is
the same everywhere.
"""

import errno
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Protocol

from werkzeug.exceptions import ClientDisconnected

from pushlab import limits
from pushlab.websocket import frames
from pushlab.websocket.frames import (
    BytesMessage,
    CloseConnection,
    CloseReason,
    Opcode,
    Ping,
    Pong,
    TextMessage,
)

logger = logging.getLogger(__name__)


class ConnectionClosed(ClientDisconnected, ConnectionError):
    """The connection is closed or closing: nothing can be sent.

    Browsers close connections all the time. Flask does not log Werkzeug's exception for that, and
    servers do not log an error of the connection.
    """

    def __init__(self, description: str) -> None:
        super().__init__(description)
        self.args = (errno.ECONNABORTED, description)


class Channel(Protocol):
    """A non-blocking socket that is watched: what the hub keeps."""

    close_code: int | None  #: of the first close frame, either side's

    def send(self, data: bytes | memoryview, /) -> int:
        """Write what fits; return its size in bytes.

        Raises BlockingIOError if nothing fits, another OSError if the connection is gone.
        """

    def receive(self, size: int, /) -> bytes:
        """Read up to `size` bytes; b"" is the end.

        Raises BlockingIOError if nothing has come yet.
        """

    def watch(self, callback: Callable[[Any], None], argument: Any, *, writing: bool) -> None:
        """Call `callback(argument)` when readable, or if `writing` when writable."""

    def shutdown_write(self) -> None:
        """Send no more; what was sent still arrives (TCP FIN)."""

    def close(self) -> None:
        """Close the socket and free everything at once."""


class Connection:
    """A conversation with one browser: `receive`, `send`, `close`, `closed`.

    Several threads or greenlets may send, one may receive. While one receives, pings get their
    pongs, the server's own pings go out, and a browser that sends no pong is given up.

    `max_message` is in bytes, by default MAX_MESSAGE; the intervals are in seconds.
    """

    # For `send_frame`, by the names that gevent-websocket has.
    OPCODE_TEXT, OPCODE_BINARY = Opcode.TEXT, Opcode.BINARY
    OPCODE_CLOSE, OPCODE_PING, OPCODE_PONG = Opcode.CLOSE, Opcode.PING, Opcode.PONG

    def __init__(
        self,
        *,
        max_message: int | None = None,
        ping_interval: float = limits.PING_INTERVAL,
        ping_timeout: float = limits.PONG_TIMEOUT,
    ) -> None:
        self.accepted = False  #: the 101 is out
        #: What the browser offers in Sec-WebSocket-Protocol, in its order of preference.
        self.subprotocols: list[str] = []
        self.subprotocol: str | None = None  #: the one that `accept` has chosen
        self.detached = False  #: the hub has the socket
        #: The code in the browser's close frame: 1005 if it had none, None without a close frame.
        self.close_code: int | None = None
        #: The code of the first close frame, of either side; None without one.
        self.ended_with: int | None = None
        self._socket: Any = None
        self._decoder: frames.Decoder | None = None
        self._max_message = max_message
        self._early = b""
        self._events: Iterator[Any] = iter(())  # what the bytes so far mean, not yet acted on
        self._parts: list[Any] = []
        self._sending = threading.Lock()
        self._close_sent = False
        self._eof = False
        self._ping_interval = ping_interval
        self._ping_timeout = ping_timeout
        self._pong_due: float | None = None
        self._ping_due = 0.0
        self._slice_ends = 0.0

    # What differs between servers.

    def _open(self) -> tuple[Any, bytes]:
        """Send the 101; return the socket and early bytes.

        Early bytes are those that came after the request and were already read.
        """
        raise NotImplementedError

    def _release(self) -> Channel:
        """Take the socket from the server, as a channel."""
        raise NotImplementedError

    # The two below are for greenlets, which never run at the same instant: a socket has only one
    # timeout, which two threads could not share.

    def _receive(self, size: int, timeout: float) -> bytes:
        """Wait for bytes; TimeoutError if none come within `timeout` seconds."""
        self._socket.settimeout(timeout)
        data: bytes = self._socket.recv(size)
        return data

    def _send_all(self, data: bytes) -> None:
        """Send all of it; TimeoutError after `limits.MESSAGE_TIMEOUT`."""
        self._socket.settimeout(limits.MESSAGE_TIMEOUT)
        self._socket.sendall(data)

    # What a route does with it.

    @property
    def closed(self) -> bool:
        """True as soon as nothing can be sent any more."""
        return self._eof or self._close_sent or self.detached

    def accept(self, subprotocol: str | None = None) -> None:
        """Send the 101, if that has not happened yet.

        `subprotocol` is one of `subprotocols`; a browser that offers some closes the connection
        when none is chosen (RFC 6455 section 4.1). Raises ValueError for any other, and
        ConnectionClosed if the browser has gone already.
        """
        if subprotocol is not None and subprotocol not in self.subprotocols:
            raise ValueError(f"the browser does not offer the subprotocol {subprotocol!r}")
        with self._sending:  # other senders wait for the 101
            if self.accepted:
                return
            self.accepted, self.subprotocol = True, subprotocol
            try:
                self._socket, self._early = self._open()
            except OSError as error:
                self._eof = True
                raise ConnectionClosed(str(error)) from error
            self._plan_ping()

    def detach(self) -> tuple[Channel, bytes]:
        """Give up the socket: return a channel and early bytes."""
        self.accept()
        self.detached = True
        return self._release(), self._early

    def send(self, message: str | bytes) -> None:
        """Send one message: text for str, binary for bytes.

        Raises ConnectionClosed if the connection is closed, or if the browser does not accept the
        message within `limits.MESSAGE_TIMEOUT`: half a frame may be out, so nothing can follow.
        """
        self.accept()
        if self.closed:  # first: a loop may send back the None of the last `receive`
            raise ConnectionClosed("the connection is closed")
        event = TextMessage(message) if isinstance(message, str) else BytesMessage(bytes(message))
        self._write(frames.encode(event))

    def send_frame(self, message: str | bytes, opcode: int) -> None:
        """Send a frame by its opcode (RFC 6455 section 5.2).

        A message of text or bytes, a ping, a pong, or a close frame, whose message is the code in
        two bytes and the reason. Raises ValueError for anything else, and for more than 125 bytes
        in a control frame; ConnectionClosed as `send` does.
        """
        data = message.encode() if isinstance(message, str) else bytes(message)
        if opcode == Opcode.TEXT:
            self.send(data.decode())
        elif opcode == Opcode.BINARY:
            self.send(data)
        elif opcode not in (Opcode.CLOSE, Opcode.PING, Opcode.PONG) or len(data) > 125:
            raise ValueError(f"no frame of {len(data)} bytes can be sent with opcode {opcode}")
        elif opcode == Opcode.CLOSE:
            code = int.from_bytes(data[:2], "big") if data else CloseReason.NORMAL_CLOSURE
            frames.check_close(code)
            self.close(code, data[2:].decode())
        else:
            self.accept()
            self._write(frames.encode(Ping(data) if opcode == Opcode.PING else Pong(data)))

    def receive(self, timeout: float | None = None) -> str | bytes | None:
        """Wait for the next message; None once closed.

        Raises TimeoutError if none has come within `timeout` seconds.
        """
        with suppress(ConnectionClosed):
            self.accept()
        self._yield()
        deadline = float("inf") if timeout is None else time.monotonic() + timeout
        is_late = False
        while not self.closed:
            # One event at a time: the frames before an invalid one are handled before it.
            for event in self._events:
                message = self._handle_event(event)
                if message is not None:
                    return message
            if self.closed:
                break
            if is_late:
                raise TimeoutError("no message has come")
            is_late = time.monotonic() >= deadline  # then a last look
            self._read(deadline)
        return None

    def close(self, code: int = CloseReason.NORMAL_CLOSURE, reason: str = "") -> None:
        """Send a close frame; `receive` then waits for the reply."""
        with suppress(ConnectionClosed):
            self.accept()
        if not self.closed:
            self._send_close(CloseConnection(code, reason))

    # How a server ends it.

    def close_and_wait(self, code: int = CloseReason.NORMAL_CLOSURE) -> None:
        """Close; wait up to CLOSE_TIMEOUT for the browser's close frame.

        Closing a TCP connection while bytes are still arriving resets it, and the browser may never
        see the close frame. So the server stops sending, and reads on for a moment.
        """
        if self._socket is None:
            return  # the browser was gone before it had its 101
        self.close(code)
        self._ping_due = self._pong_due = float("inf")
        deadline = time.monotonic() + limits.CLOSE_TIMEOUT
        try:
            while not self._eof and time.monotonic() < deadline:
                for event in self._events:
                    self._handle_event(event)
                if not self._eof:
                    self._read(deadline)
            self._socket.shutdown(1)  # SHUT_WR
            while (left := deadline - time.monotonic()) > 0 and self._receive(4096, left):
                pass
        except OSError:
            pass  # it is closed already, which is what we want

    # The inside.

    def _read(self, deadline: float = float("inf")) -> None:
        """Read once: bytes, silence until a ping, or the end."""
        data, self._early = self._early, b""
        if not data:
            now = time.monotonic()
            if self._pong_due is None and now >= self._ping_due:
                self._pong_due = now + self._ping_timeout
                self._write(frames.encode(Ping(b"")), or_give_up=True)
            wake = min(deadline, self._ping_due if self._pong_due is None else self._pong_due)
            try:
                data = self._receive(4 * 1024, max(0.001, wake - now))
            except TimeoutError:
                if self._pong_due is None or time.monotonic() < self._pong_due:
                    return
                # Where the process has stood still, the pong may have come meanwhile.
                try:
                    data = self._receive(4 * 1024, 0.001)
                except OSError:
                    logger.info("no pong within %s s: connection given up", self._ping_timeout)
                    data = b""
            except OSError:
                data = b""
        if not data:
            self._eof = True
            return
        if self._decoder is None:
            self._decoder = frames.Decoder(max_message=self._max_message)
        self._events = self._decoder.feed(data)

    def _handle_event(self, event: Any) -> str | bytes | None:
        """Act on an event; return the message that it completes."""
        if isinstance(event, (TextMessage, BytesMessage)):
            if self._close_sent:
                return None  # the route has closed, and receives no more messages
            if event.data:  # an empty fragment adds nothing, but thousands of them would
                self._parts.append(event.data)
            if event.message_finished:
                empty: Any = event.data[:0]
                message: str | bytes = empty.join(self._parts)
                self._parts.clear()
                return message
        elif isinstance(event, Ping):
            self._write(frames.encode(event.response()), or_give_up=True)
        elif isinstance(event, Pong):
            self._pong_due = None
            self._plan_ping()
        elif isinstance(event, CloseConnection):
            self.close_code = int(event.code)
            if not self._close_sent:
                self._send_close(event.response())
            self._eof = True
        self._yield()
        return None

    def _yield(self) -> None:
        # Under gevent neither reading nor writing switches greenlets while it need not wait: a
        # browser that sends thousands of small messages would have the server for itself.
        if time.monotonic() >= self._slice_ends:
            time.sleep(0)
            self._slice_ends = time.monotonic() + limits.TIME_SLICE

    def _plan_ping(self) -> None:
        # Jitter, or all connections of one moment would be pinged at one moment.
        self._ping_due = time.monotonic() + self._ping_interval * random.uniform(0.75, 1.0)

    def _send_close(self, event: CloseConnection) -> None:
        self.ended_with = int(event.code)
        self._write(frames.encode(event), or_give_up=True, last=True)

    def _write(self, data: bytes, *, or_give_up: bool = False, last: bool = False) -> None:
        """Send whole frames, one sender at a time.

        Raises ConnectionClosed if that fails, unless `or_give_up`.
        """
        try:
            with self._sending:  # two senders at once would mix their frames
                if self._close_sent or self._socket is None:
                    if or_give_up:
                        return
                    raise ConnectionClosed("the connection is closing")
                self._close_sent = last
                self._send_all(data)
        except OSError as error:
            self._eof = True  # part of a frame may be out: nothing can follow it
            if not or_give_up:
                raise ConnectionClosed(str(error)) from error
