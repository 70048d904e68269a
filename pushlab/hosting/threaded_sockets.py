"""A socket among native threads: never blocking, and watched, with all others, by one thread.

The hub keeps one per browser, which costs no thread then; `thread_connection.py` waits on one for
the routes that converse.
"""

import errno
import logging
import selectors
import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from lab.meter import Meter

logger = logging.getLogger(__name__)

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE

#: To wait for one socket, of whatever number: `select` alone knows only those below 1024, except on
#: Windows, which has nothing else and counts in another way.
_Waiter: type[selectors.BaseSelector] = getattr(selectors, "PollSelector", selectors.SelectSelector)


def _nothing() -> None:
    pass


class Watch:
    """One thread that waits for all channels at once; it starts with the first.

    Only this thread touches the selector and closes the sockets in it. Whoever wants something
    else of a channel says so there and wakes the thread: so no socket is closed that is still being
    waited for, whose number the system might have given to another by then.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._changed: dict[ThreadChannel, None] = {}
        self._thread: threading.Thread | None = None
        self._waker: socket.socket | None = None
        self._is_awake = False

    def look_at(self, channel: "ThreadChannel") -> None:
        """Take note that the channel wants something else from now on."""
        with self._lock:
            self._changed[channel] = None
            if self._thread is None or self._waker is None:
                waker, woken = socket.socketpair()
                waker.setblocking(False)
                woken.setblocking(False)
                thread = threading.Thread(
                    target=self._run, args=(woken,), name="watch", daemon=True
                )
                thread.start()  # if the system has one for us
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
    """A plain socket: the system lets one thread read it while another writes."""

    __slots__ = ("_is_closed", "_released", "_settled", "_socket", "_wanted", "_watch", "receive",
                 "send")  # fmt: skip

    #: Whose methods are called: `socket` may look like another to those who had it before.
    kind: type[socket.socket] = socket.socket

    def __init__(self, sock: Any, watch: Watch) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._watch = watch
        self._released: Callable[[], None] = _nothing
        self._is_closed = False
        #: What is waited for, and what is then called with what.
        self._wanted: tuple[int, Callable[[Any], None], Any] | None = None
        self._settled = 0  # what the selector knows of it
        self.send: Callable[[bytes | memoryview], int] = sock.send
        self.receive: Callable[[int], bytes] = sock.recv

    def on_close(self, released: Callable[[], None]) -> None:
        """Call this once when the channel is closed."""
        self._released = released

    def meter(self, meter: Meter) -> None:
        """Count what passes from now on; who is not counted does not pay for it."""
        self.send, self.receive = meter.counting(self.send, self.receive)

    def pending(self) -> bytes:
        """Return what has come and would not make the socket readable: nothing without TLS."""
        return b""

    def limit(self, size: int) -> None:
        """Let the kernel hold no more than this many bytes that were not taken."""
        with suppress(OSError):  # macOS refuses if the browser has just left
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)

    def wait(self, events: int, *, timeout: float) -> None:
        """Wait for the socket to be readable or writable; TimeoutError if that takes too long."""
        number = self.kind.fileno(self._socket)
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
            self._watch.look_at(self)

    def finish(self) -> None:
        self.shutdown(socket.SHUT_WR)

    def shutdown(self, how: int) -> None:
        """End one direction or both, for whoever waits, too."""
        with suppress(OSError):  # the peer may be faster; reading will tell
            self.kind.shutdown(self._socket, how)

    def abort(self) -> None:
        """End whatever waits for the peer, without a word to it; in any thread."""
        with suppress(OSError):
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def close(self) -> None:
        self._wanted = None
        self._is_closed = True
        self._watch.look_at(self)

    # What the watching thread does.

    def settle(self, selector: selectors.BaseSelector) -> None:
        """Have the selector wait for what is wanted by now."""
        is_closed, wanted = self._is_closed, self._wanted  # in this order: `close` has the other
        number = self.kind.fileno(self._socket)
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
        # `socket.close` would leave it to the last file made from it, which is Werkzeug's.
        socket.close(self.kind.detach(self._socket))

    def ready(self, events: int) -> None:
        """Tell who waits, unless he has come to want something else."""
        wanted = self._wanted
        if wanted is None or not wanted[0] & events:
            return
        try:
            wanted[1](wanted[2])
        except Exception:  # the others' sockets are to be watched all the same
            logger.exception("a socket could not be served")
            self.close()


class TLSThreadChannel(ThreadChannel):
    """The same over TLS, which one thread at a time may use, be it to read or to write.

    Before Python 3.13 nothing else keeps two threads apart. Nobody waits within the lock. Bytes
    that were not sent must come again first, as they were, and they do: in the hub from the outbox,
    in a conversation because only one sends at a time.
    """

    __slots__ = ("_lock",)

    kind = ssl.SSLSocket

    def __init__(self, sock: Any, watch: Watch) -> None:
        super().__init__(sock, watch)
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
            # With that TLS has ended. What comes yet is none of our bytes, and not to be counted.
            self.receive = self._socket.recv

    def _close(self) -> None:
        with self._lock:
            super()._close()
