"""Clients' connections to the gevent server, without a greenlet.

A connection belongs to the server between two requests; to a greenlet, which borrows the socket,
during one; to a group of polls, or to the hub, while it waits for news.
"""

import math
import ssl
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from pushlab import limits
from pushlab.hosting.access_log import Entry
from pushlab.hosting.gevent_sockets import (
    READ,
    WRITE,
    GeventChannel,
    abort,
    for_greenlets,
    plain,
)
from pushlab.hosting.metering import Exchange
from pushlab.hosting.socket_options import configure_subscriber
from pushlab.polls import Group
from pushlab.websocket.connection import Connection

#: Seconds after a response until its poll returns without waiting for others.
_MAX_DELAY = 1.0


class Returns:
    """Polls that return, some in each turn of the loop.

    After a change thousands return, and a request of another client would be behind all of them.
    """

    def __init__(self, loop: Any) -> None:
        self._loop = loop
        self._served = 0

    def next(self, group: Group) -> bool:
        """Tell whether one more, of this group, is served now.

        None is put off for longer than _MAX_DELAY.
        """
        if not self._served:
            self._loop.run_callback(self._begin_turn)  # of libuv's turns, gevent has no number
        self._served += 1
        has_room = self._served <= limits.POLL_CHUNK
        return has_room or time.monotonic() > group.responded_at + _MAX_DELAY

    def _begin_turn(self) -> None:
        self._served = 0


class ClientConnection(GeventChannel):
    """A connection of HTTP/1.1, or what it has become."""

    __slots__ = ("_early", "_is_configured", "due", "entry", "exchange", "group", "server", "tick")

    def __init__(self, sock: Any, server: Any) -> None:
        super().__init__(sock)
        self.server = server
        self.group: Group | None = None
        self.exchange: Exchange | None = None
        self.entry: Entry | None = None  #: in the access log, of the WebSocket that it became
        self._is_configured = False
        self.due, self.tick = 0.0, 0
        self._early = b""  # a request that has come before the response to another was sent

    def close(self) -> None:
        if self._socket is None:
            return
        self.server.wheel.unset(self)
        super().close()
        if self.exchange is not None:
            self.exchange.closed()
        if self.entry is not None:
            self.entry.end(self.close_code)
        self.server.release()

    # For the hub.

    def count_into(self, exchange: Exchange) -> None:
        """Count the bytes of this connection from now on."""
        self.exchange = exchange
        self.send, _ = exchange.counting(self.send, super().receive)
        exchange.upgraded(partial(abort, self._socket))

    def receive(self, size: int) -> bytes:
        data: bytes = self._socket.recv(size)
        if self.exchange is not None:
            self.exchange.received(len(data))
        return data

    def leave_server(self) -> None:
        """Let the hub alone decide when it is closed."""
        self.server.wheel.unset(self)
        self.due = math.inf  # one object for all
        self.group = None
        self.configure()

    def configure(self) -> None:
        """Set the options of a waiting connection, once."""
        if not self._is_configured:
            self._is_configured = True
            configure_subscriber(self._socket)

    # For the server.

    def park(self, seconds: float) -> None:
        """Await a request, or news; call `time_out` after so long."""
        self.server.wheel.set(self, time.monotonic() + seconds)
        watcher = self._watcher
        if watcher is None or not watcher.active or watcher.events != READ:  # else it is this one
            self.watch(ClientConnection._readable, self, writing=False)

    def _readable(self) -> None:
        group = self.group
        if group is not None and group.responded_at and not self.server.returns.next(group):
            return  # it is readable still in the next turn
        try:
            data = self.receive(limits.MAX_PIECE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if group is not None:
            if not group.responded_at:
                group.received(self, data)
                return
            self.group = None
            self.due = group.responded_at + limits.IDLE_TIMEOUT  # it was that of the poll
        if data:
            self.server.serve(self, data)
        else:
            self.close()

    def time_out(self) -> None:
        """Respond to a poll that has waited; else close."""
        group = self.group
        if group is None:
            self._close_unless_readable()
        elif not group.responded_at:
            group.time_out(self)
        else:
            idle_until = group.responded_at + limits.IDLE_TIMEOUT
            if time.monotonic() < idle_until:
                self.server.wheel.set(self, idle_until)
            else:
                self._close_unless_readable()

    def _close_unless_readable(self) -> None:
        # If the process has stood still, a request may have come meanwhile.
        if self._watcher.events == READ:
            try:
                data = self.receive(limits.MAX_PIECE)
            except OSError:
                data = b""
            if data:
                self.group = None
                self.due = math.inf
                self.server.serve(self, data)
                return
        self.close()

    @property
    def socket(self) -> Any:
        return self._socket

    def address(self) -> Any:
        """Return the client's address; OSError if it has closed."""
        return self._socket.getpeername()

    def lend(self) -> Any:
        """Return the socket for a greenlet, until `take_back`."""
        self.server.wheel.unset(self)
        self.group = None
        self._unwatch()
        sock, self._socket = self._socket, None
        return self._lent(sock)

    _lent = staticmethod(for_greenlets)

    def take_back(self, sock: Any) -> None:
        """Own the socket again."""
        self._own(plain(sock))

    # For a group of polls.

    def respond(self, data: bytes | memoryview) -> None:
        try:
            sent = self.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.close()
            return
        if sent == len(data):
            self.park(limits.IDLE_TIMEOUT)
            if self._early:
                self.resume(self._early)
            return
        self.server.wheel.set(self, time.monotonic() + limits.RESPONSE_TIMEOUT)
        rest = memoryview(data)[sent:]
        self.watch(ClientConnection._respond_more, (self, rest), writing=True)

    @staticmethod
    def _respond_more(what: tuple["ClientConnection", memoryview]) -> None:
        what[0].respond(what[1])

    def ignore(self) -> None:
        self._watcher.stop()

    def resume(self, early: bytes) -> None:
        """Serve a request that has come already, in a moment."""
        group = self.group
        if self._socket is None:
            return
        if group is not None and not group.responded_at:
            group.received(self, early)
        elif self._watcher.events == WRITE:
            self._early = early
        else:
            self.group, self._early = None, b""
            self.server.wheel.set(self, time.monotonic() + limits.IDLE_TIMEOUT)
            self._watcher.stop()  # what comes now is behind these bytes
            # Not now: only the loop may begin a request.
            self.server.loop.run_callback(self._resumed, early)

    def _resumed(self, early: bytes) -> None:
        if self._socket is not None:
            self.server.serve(self, early)


class TLSConnection(ClientConnection):
    """The same over TLS.

    gevent's non-blocking `send` returns 0 where TLS must wait. The same bytes must then come again:
    the hub keeps them as unsent.
    """

    __slots__ = ("_has_ended",)

    def _own(self, sock: Any) -> None:
        sock.settimeout(0)
        super()._own(sock)
        self._has_ended = False

    def shutdown_write(self) -> None:
        super().shutdown_write()
        self._has_ended = True  # and TLS with it

    def receive(self, size: int) -> bytes:
        if self._has_ended:  # what still comes is not to be counted
            return bytes(self._socket.recv(size))
        data = b""
        # Bytes that TLS has decrypted and not handed out do not make the socket readable.
        try:
            data = super().receive(size)
            while data and (left := self._socket.pending()):
                data += super().receive(left)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as error:
            if not data:
                raise BlockingIOError from error
        return data

    def watch(self, callback: Callable[[Any], None], argument: Any, *, writing: bool) -> None:
        super().watch(callback, argument, writing=writing)
        if not writing and isinstance(self._socket, ssl.SSLSocket) and self._socket.pending():
            watcher = self._watcher
            self.server.loop.run_callback(
                lambda: watcher.callback is callback and callback(argument)
            )

    @staticmethod
    def _lent(sock: Any) -> Any:
        sock.settimeout(None)
        return sock

    def take_back(self, sock: Any) -> None:
        self._own(sock)


class GeventConnection(Connection):
    """A connection on the socket of a handler, until detached."""

    def __init__(self, handler: Any, **options: Any) -> None:
        super().__init__(**options)
        self._handler = handler

    def _open(self) -> tuple[Any, bytes]:
        self._handler.switch_protocols(self.subprotocol)
        # A client may send frames right behind its request.
        early = self._handler.early()
        if self._handler.exchange is not None:
            self._handler.exchange.received(len(early))
        return self._handler.socket, early

    def _send_all(self, data: bytes) -> None:
        super()._send_all(data)
        if self._handler.entry is not None:
            self._handler.entry.bytes += len(data)

    def _release(self) -> ClientConnection:
        handler, self._handler = self._handler, None
        sock, self._socket = self._socket, None
        handler.socket = None  # the handler shall not close it
        channel: ClientConnection = handler.client
        channel.take_back(sock)
        channel.leave_server()
        if handler.exchange is not None:
            channel.count_into(handler.exchange)
        if handler.entry is not None:
            channel.entry = handler.entry
            channel.send = handler.entry.counting(channel.send)
        return channel
