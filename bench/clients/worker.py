"""The audience: the browsers of one way of hearing, in a process of their own.

`python -m bench.clients.worker` obeys one JSON object per line of standard input and answers
each with one; between two of them it goes on listening. It ends when its standard input does.
bench/driver.py gives the orders.
"""

import heapq
import itertools
import json
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from bench.bytes_on_wire import WrongResponse
from bench.clients import CLIENTS
from bench.clients.base import Client
from bench.results import Traffic
from pushlab.hosting.listener import raise_descriptor_limit

#: How many clients begin to listen at a time: as many handshakes are under way at once.
ARRIVING = 50
#: Connections per source address: each address has some 28,000 ports on Linux.
PER_ADDRESS = 10_000
#: Seconds until everybody who is to listen does.
PATIENCE = 30.0
#: As many questions as there is time for.
UNLIMITED = 10**12
#: Seconds between two looks at whether everybody has what is to be had.
GLANCE = 0.01


class Audience:
    """Some browsers, their clock and what they are charged."""

    def __init__(self) -> None:
        self.traffic = Traffic()
        self.host = ""
        self._address = ("127.0.0.1", 0)
        self._selector = selectors.DefaultSelector()
        self._clients: list[Client] = []
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._connections = itertools.count()
        self._number = itertools.count()  # timers of the same time are kept apart by it
        self._changed_at: dict[int, float] = {}
        self._values: dict[int, Mapping[str, Any]] = {}
        self._ticks = 0  # questions that are still to be asked, of all clients together
        self._ticked = 0
        self._period = self._begin_at = 0.0
        self._lacking: int | None = None  # who has this reading asks no more
        self._phase = 0.5  # the share of a client's part of the period after which it asks
        self._cpu = self._began = 0.0
        self._wrong = ""

    # What a client finds around it.

    def connect(self) -> socket.socket:
        sock = socket.socket(socket.AF_INET6 if ":" in self._address[0] else socket.AF_INET)
        sock.settimeout(PATIENCE)
        if self._address[0] == "127.0.0.1" and sys.platform == "linux":
            # Each address has ports of its own, and those of a connection that is over are not
            # free for a minute: so each audience has addresses of its own.
            network = f"127.{1 + os.getpid() % 250}.{os.getpid() // 250 % 250}"
            sock.bind((f"{network}.{1 + next(self._connections) // PER_ADDRESS}", 0))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.connect(self._address)
        return sock

    def watch(self, sock: socket.socket, readable: Callable[[], None]) -> None:
        self._selector.register(sock, selectors.EVENT_READ, readable)

    def unwatch(self, sock: socket.socket) -> None:
        self._selector.unregister(sock)

    def call_at(self, when: float, callback: Callable[[], None]) -> None:
        heapq.heappush(self._timers, (when, next(self._number), callback))

    def changed(self, number: int, changed_at: float, value: Mapping[str, Any]) -> None:
        if self._changed_at.setdefault(number, changed_at) != changed_at:
            raise WrongResponse(
                f"reading {number} changed at {changed_at}, for others at another time"
            )
        if self._values.setdefault(number, value) != value:
            raise WrongResponse(f"reading {number} is {value} here and something else there")

    # What it is told to do.

    def open(
        self, *, transport: str, carry: bool, clients: int, address: list[Any], host: str,
        after: str, processing_time: float,
    ) -> dict[str, Any]:  # fmt: skip
        """Have so many clients, all of them listening; return what that cost."""
        self._address, self.host, self.traffic = (address[0], address[1]), host, Traffic()
        for begin in range(0, clients, ARRIVING):
            arriving = [
                CLIENTS[transport](self, carry=carry, processing_time=processing_time)
                for _ in range(min(ARRIVING, clients - begin))
            ]
            for client in arriving:
                client.listen(after)
                self._clients.append(client)
            deadline = time.time() + PATIENCE
            while not all(client.is_listening for client in arriving):
                self._listen(0.1)
                if time.time() > deadline:
                    raise WrongResponse(f"not everybody could listen within {PATIENCE:.0f} s")
        return {"traffic": asdict(self.traffic)}

    def begin(
        self, *, begin_at: float, ticks: int, period: float, phase: float = 0.5
    ) -> dict[str, Any]:
        """Begin a turn: from now on count; from that time on ask, so many times each.

        With ENDLESS ticks they ask until the turn is finished. The clients' questions are spread
        evenly over the period. `phase`, from 0 to 1, moves all of them by a share of the time
        between two of them, which for one client is the period.
        """
        self.traffic = Traffic()
        self._changed_at.clear()
        self._values.clear()
        for client in self._clients:
            client.news.clear()
            client.trace = None
        if self._clients:
            self._clients[len(self._clients) // 2].trace = []
        self._begin_at, self._period, self._phase = begin_at, period, phase
        self._ticks, self._ticked = ticks * len(self._clients), 0
        self._lacking = None
        self._cpu, self._began = time.process_time(), time.time()
        return {}

    def finish(self, *, sequence: int, deadline: float) -> dict[str, Any]:
        """Listen until all clients have the reading of that number, or the time is over.

        The questions of the turn are asked in any case. Returns what everybody heard and paid.
        """
        many = max(1, len(self._clients))
        if self._ticks >= UNLIMITED:  # everybody asks once more
            self._ticks = (self._ticked // many + 1) * many
        asked_until = self._begin_at + self._ticks / many * self._period
        behind, give_up_at = self._clients, max(deadline, asked_until + 1)
        while (now := time.time()) < give_up_at:
            if self._ticked >= self._ticks:
                behind = [client for client in behind if client.sequence < sequence]
                waiting = self._period and any(client.line.is_waiting for client in self._clients)
                if not behind and not waiting:
                    break
                if self._period and now > asked_until and any(map(_has_to_ask, behind)):
                    self._lacking = sequence  # who has asked too early asks once more
                    self._ticks += len(self._clients)
                    asked_until += self._period
            self._listen_until(now + GLANCE)
        seen = [
            [number, *(_milliseconds(at - self._changed_at[number]) for at in times)]
            for client in self._clients
            for number, times in client.news.items()
        ]
        traced = self._clients[len(self._clients) // 2].trace if self._clients else None
        return {
            "traffic": asdict(self.traffic),
            "seen": seen,
            "lost": sum(client.sequence < sequence for client in self._clients),
            "queued": sum(client.waiting for client in self._clients),
            "trace": traced or [],
            "changed_at": self._changed_at,
            "cpu": (time.process_time() - self._cpu) / (time.time() - self._began),
        }

    def show(self) -> dict[str, Any]:
        """Tell what each client has, in the order in which it came: numbers, and all values."""
        return {
            "shown": [list(client.news) for client in self._clients],
            "values": self._values,
        }

    def leave(self) -> dict[str, Any]:
        """Have no clients any more."""
        for client in self._clients:
            client.leave()
        self._clients.clear()
        self._timers.clear()
        self._ticks = self._ticked = 0
        return {}

    # The loop.

    def obey(self) -> None:
        """Do what the lines of standard input say until it ends."""
        self._selector.register(0, selectors.EVENT_READ, None)
        orders = b""
        while True:
            try:
                if not self._listen(1.0):
                    continue
            except (WrongResponse, OSError) as error:
                self._give_up(error)
                continue
            if not (data := os.read(0, 65536)):
                return
            orders += data
            *lines, orders = orders.split(b"\n")
            for line in lines:
                self._obey(json.loads(line))

    def _obey(self, order: dict[str, Any]) -> None:
        try:
            answer = (
                {"wrong": self._wrong} if self._wrong else getattr(self, order.pop("do"))(**order)
            )
        except (WrongResponse, OSError) as error:
            self._give_up(error)
            answer = {"wrong": self._wrong}
        sys.stdout.write(json.dumps(answer, separators=(",", ":")) + "\n")
        sys.stdout.flush()

    def _give_up(self, error: Exception) -> None:
        """Remember what went wrong, and listen to nobody but the driver any more."""
        self._wrong = self._wrong or str(error) or repr(error)
        for key in tuple(self._selector.get_map().values()):
            if key.data is not None:
                self._selector.unregister(key.fileobj)
        self._timers.clear()
        self._ticks = self._ticked = 0

    def _listen_until(self, moment: float) -> None:
        while (left := moment - time.time()) > 0:
            self._listen(left)

    def _listen(self, timeout: float) -> bool:
        """Listen for so long at most; return whether there are orders."""
        now = time.time()
        if self._ticked < self._ticks:
            timeout = min(timeout, self._tick_at() - now)
        if self._timers:
            timeout = min(timeout, self._timers[0][0] - now)
        ordered = False
        for key, _ in self._selector.select(max(0.0, timeout)):
            if key.data is None:
                ordered = True
            else:
                key.data()
        now = time.time()
        while self._timers and self._timers[0][0] <= now:
            heapq.heappop(self._timers)[2]()
        while self._ticked < self._ticks and self._tick_at() <= now:
            client = self._clients[self._ticked % len(self._clients)]
            if self._lacking is None or client.sequence < self._lacking:
                client.tick()
            self._ticked += 1
        return ordered

    def _tick_at(self) -> float:
        """Return when the next question is due: they are spread evenly over a period."""
        return self._begin_at + (self._ticked + self._phase) * self._period / len(self._clients)


def _has_to_ask(client: Client) -> bool:
    """Tell whether only another question can bring it the news: none is under way."""
    return not client.line.is_waiting and not client.is_busy


def _milliseconds(seconds: float) -> float:
    return round(1e3 * seconds, 3)


def main() -> None:
    """Obey, whatever Ctrl-C may mean to the others of the terminal."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise_descriptor_limit()
    Audience().obey()


if __name__ == "__main__":
    main()
