"""A WebSocket connection among native threads, over a plain socket or TLS; gevent is not needed.

One thread may receive while others send: none of them makes the socket wait, which has only one
timeout for all. They wait for it to be ready, each for as long as it likes.
"""

import time
from contextlib import suppress

from pushlab.hosting.threaded_sockets import READ, WRITE, ThreadChannel
from pushlab.websocket import frames
from pushlab.websocket.connection import SEND_BUFFER, SEND_TIMEOUT, Connection
from pushlab.websocket.frames import CloseConnection, CloseReason


class ThreadConnection(Connection):
    """A connection on a channel, which `_open` makes and the hub may take over."""

    _socket: ThreadChannel | None

    def _release(self) -> ThreadChannel:
        channel, self._socket = self._channel, None
        channel.limit(SEND_BUFFER)
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
        channel, deadline = self._channel, time.monotonic() + SEND_TIMEOUT
        left = memoryview(data)
        while left:
            try:
                left = left[channel.send(left) :]
            except BlockingIOError:
                channel.wait(WRITE, timeout=deadline - time.monotonic())

    def close_going_away(self) -> bool:
        """Send a close frame with 1001 if there is room for it: a server that stops cannot wait.

        Returns False if somebody is sending just now, so that it should be tried again.
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

    def leave(self) -> None:
        """Close the socket, whatever there may be left to say or to hear."""
        channel, self._socket = self._socket, None
        if channel is not None:
            channel.abort()  # who waits for it would not hear of its being closed
            channel.close()
