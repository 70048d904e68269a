"""Relay: puts a server's port a given round trip away.

Over loopback every transport looks fast.

    python -m lab.relay --server 5000 --milliseconds 200

prints the port on which it listens. Bytes go from the client to the server and back, each half of
the milliseconds later. A real connection takes one round trip to open; the relay cannot delay a
client's connect(), so it delays the first bytes by as much. It is a process of its own, so that its
work does not count as the server's, and a frozen server does not freeze the network. It imports
nothing of Pushlab, and ends when its standard input does, at the latest with the program that
started it.
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

#: Bytes that may wait in one direction of a connection; with more, the relay stops reading.
MAX_WAITING = 1024 * 1024
#: Seconds beyond the round trips that a stopping relay gives its connections.
LINGER = 1.0

#: What a waiting piece costs beside its bytes: many tiny ones must not fill the memory.
_OVERHEAD = 200
#: The SO_LINGER with which closing a socket resets its connection.
_RESET = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)


class Relay:
    """What all connections share: the server, the delay, the list."""

    def __init__(self, server_port: int, milliseconds: float) -> None:
        self.server_port = server_port
        self.delay = milliseconds / 1000 / 2  # in one direction, in seconds
        self.ends: set[End] = set()
        self.buffer = memoryview(bytearray(64 * 1024))  # one for all: its content is copied at once
        self.loop = asyncio.SelectorEventLoop()  # on Windows, too: its own needs more buffers
        self.loop.set_exception_handler(
            lambda _, it: _warn(it["message"], str(it.get("exception")))
        )
        self.stopping = asyncio.Event()

    async def serve(self, listener: socket.socket) -> None:
        """Print the port, relay, and end after `stop`."""
        # asyncio accepts `backlog` clients at a time: few, so that each is connected to the server
        # before the next ones take the last descriptors. Many may wait in the kernel.
        server = await self.loop.create_server(lambda: ClientEnd(self), sock=listener, backlog=10)
        listener.listen(1024)
        with suppress(OSError):  # the program that started this has ended, as will standard input
            os.write(1, b"%d\n" % listener.getsockname()[1])
        await self.stopping.wait()
        deadline = self.loop.time() + 4 * self.delay + LINGER  # to open, to request, to respond
        # Accept every client that has connected: closing the listener would reset the others.
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
        await asyncio.sleep(0)  # so that the aborts take effect

    def _opening(self) -> set[asyncio.Task[Any]]:
        """Return the tasks that accept or connect."""
        return asyncio.all_tasks() - {cast(asyncio.Task[Any], asyncio.current_task())}

    def stop(self) -> None:
        """End soon; safe in signal handlers and threads."""
        with suppress(RuntimeError):  # has ended already
            self.loop.call_soon_threadsafe(self.stopping.set)


class End(asyncio.BufferedProtocol):
    """One end of a connection, and all bytes under way.

    Under way are bytes, b"" (the sender sends no more), and None (the connection broke).
    """

    transport: asyncio.Transport
    peer: "End"

    def __init__(self, relay: Relay) -> None:
        self.relay = relay
        self.waiting: deque[tuple[float, bytes | None]] = deque()  # each with its time of arrival
        self.size = 0  # of what is waiting
        self.opened = 0.0  # over a real network, nothing could be sent to here before that time
        self.timer: asyncio.TimerHandle | None = None
        self.ready = False  # connected, and the kernel has taken what has arrived
        self.full = False  # so the other end does not read
        self.has_ended = self.lost = False

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
        """Deliver this here after the delay."""
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
        # `now` is compared again: asyncio's timers may be early by the clock's resolution.
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
            pass  # broken here; `connection_lost` tells the other end
        elif piece:
            self.transport.write(piece)
        else:
            with suppress(OSError):  # broken, which `connection_lost` reports
                self.transport.write_eof()
            self.has_ended = True
            if self.peer.has_ended:
                self.transport.close()
                self.peer.transport.close()

    def _set(self, level: int, option: int, value: int | bytes) -> None:
        with suppress(OSError):  # some systems refuse once the connection is broken
            self.transport.get_extra_info("socket").setsockopt(level, option, value)


class ClientEnd(End):
    """The client's end; it makes the one at the server."""

    def __init__(self, relay: Relay) -> None:
        super().__init__(relay)
        self.peer = End(relay)
        self.peer.peer = self

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        # Opening takes three trips (RFC 9293 section 3.5): SYN, SYN-ACK, ACK. The server can refuse
        # when the SYN has arrived; the client can send when the SYN-ACK has.
        now = self.relay.loop.time()
        self.opened = now + self.relay.delay
        self.peer.opened = now + 2 * self.relay.delay
        self.connecting = self.relay.loop.create_task(self._connect())  # meanwhile, bytes may come

    async def _connect(self) -> None:
        """Connect to the server at the address the client used.

        A client of another machine then has, for the server too, an address that other machines
        can reach. From loopback, the relay would give it the rights that only this machine has.
        """
        try:
            address = self.transport.get_extra_info("socket").getsockname()
            host, _ = socket.getnameinfo(address, socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)
            await self.relay.loop.create_connection(self._connected, host, self.relay.server_port)
        except OSError:  # refused, or there are too many connections
            self.expect(None)

    def _connected(self) -> End:
        """Delay the server's first bytes until the ACK has arrived."""
        self.opened += 2 * self.relay.delay
        return self.peer


@cache
def _warn(message: str, error: str) -> None:
    """Log an asyncio error, such as a failed accept, once."""
    logger.warning("far port: %s: %s", message, error)


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket, at a free port if necessary."""
    for wanted in (port, 0):
        try:
            family, *_, address = socket.getaddrinfo(
                host, wanted, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            return socket.create_server(address, family=family)
        except OSError as error:
            reason = error.strerror
    sys.exit(f"Cannot listen on {host} for a far port: {reason}")


def main() -> None:
    """Relay until standard input ends, or SIGTERM."""
    # Ctrl-C goes to all processes of the terminal; the server's last bytes pass this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parser = argparse.ArgumentParser(
        prog="python -m lab.relay",
        description="Put a server's port a given round trip away. Prints the port to connect to; "
        "ends with its standard input (Ctrl-D).",
    )
    add = parser.add_argument
    add("--server", type=int, required=True, metavar="PORT", help="where the server listens")
    add("--milliseconds", type=float, required=True, metavar="N", help="the round trip")
    add("--host", default="127.0.0.1", help="listen on this address of the server (%(default)s)")
    add("--port", type=int, default=0, help="listen here, if it is free (default: any free port)")
    options = parser.parse_args()
    for name, most in {"server": 65535, "port": 65535, "milliseconds": 60_000}.items():
        if not 0 <= getattr(options, name) <= most:  # nor is it NaN
            parser.error(f"--{name}: not from 0 to {most}")
    with suppress(ImportError, ValueError, OSError):  # not on every system, or not that many
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
