"""WebSockets on an asyncio loop, which watches their sockets.

A connection is opened by a server with threads, or by uWSGI on its asyncio loop. The loop takes its
socket, as the hub does, so that the server ends the request and holds nothing for the conversation.
"""

import asyncio
import contextvars
import logging
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, suppress
from typing import Any

from pushlab import limits
from pushlab.hosting.lifecycle import also_close
from pushlab.hosting.threaded_sockets import ThreadChannel, ThreadConnection
from pushlab.websocket.connection import Connection, ConnectionClosed
from pushlab.websocket.frames import CloseReason

logger = logging.getLogger(__name__)


class AsyncioConnection(Connection):
    """A connection on an asyncio loop.

    Only the loop's thread may use it. `receive_soon` and `send_soon` are to be awaited; what they
    are made of never waits.
    """

    def __init__(self, opened: ThreadConnection) -> None:
        super().__init__(
            max_message=opened._max_message,
            ping_interval=opened._ping_interval,
            ping_timeout=opened._ping_timeout,
        )
        channel, self._early = opened.detach()
        assert isinstance(channel, ThreadChannel)  # noqa: S101 - a Channel to its base
        self._channel = self._socket = channel
        self._number = channel.number
        self._unsent = bytearray()
        self._sent = asyncio.Event()  # all of it
        self._sent.set()
        self.accepted = True
        self._plan_ping()

    def _receive(self, size: int, timeout: float) -> bytes:
        try:
            return self._channel.receive(size)
        except BlockingIOError:
            raise TimeoutError from None

    def _send_all(self, data: bytes) -> None:
        if len(self._unsent) > limits.MAX_MESSAGE:
            raise TimeoutError("the browser does not accept more messages")
        self._unsent += data
        self._send_unsent()
        if self._unsent:
            self._sent.clear()
            asyncio.get_running_loop().add_writer(self._number, self._send_more)

    def _send_unsent(self) -> None:
        with suppress(BlockingIOError):
            while self._unsent:
                del self._unsent[: self._channel.send(bytes(self._unsent))]

    def _send_more(self) -> None:
        try:
            self._send_unsent()
        except OSError:
            self._give_up()
        if not self._unsent:
            self._stop_sending()

    def _give_up(self) -> None:
        self._eof = True  # part of a frame may be out: nothing can follow it
        self._channel.abort()
        self._unsent.clear()

    def _stop_sending(self) -> None:
        asyncio.get_running_loop().remove_writer(self._number)
        self._sent.set()

    async def receive_soon(self) -> str | bytes | None:
        """Wait for the next message; None once closed."""
        await asyncio.sleep(0)  # a browser that sends much would have the loop for itself
        while True:
            try:
                return self.receive(timeout=0)
            except TimeoutError:
                due = self._ping_due if self._pong_due is None else self._pong_due
                await self._until_readable(due - time.monotonic())

    async def send_soon(self, message: str | bytes) -> None:
        """Send a message; wait until all of it is out.

        Raises ConnectionClosed as `send` does.
        """
        self.send(message)
        if self._unsent:
            await self._until_sent(limits.MESSAGE_TIMEOUT)
            if self._eof:
                raise ConnectionClosed("the browser is gone, or does not accept the message")

    async def end(self, code: int) -> None:
        """Close, wait for the browser's close frame, then free everything."""
        self.close(code)
        self._ping_due = self._pong_due = float("inf")
        deadline = time.monotonic() + limits.CLOSE_TIMEOUT
        try:
            await self._until_sent(limits.CLOSE_TIMEOUT)
            while (left := deadline - time.monotonic()) > 0 and not self._eof:
                for event in self._events:
                    self._handle_event(event)
                if not self._eof:
                    await self._until_readable(left)
                    self._read(0)
            self._channel.shutdown_write()
            while (left := deadline - time.monotonic()) > 0:
                await self._until_readable(left)
                with suppress(TimeoutError):
                    if not self._receive(4096, 0):
                        break
        except OSError:
            pass  # it is closed already, which is what we want
        finally:
            self._stop_sending()
            self._channel.close()

    async def _until_sent(self, timeout: float) -> None:
        try:
            await asyncio.wait_for(self._sent.wait(), timeout)
        except (TimeoutError, asyncio.TimeoutError):
            self._give_up()

    async def _until_readable(self, timeout: float) -> None:
        loop = asyncio.get_running_loop()
        readable = loop.create_future()

        def arrived() -> None:
            loop.remove_reader(self._number)
            if not readable.done():  # too late, or cancelled
                readable.set_result(None)

        loop.add_reader(self._number, arrived)
        await asyncio.wait([readable], timeout=max(0.0, timeout))
        loop.remove_reader(self._number)


class Conversations:
    """The open conversations of an app on an asyncio loop.

    The loop is the one that runs in the thread of the request, which is uWSGI's, or else one in a
    thread of its own, which starts with the first conversation.
    """

    def __init__(self) -> None:
        self._starting = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._open: dict[AsyncioConnection, asyncio.Task[None]] = {}

    def begin(
        self,
        opened: ThreadConnection,
        converse: Callable[[AsyncioConnection], Awaitable[Any]],
        context: AbstractContextManager[Any],
    ) -> None:
        """Take a connection's socket, and converse on the loop.

        The coroutine runs within `context`. An exception is logged, and closes with 1011.
        """
        connection, loop = AsyncioConnection(opened), self._running_loop()

        async def run() -> None:
            code = CloseReason.INTERNAL_ERROR
            try:
                with context, suppress(ConnectionClosed):  # ends with it when the browser is gone
                    await converse(connection)
                code = CloseReason.NORMAL_CLOSURE
            except Exception:
                logger.exception("a WebSocket route failed")
            finally:
                await connection.end(code)
                del self._open[connection]

        def start() -> None:
            self._open[connection] = loop.create_task(run())

        # Without the variables of the request, which ends.
        loop.call_soon_threadsafe(start, context=contextvars.Context())

    def close(self) -> None:
        """Close all with 1001, within CLOSE_ALL_TIMEOUT; for any other thread."""
        if self._loop is None:
            return

        def close() -> None:
            for connection in self._open:
                connection.close(CloseReason.GOING_AWAY)

        self._loop.call_soon_threadsafe(close)
        deadline = time.monotonic() + limits.CLOSE_ALL_TIMEOUT
        time.sleep(0.005)
        while self._open and time.monotonic() < deadline:
            time.sleep(0.005)

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        with self._starting:
            if self._loop is None:
                also_close.add(self.close)
                try:
                    self._loop = asyncio.get_running_loop()
                except RuntimeError:  # there is none
                    self._loop = asyncio.new_event_loop()
                    threading.Thread(
                        target=self._loop.run_forever, name="asyncio", daemon=True
                    ).start()
            return self._loop
