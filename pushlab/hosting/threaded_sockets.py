"""WebSockets on native threads: a connection, and the hub's channel.

The hub keeps a ThreadChannel per subscriber; one thread watches all of them. A ThreadConnection
waits on its channel for the routes that converse. gevent is not needed.
"""

import errno
import logging
import selectors
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from pushlab import feed, limits
from pushlab.feed import Position, Reading
from pushlab.hosting.client_gone import gone
from pushlab.hosting.metering import Exchange
from pushlab.hosting.socket_options import configure_subscriber
from pushlab.websocket import frames
from pushlab.websocket.connection import Connection, ConnectionClosed
from pushlab.websocket.frames import CloseConnection, CloseReason

logger = logging.getLogger(__name__)

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE

#: Waits for one socket. `select` takes only descriptors below 1024, except on Windows, which has no
#: `poll`.
_Waiter: type[selectors.BaseSelector] = getattr(selectors, "PollSelector", selectors.SelectSelector)


def _nothing() -> None:
    pass


def abort(sock: socket.socket) -> None:
    """Shut a socket down, TLS or not; wake waiting threads."""
    with suppress(OSError):  # the other end may be faster
        socket.socket.shutdown(sock, socket.SHUT_RDWR)


def wait_and_look(
    number: int,
    positions: Sequence[Position],
    *,
    timeout: float,
    woken: threading.Event | None = None,
) -> list[Reading]:
    """Wait for news; raises ConnectionClosed if the client is gone.

    A thread cannot wait for a feed and a socket at once, so it looks at the socket now and then.
    """
    configure_subscriber(number)
    deadline = time.monotonic() + timeout
    woken = woken or threading.Event()
    while True:
        left = deadline - time.monotonic()
        look = max(0.0, min(left, limits.LOOK_INTERVAL))
        found = feed.wait(positions, timeout=look, woken=woken)
        if found or woken.is_set() or left <= limits.LOOK_INTERVAL or feed.any_closed(positions):
            return found or feed.news(positions)  # it may have been woken after its wait
        if gone([number]):
            raise ConnectionClosed("the client is gone")


class SelectorThread:
    """One thread that watches all channels; starts with the first.

    Only this thread touches the selector and closes the sockets in it. Another thread changes the
    channel and wakes this one. So no socket is closed while the selector waits for it, when the
    system might give its number to another socket.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._changed: dict[ThreadChannel, None] = {}
        self._thread: threading.Thread | None = None
        self._waker: socket.socket | None = None
        self._is_awake = False

    def update(self, channel: "ThreadChannel") -> None:
        """Note that the channel waits for other events now."""
        with self._lock:
            self._changed[channel] = None
            if self._thread is None or self._waker is None:
                waker, woken = socket.socketpair()
                waker.setblocking(False)
                woken.setblocking(False)
                thread = threading.Thread(
                    target=self._run, args=(woken,), name="watch", daemon=True
                )
                thread.start()  # raises if the system has none left
                self._waker, self._thread = waker, thread
            if not self._is_awake and threading.current_thread() is not self._thread:
                self._is_awake = True
                self._waker.send(b".")

    def _run(self, woken: socket.socket) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(woken, READ)
            while True:
                for channel in self._take_changed():
                    try:
                        channel.settle(selector)
                    except OSError:  # the system may not let us watch any more of them
                        logger.exception("a socket cannot be watched")
                        channel.close()
                for key, events in selector.select():
                    if key.data is None:
                        woken.recv(16)
                    else:
                        key.data.ready(events)

    def _take_changed(self) -> "dict[ThreadChannel, None]":
        with self._lock:
            changed, self._changed = self._changed, {}
            self._is_awake = False
        return changed


class ThreadChannel:
    """A plain socket; one thread may read while another writes."""

    __slots__ = (
        "_is_closed",
        "_released",
        "_selector_thread",
        "_settled",
        "_socket",
        "_wanted",
        "close_code",
        "receive",
        "send",
    )

    #: The class whose methods are called: the socket's own class may have been replaced.
    kind: type[socket.socket] = socket.socket

    def __init__(self, sock: Any, selector_thread: SelectorThread) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._selector_thread = selector_thread
        self._released: Callable[[], None] = _nothing
        self._is_closed = False
        self.close_code: int | None = None
        #: The events to wait for, the callback, and its argument.
        self._wanted: tuple[int, Callable[[Any], None], Any] | None = None
        self._settled = 0  # the events that the selector has
        self.send: Callable[[bytes | memoryview], int] = sock.send
        self.receive: Callable[[int], bytes] = sock.recv

    def on_close(self, released: Callable[[], None]) -> None:
        """Call this once when the channel is closed."""
        self._released = released

    def count_into(self, exchange: Exchange) -> None:
        """Count the bytes of this channel from now on."""
        self.send, self.receive = exchange.counting(self.send, self.receive)

    def pending(self) -> bytes:
        """Return decrypted bytes that do not make the socket readable."""
        return b""

    @property
    def number(self) -> int:
        """The socket's descriptor; -1 once it is closed."""
        return self.kind.fileno(self._socket)

    def wait(self, events: int, *, timeout: float) -> None:
        """Wait for events; TimeoutError after `timeout` seconds."""
        number = self.number
        if number < 0:
            raise OSError(errno.EBADF, "the connection is closed")
        with _Waiter() as waiter:
            waiter.register(number, events)
            if not waiter.select(max(0.0, timeout)):
                raise TimeoutError

    # What the hub asks for, in any thread.

    def watch(self, callback: Callable[[Any], None], argument: Any, *, writing: bool) -> None:
        if not self._is_closed:
            self._wanted = (WRITE if writing else READ), callback, argument
            self._selector_thread.update(self)

    def shutdown_write(self) -> None:
        self.shutdown(socket.SHUT_WR)

    def shutdown(self, how: int) -> None:
        """Shut down one direction or both; wake waiting threads."""
        with suppress(OSError):  # the browser may be faster; reading will tell
            self.kind.shutdown(self._socket, how)

    def abort(self) -> None:
        """End whatever waits for the browser, from any thread."""
        abort(self._socket)

    def close(self) -> None:
        self._wanted = None
        self._is_closed = True
        self._selector_thread.update(self)

    # What the selector's thread does.

    def settle(self, selector: selectors.BaseSelector) -> None:
        """Have the selector wait for the wanted events."""
        is_closed, wanted = self._is_closed, self._wanted  # in this order: `close` has the other
        number = self.number
        if number < 0:
            return  # twice closed
        events = 0 if is_closed or wanted is None else wanted[0]
        if events == self._settled:
            pass
        elif not events:
            selector.unregister(number)
        elif not self._settled:
            selector.register(number, events, self)
        else:
            selector.modify(number, events, self)
        self._settled = events
        if is_closed:
            self._close()
            released, self._released = self._released, _nothing
            released()

    def _close(self) -> None:
        # `socket.close` would wait for the last file made from it, which is Werkzeug's.
        socket.close(self.kind.detach(self._socket))

    def ready(self, events: int) -> None:
        """Call the callback, unless it now waits for other events."""
        wanted = self._wanted
        if wanted is None or not wanted[0] & events:
            return
        try:
            wanted[1](wanted[2])
        except Exception:  # the other sockets must still be watched
            logger.exception("a socket could not be served")
            self.close()


class TLSThreadChannel(ThreadChannel):
    """The same over TLS, for one thread at a time.

    Before Python 3.13 a TLS socket does not lock itself. No thread waits within the lock. Bytes
    that were not sent must come again first, unchanged: the hub keeps them as unsent, and in a
    conversation only one thread sends at a time.
    """

    __slots__ = ("_lock",)

    kind = ssl.SSLSocket

    def __init__(self, sock: Any, selector_thread: SelectorThread) -> None:
        super().__init__(sock, selector_thread)
        self._lock = threading.Lock()
        self.send = self._send
        self.receive = self._receive

    def _send(self, data: bytes | memoryview) -> int:
        try:
            with self._lock:
                return int(self._socket.send(data))
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as error:
            raise BlockingIOError from error

    def _receive(self, size: int) -> bytes:
        try:
            with self._lock:
                data: bytes = self._socket.recv(size)
                return data + self._pending() if data else data
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as error:
            raise BlockingIOError from error

    def pending(self) -> bytes:
        with self._lock:
            return self._pending()

    def _pending(self) -> bytes:
        # Bytes that TLS has decrypted and not handed out do not make the socket readable.
        data = b""
        with suppress(ssl.SSLWantReadError, ssl.SSLWantWriteError):
            while left := self._socket.pending():
                data += self._socket.recv(left)
        return data

    def shutdown(self, how: int) -> None:
        with self._lock:
            super().shutdown(how)
            # With that TLS has ended. What still comes is not to be counted.
            self.receive = self._socket.recv

    def _close(self) -> None:
        with self._lock:
            super()._close()


class ThreadConnection(Connection):
    """A connection on a channel that the hub may take.

    One thread may receive while others send. A socket has one timeout for all threads, so it never
    blocks: each thread waits for it to be ready, with a timeout of its own.
    """

    _socket: ThreadChannel | None

    def _release(self) -> ThreadChannel:
        channel, self._socket = self._channel, None
        configure_subscriber(channel.number)
        return channel

    @property
    def _channel(self) -> ThreadChannel:
        if self._socket is None:
            raise OSError("the connection is not open")
        return self._socket

    def _receive(self, size: int, timeout: float) -> bytes:
        channel, deadline = self._channel, time.monotonic() + timeout
        while True:
            try:
                return channel.receive(size)
            except BlockingIOError:
                channel.wait(READ, timeout=deadline - time.monotonic())

    def _send_all(self, data: bytes) -> None:
        channel, deadline = self._channel, time.monotonic() + limits.MESSAGE_TIMEOUT
        left = memoryview(data)
        while left:
            try:
                left = left[channel.send(left) :]
            except BlockingIOError:
                channel.wait(WRITE, timeout=deadline - time.monotonic())

    def close_going_away(self) -> bool:
        """Send a close frame with 1001 if it fits.

        A server that stops cannot wait. Returns False if another thread is sending just now, so
        that the caller tries again.
        """
        if self.closed:
            return True
        if not self._sending.acquire(blocking=False):
            return False
        try:
            if self._socket is not None and not self._close_sent:
                self._close_sent = True
                with suppress(OSError):
                    self._socket.send(frames.encode(CloseConnection(CloseReason.GOING_AWAY)))
        finally:
            self._sending.release()
        return True

    def close_socket(self) -> None:
        """Close the socket at once, unless the hub has it."""
        channel, self._socket = self._socket, None
        if channel is not None:
            channel.abort()  # closing alone would not wake a thread that waits for it
            channel.close()
