"""The load generator: one variant's clients in a process.

`python -m bench.clients.worker` reads one order per line of standard input, a JSON object, and
writes one JSON object for each. Between two orders its clients go on receiving. It ends with its
standard input. `Worker` starts it and gives the orders.
"""

import heapq
import itertools
import json
import os
import selectors
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from typing import IO, Any, cast

from bench.clients import CLIENTS
from bench.clients.base import Client
from bench.clients.http import WrongResponse, any_certificate
from bench.processes import ROOT, TIMEOUT, on_core
from bench.results import Traffic
from pushlab.hosting.listener import raise_descriptor_limit

#: Clients that connect at a time: as many handshakes are under way at once.
CONNECT_BATCH = 50
#: Connections per source address: each address has some 28,000 ports on Linux.
PER_ADDRESS = 10_000
#: Seconds until all clients are subscribed.
CONNECT_TIMEOUT = 30.0
#: Short polls without an end.
UNLIMITED = 10**12
#: The result of every order once the process has ended.
ENDED = '{"wrong": "the load generator\'s process ended"}'
#: Seconds between two looks at whether all clients have the reading that is waited for.
POLL_INTERVAL = 0.01


class LoadGenerator:
    """Clients, their event loop, and the traffic that they count."""

    def __init__(self) -> None:
        self.traffic = Traffic()
        self.host = ""
        self._address = ("127.0.0.1", 0)
        self.is_varied = False  #: no two requests on kept-alive connections are alike
        self._tls: ssl.SSLContext | None = None
        self.selector = selectors.DefaultSelector()  #: the data is what to call if readable
        self._clients: list[Client] = []
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._connections = itertools.count()
        self._number = itertools.count()  # keeps timers of the same time apart
        self._parsed: dict[bytes, Mapping[str, Any]] = {}
        self._changed: dict[int, tuple[float, Mapping[str, Any]]] = {}
        self._ticks = 0  # short polls that are still to be sent, of all clients together
        self._ticked = 0
        self._period = self._begin_at = 0.0
        self._missing: int | None = None  # clients that have this reading poll no more
        self._phase = 0.5  # the share of a client's part of the period after which it polls
        self._cpu = self._began = 0.0

    def connect(self) -> socket.socket:
        """Return a new connection to the server."""
        sock = socket.socket(socket.AF_INET6 if ":" in self._address[0] else socket.AF_INET)
        sock.settimeout(CONNECT_TIMEOUT)
        if self._address[0] == "127.0.0.1" and sys.platform == "linux":
            # Each address has ports of its own, and those of a closed connection are not free
            # for a minute: so each worker has addresses of its own.
            network = f"127.{1 + os.getpid() % 250}.{os.getpid() // 250 % 250}"
            sock.bind((f"{network}.{1 + next(self._connections) // PER_ADDRESS}", 0))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.connect(self._address)
        if self._tls is not None:
            sock = self._tls.wrap_socket(sock)
            sock.setblocking(False)
        return sock

    def vary(self, request: bytes) -> bytes:
        """Return the request, if `is_varied` unlike any before."""
        if not self.is_varied:
            return request
        number, (line, _, rest) = next(self._number), request.partition(b" HTTP/1.1\r\n")
        mark = b"&" if b"?" in line else b"?"
        return b"%b%bn=%d HTTP/1.1\r\nX-Number: %d\r\n%b" % (line, mark, number, number, rest)

    def call_at(self, when: float, callback: Callable[[], None]) -> None:
        """Call this at that time, in seconds since the epoch."""
        heapq.heappush(self._timers, (when, next(self._number), callback))

    def parse(self, message: bytes) -> Mapping[str, Any]:
        """Return the reading or signal; each is parsed once."""
        if (found := self._parsed.get(message)) is None:
            found = self._parsed[message] = json.loads(message)
        return found

    def changed(self, number: int, reading: Mapping[str, Any]) -> None:
        """Keep a reading's time and value."""
        found = reading["changed_at"], reading["value"]
        if self._changed.setdefault(number, found) != found:
            raise WrongResponse(f"reading {number} is {found} and {self._changed[number]}")

    # The orders.

    def open(
        self,
        *,
        transport: str,
        clients: int,
        address: list[Any],
        host: str,
        after: str,
        is_varied: bool = False,
        is_tls: bool = False,
        **kind: Any,
    ) -> dict[str, Any]:
        """Add clients of this kind, all subscribed.

        Returns their traffic. If `is_varied`, each request on a kept-alive connection is another.
        """
        self.is_varied = is_varied
        self._tls = (self._tls or any_certificate()) if is_tls else None
        self._address, self.host, self.traffic = (address[0], address[1]), host, Traffic()
        for begin in range(0, clients, CONNECT_BATCH):
            size = min(CONNECT_BATCH, clients - begin)
            batch = [CLIENTS[transport](self, **kind) for _ in range(size)]
            self._clients += batch
            for client in batch:
                client.subscribe(after)
            deadline = time.time() + CONNECT_TIMEOUT
            while not all(client.is_subscribed for client in batch):
                self._run(0.1)
                if time.time() > deadline:
                    raise WrongResponse(f"not all connected within {CONNECT_TIMEOUT:.0f} s")
        return {"traffic": asdict(self.traffic)}

    def begin(
        self, *, begin_at: float = 0.0, ticks: int = 0, period: float = 0.0, phase: float = 0.5
    ) -> dict[str, Any]:
        """Begin a turn: count from now on.

        From `begin_at` on, each client polls `ticks` times; with UNLIMITED ticks until the turn is
        finished. The clients' polls are spread evenly over the period. `phase`, from 0 to 1, moves
        all of them by a share of the time between two of them, which for one client is the period.
        """
        self.traffic = Traffic()
        self._parsed.clear()
        self._changed.clear()
        for client in self._clients:
            client.times.clear()
        self._begin_at, self._period, self._phase = begin_at, period, phase
        self._ticks, self._ticked = ticks * len(self._clients), 0
        self._missing = None
        self._cpu, self._began = time.process_time(), time.time()
        return {}

    def finish(self, *, sequence: int, deadline: float, brief: bool = False) -> dict[str, Any]:
        """Run until all clients have the reading, or the deadline.

        All polls of the turn are sent in any case. Returns what the clients received, and their
        traffic; if `brief`, only how many lack the reading, the cursors that they have, and when
        the last reading came.
        """
        count = max(1, len(self._clients))
        if self._ticks >= UNLIMITED:  # all poll once more
            self._ticks = (self._ticked // count + 1) * count
        polls_until = self._begin_at + self._ticks / count * self._period
        behind, give_up_at = self._clients, max(deadline, polls_until + 1)
        while (now := time.time()) < give_up_at:
            if self._ticked >= self._ticks:
                behind = [client for client in behind if client.sequence < sequence]
                asking = (c.connection.is_waiting for c in self._clients if c.ticks)
                waiting = self._period and any(asking)
                if not behind and not waiting:
                    break
                idle = any(not c.connection.is_waiting and not c.is_busy for c in behind)
                if self._period and now > polls_until and idle:
                    self._missing = sequence  # clients that have polled too early poll once more
                    self._ticks += len(self._clients)
                    polls_until += self._period
            while (left := now + POLL_INTERVAL - time.time()) > 0:
                self._run(left)
        lost = sum(client.sequence < sequence for client in self._clients)
        if brief:
            last = (at for client in self._clients for _, at in client.times.values())
            cursors = sorted({client.cursor for client in self._clients})
            return {"lost": lost, "cursors": cursors, "last": max(last, default=0.0)}
        seen = [
            [number, *(round(1e3 * (at - self._changed[number][0]), 3) for at in times)]
            for client in self._clients
            for number, times in client.times.items()
        ]
        return {
            "traffic": asdict(self.traffic),
            "seen": seen,
            "lost": lost,
            "queued": sum(len(client.queue) for client in self._clients),
            "cpu": (time.process_time() - self._cpu) / (time.time() - self._began),
        }

    def shown(self) -> dict[str, Any]:
        """Return the sequences that each client has shown, and values."""
        return {
            "shown": [list(client.times) for client in self._clients],
            "values": {number: value for number, (_, value) in self._changed.items()},
        }

    def close(self) -> dict[str, Any]:
        """Close all clients."""
        for client in self._clients:
            client.close()
        self._clients.clear()
        self._stop()
        return {}

    def _stop(self) -> None:
        self._timers.clear()
        self._ticks = self._ticked = 0

    # The loop.

    def serve(self) -> None:
        """Follow the orders on standard input until it ends."""
        self.selector.register(0, selectors.EVENT_READ, None)
        wrong, received = "", b""
        while True:
            try:
                if not self._run(1.0):
                    continue
            except (WrongResponse, OSError) as error:
                wrong = self._give_up(error)
                continue
            if not (data := os.read(0, 65536)):
                return
            *lines, received = (received + data).split(b"\n")
            for order in map(json.loads, lines):
                found: dict[str, Any] = {}
                try:
                    if not wrong:
                        found = getattr(self, order.pop("do"))(**order)
                except (WrongResponse, OSError) as error:
                    wrong = self._give_up(error)
                print(json.dumps({"wrong": wrong} if wrong else found), flush=True)

    def _give_up(self, error: Exception) -> str:
        """Watch nothing but standard input; return the reason."""
        for key in tuple(self.selector.get_map().values()):
            if key.data is not None:
                self.selector.unregister(key.fileobj)
        self._stop()
        return str(error) or repr(error)

    def _run(self, timeout: float) -> bool:
        """Handle events until the timeout; return whether there are orders."""
        now = time.time()
        if self._ticked < self._ticks:
            timeout = min(timeout, self._tick_at() - now)
        if self._timers:
            timeout = min(timeout, self._timers[0][0] - now)
        ordered = False
        for key, _ in self.selector.select(max(0.0, timeout)):
            if key.data is None:
                ordered = True
            else:
                with suppress(ssl.SSLWantReadError):  # not all of a record, or none of data
                    key.data()
        now = time.time()
        while self._timers and self._timers[0][0] <= now:
            heapq.heappop(self._timers)[2]()
        while self._ticked < self._ticks and self._tick_at() <= now:
            client = self._clients[self._ticked % len(self._clients)]
            if self._missing is None or client.sequence < self._missing:
                client.tick()
            self._ticked += 1
        return ordered

    def _tick_at(self) -> float:
        """Return when the next poll is due."""
        return self._begin_at + (self._ticked + self._phase) * self._period / len(self._clients)


class Worker:
    """A load generator in a process of its own."""

    def __init__(self) -> None:
        with on_core(-1):
            self._process = subprocess.Popen(
                [sys.executable, "-m", "bench.clients.worker"],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,
            )
        self._orders = cast(IO[bytes], self._process.stdin)
        self._results = cast(IO[bytes], self._process.stdout)

    def order(self, what: str, **options: Any) -> None:
        """Give an order; `result` then returns what came of it."""
        with suppress(BrokenPipeError):  # `result` says it
            self._orders.write(json.dumps({"do": what, **options}).encode() + b"\n")
            self._orders.flush()

    def result(self) -> dict[str, Any]:
        """Return the oldest order's result; raises WrongResponse."""
        found: dict[str, Any] = json.loads(self._results.readline() or ENDED)
        if "wrong" in found:
            raise WrongResponse(found["wrong"])
        return found

    def do(self, what: str, **options: Any) -> dict[str, Any]:
        """Give an order and return its result."""
        self.order(what, **options)
        return self.result()

    def close(self) -> None:
        """End the process."""
        with suppress(BrokenPipeError):  # it has ended by itself
            self._orders.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(TIMEOUT)
        self._process.kill()
        self._process.wait()
        self._results.close()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the program that gives the orders
    raise_descriptor_limit()
    LoadGenerator().serve()
