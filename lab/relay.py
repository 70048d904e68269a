"""A relay that puts a port a given round trip away: over loopback every transport looks fast.

    python -m lab.relay --server 5000 --milliseconds 200

prints the port on which it listens. What comes there goes on to the server, and what the server
answers goes back, each way half of the milliseconds later. Opening a connection takes all of them
before the first byte leaves; as nobody's connect() can be held up here, that byte is. The relay is
a process of its own, so that its work is not the server's and a frozen server does not freeze the
wire. It imports nothing of Pushlab, and ends when its standard input does: at the latest with
whoever started it.
"""

import argparse
import asyncio
import logging
import os
import select
import signal
import socket
import struct
import sys
import threading
from collections import deque
from contextlib import suppress
from functools import cache
from typing import Any, cast

logger = logging.getLogger(__name__)

#: Bytes that may wait in one direction of a connection; with more, its sender has to wait.
MAX_WAITING = 1024 * 1024
#: Seconds beyond the distance that a relay which ends gives its connections.
LINGER = 1.0

#: What a waiting piece costs beside its bytes: many tiny ones must not fill the memory.
_OVERHEAD = 200
#: The SO_LINGER with which closing a socket resets its connection.
_RESET = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)


class Relay:
    """What all connections share: where they lead, how far that is, and which are open."""

    def __init__(self, server_port: int, milliseconds: float) -> None:
        self.server_port = server_port
        self.delay = milliseconds / 1000 / 2  # of each way, in seconds
        self.ends: set[End] = set()
        self.buffer = memoryview(bytearray(64 * 1024))  # one: what is read is copied at once
        self.loop = asyncio.SelectorEventLoop()  # on Windows, too: others would need more buffers
        self.loop.set_exception_handler(
            lambda _, it: _warn(it["message"], str(it.get("exception")))
        )
        self.stopping = asyncio.Event()

    async def serve(self, listener: socket.socket) -> None:
        """Print the port; relay every connection; after `stop`, until all has arrived."""
        # asyncio accepts `backlog` clients at a time. Few, so that each gets its way to the server
        # before the next ones take the last descriptors; but many may wait.
        server = await self.loop.create_server(lambda: ClientEnd(self), sock=listener, backlog=10)
        listener.listen(1024)
        with suppress(OSError):  # who started this is gone, and so is standard input
            os.write(1, b"%d\n" % listener.getsockname()[1])
        await self.stopping.wait()
        deadline = self.loop.time() + 4 * self.delay + LINGER  # to open, to ask, to be answered
        # First, let in who has knocked: a server that is closed drops even those on the threshold.
        while self._opening() or select.select([listener], [], [], 0)[0]:
            if self.loop.time() > deadline:
                break
            await asyncio.sleep(0.001)
        server.close()
        while self.ends and self.loop.time() < deadline:
            await asyncio.sleep(0.005)
        for task in self._opening():
            task.cancel()
        for end in self.ends:
            end.transport.abort()
        await asyncio.sleep(0)  # so that they notice

    def _opening(self) -> set[asyncio.Task[Any]]:
        """Return the tasks that accept a client or connect to the server."""
        return asyncio.all_tasks() - {cast(asyncio.Task[Any], asyncio.current_task())}

    def stop(self) -> None:
        """End soon; safe to call from signal handlers and threads."""
        with suppress(RuntimeError):  # has ended already
            self.loop.call_soon_threadsafe(self.stopping.set)


class End(asyncio.BufferedProtocol):
    """One end of a connection, and all that is on its way to it.

    Under way are pieces of bytes, b"" (the sender has no more), and None (the connection broke).
    """

    transport: asyncio.Transport
    peer: "End"

    def __init__(self, relay: Relay) -> None:
        self.relay = relay
        self.waiting: deque[tuple[float, bytes | None]] = deque()  # each with its time of arrival
        self.size = 0  # of what is waiting
        self.opened = 0.0  # over a real line, nothing would set out for here before that time
        self.timer: asyncio.TimerHandle | None = None
        self.ready = False  # connected, and the kernel has taken what has arrived
        self.full = False  # so the peer does not read
        self.told_all = self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(0)
        self._set(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.relay.ends.add(self)
        self.resume_writing()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.relay.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.peer.expect(bytes(self.relay.buffer[:nbytes]))
        if self.peer.size > MAX_WAITING:
            self.peer.full = True
            self.transport.pause_reading()

    def eof_received(self) -> bool:
        self.peer.expect(b"")
        return True  # it may still be written to

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self.waiting.clear()
        self.relay.ends.discard(self)
        if exc is not None:
            self.peer.expect(None)

    def expect(self, piece: bytes | None) -> None:
        """Deliver this here when it has come the distance."""
        if not self.lost:
            left = max(self.relay.loop.time(), self.opened)
            self.waiting.append((left + self.relay.delay, piece))
            self.size += len(piece or b"") + _OVERHEAD
            self._await_next()

    def pause_writing(self) -> None:
        self.ready = False

    def resume_writing(self) -> None:
        self.ready = True
        self._await_next()

    def _await_next(self) -> None:
        if self.ready and self.waiting and self.timer is None:
            self.timer = self.relay.loop.call_at(self.waiting[0][0], self._deliver)

    def _deliver(self) -> None:
        self.timer = None
        now = self.relay.loop.time()
        # Asking `now` again, because asyncio's timers may be early by the clock's resolution.
        while self.ready and self.waiting and self.waiting[0][0] <= now:
            _, piece = self.waiting.popleft()
            self.size -= len(piece or b"") + _OVERHEAD
            self._pass_on(piece)
        if self.full and self.size <= MAX_WAITING // 2:
            self.full = False
            self.peer.transport.resume_reading()
        self._await_next()

    def _pass_on(self, piece: bytes | None) -> None:
        if piece is None:
            self._set(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self.transport.abort()
        elif self.transport.is_closing():
            pass  # broken here; the peer will hear of it
        elif piece:
            self.transport.write(piece)
        else:
            with suppress(OSError):  # broken, which reading will tell
                self.transport.write_eof()
            self.told_all = True
            if self.peer.told_all:
                self.transport.close()
                self.peer.transport.close()

    def _set(self, level: int, option: int, value: int | bytes) -> None:
        with suppress(OSError):  # some systems refuse once the connection is broken
            self.transport.get_extra_info("socket").setsockopt(level, option, value)


class ClientEnd(End):
    """The end at the client, which makes the one at the server."""

    def __init__(self, relay: Relay) -> None:
        super().__init__(relay)
        self.peer = End(relay)
        self.peer.peer = self

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        # Opening takes three ways: the client asks, the server agrees, the client confirms.
        knocked = self.relay.loop.time()
        self.opened = knocked + self.relay.delay  # a refusal sets out when the question is there
        self.peer.opened = knocked + 2 * self.relay.delay
        self.connecting = self.relay.loop.create_task(self._connect())  # meanwhile, bytes may come

    async def _connect(self) -> None:
        """Connect to the server at that address of this machine at which the client came.

        Who comes from another machine then comes to the server, too, from an address that other
        machines use. From loopback, the relay would lend everyone the rights that only this
        machine should have.
        """
        try:
            came_to = self.transport.get_extra_info("socket").getsockname()
            host, _ = socket.getnameinfo(came_to, socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)
            await self.relay.loop.create_connection(self._agreed, host, self.relay.server_port)
        except OSError:  # nobody listens there, or there are too many connections
            self.expect(None)

    def _agreed(self) -> End:
        """Let nothing come from the server before it could know that the connection is open."""
        self.opened += 2 * self.relay.delay
        return self.peer


@cache
def _warn(message: str, error: str) -> None:
    """Log what asyncio could not do, such as to accept one connection more, but only once."""
    logger.warning("far port: %s: %s", message, error)


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket, on any free port if this one is taken."""
    for wanted in (port, 0):
        try:
            family, *_, address = socket.getaddrinfo(
                host, wanted, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            return socket.create_server(address, family=family)
        except OSError as error:
            reason = error.strerror
    sys.exit(f"Cannot listen on {host} for a far port: {reason}")


def milliseconds(text: str) -> float:
    """Parse a round trip of at most a minute."""
    if not 0 <= (number := float(text)) <= 60_000:
        raise ValueError
    return number


def port(text: str) -> int:
    """Parse a port number."""
    if not 0 <= (number := int(text)) <= 65535:
        raise ValueError
    return number


def main() -> None:
    """Relay until standard input ends, or SIGTERM."""
    # Ctrl-C goes to all processes of the terminal; the server says goodbye through this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parser = argparse.ArgumentParser(
        prog="python -m lab.relay",
        description="Put a server's port a given round trip away. Prints the port to connect to; "
        "ends with its standard input (Ctrl-D).",
    )
    add = parser.add_argument
    add("--server", type=port, required=True, metavar="PORT", help="where the server listens")
    add("--milliseconds", type=milliseconds, required=True, metavar="N", help="the round trip")
    add("--host", default="127.0.0.1", help="listen on this address of the server (%(default)s)")
    add("--port", type=port, default=0, help="listen here, if it is free (default: any free port)")
    options = parser.parse_args()
    with suppress(ImportError, ValueError, OSError):  # not on every system, or not so many
        import resource

        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    listener = listen(options.host, options.port)
    relay = Relay(options.server, options.milliseconds)
    signal.signal(signal.SIGTERM, lambda *_: relay.stop())

    def end_with_stdin() -> None:
        with suppress(OSError):  # there is none
            while os.read(0, 1024):
                pass
        relay.stop()

    threading.Thread(target=end_with_stdin, daemon=True).start()
    relay.loop.run_until_complete(relay.serve(listener))
    relay.loop.close()


if __name__ == "__main__":
    main()
