"""The crowd: thousands of cheap browsers in one process, which hold a server to its word.

All their sockets are read by one loop. Whatever is measured is verified while it is: every
member must hear every reading exactly once, byte by byte, or the measurement fails.
"""

import base64
import hashlib
import json
import multiprocessing
import os
import re
import selectors
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

from bench.bytes_on_wire import AGENT, EVENT_SOURCE, HANDSHAKE, WrongResponse
from bench.fanout.browsers import TRIGGERS, Listener, Poller, Streamer, get, parse
from pushlab.hosting.listener import raise_descriptor_limit

#: How many members arrive at a time: as many handshakes are under way at once.
ARRIVING = 50
#: Members per source address: each has its own 28,000 ephemeral ports on Linux.
PER_ADDRESS = 10_000
#: Seconds after which a member that has heard nothing counts as not told.
PATIENCE = 10.0

# Chromium's handshake, but without its offer to compress, so that everyone sends the same bytes.
_GREETING = re.sub("Sec-WebSocket-Extensions: .*\n", "", HANDSHAKE)
_KEY = base64.b64encode(bytes(16)).decode()
_ACCEPT = base64.b64encode(
    hashlib.sha1(f"{_KEY}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest()  # noqa: S324
)


class Crowd:
    """Many members of one server, and the trigger that makes it tell them."""

    def __init__(self, port: int, trigger: str = "http", *, patience: float = PATIENCE) -> None:
        raise_descriptor_limit()
        self._port = port
        self._host = f"127.0.0.1:{port}"
        self._patience = patience
        self._selector = selectors.DefaultSelector()
        self._members: list[Listener | Poller | Streamer] = []
        self._heard: Counter[bytes] = Counter()
        self._raw = trigger == "floor"
        control = self._connect()
        if trigger == "websocket":
            self._greet(control, "/publish")
            self._welcomed(control)
        self._trigger = TRIGGERS[trigger](control, self._host)
        self._selector.register(control, selectors.EVENT_READ, self._trigger)

    def close(self) -> None:
        for key in tuple(self._selector.get_map().values()):
            key.data.socket.close()
        self._selector.close()

    def join(self, count: int, after: str = "") -> None:
        """Open so many WebSockets, as browsers that know the reading `after`."""
        for begin in range(0, count, ARRIVING):
            arriving = [self._connect() for _ in range(min(ARRIVING, count - begin))]
            for sock in () if self._raw else arriving:
                self._greet(sock, f"/update?after={after}" if after else "/update")
            for sock in arriving:
                early = b"" if self._raw else self._welcomed(sock)
                sock.setblocking(False)
                self._admit(Listener(sock, self._heard, early))

    def poll(self, count: int, after: str) -> None:
        """Start so many long polls for what comes after the cursor."""
        for _ in range(count):
            poller = Poller(self._connect(), self._heard, self._host)
            poller.ask(after)
            self._admit(poller)

    def stream(self, count: int, after: str) -> None:
        """Open so many event streams for what comes after the cursor."""
        request = get(f"/update?after={after}", self._host, EVENT_SOURCE)
        for _ in range(count):
            sock = self._connect()
            sock.sendall(request)
            self._admit(Streamer(sock, self._heard))

    def tell(self) -> tuple[float, str]:
        """Trigger one telling; return the seconds until the last member heard, and the cursor.

        Raises WrongAnswer unless each member hears what the server said it would tell, once.
        """
        self._heard.clear()
        before = [member.times for member in self._members]
        began = time.perf_counter()
        self._trigger.pull()
        told = self._listen(began + self._patience) - began
        expected = self._trigger.expected
        if self._heard != Counter({expected: len(self._members)} if self._members else {}):
            raise WrongResponse(f"told {expected!r}, heard {self._heard.most_common(3)}")
        if any(m.times != times + 1 for m, times in zip(self._members, before, strict=True)):
            raise WrongResponse("one member was told twice, another not at all")
        return told, str(json.loads((expected or b"")[2:])["cursor"])

    def _listen(self, deadline: float) -> float:
        """Read until everybody has heard something; return when that was."""
        told = time.perf_counter()
        while (missing := self._heard.total() < len(self._members)) or not self._trigger.expected:
            ready = self._selector.select(deadline - time.perf_counter())
            for key, _ in ready:
                key.data.readable()
            if missing:
                told = time.perf_counter()
            if told > deadline:
                heard, all_of_them = self._heard.total(), len(self._members)
                raise WrongResponse(f"{heard} of {all_of_them} were told in {self._patience:.0f} s")
        return told

    def rest(self, seconds: float) -> None:
        """Listen to whatever comes meanwhile; nothing but pings should."""
        self._heard.clear()
        until = time.perf_counter() + seconds
        while (left := until - time.perf_counter()) > 0:
            for key, _ in self._selector.select(left):
                key.data.readable()
        if self._heard:
            raise WrongResponse(f"heard without a reason: {self._heard.most_common(3)}")

    def fetch(self, connections: int, requests: int) -> None:
        """GET /data so many times on each of the connections, always one request at a time.

        Raises WrongAnswer unless every answer is the newest reading, which the first one is.
        """
        request = get("/data", self._host)
        with selectors.DefaultSelector() as selector:
            rests: dict[socket.socket, bytes] = {}
            left, first = {}, None
            for _ in range(connections):
                sock = self._connect()
                sock.sendall(request)
                rests[sock], left[sock] = b"", requests
                selector.register(sock, selectors.EVENT_READ, sock)
            while left:
                for key, _ in selector.select(self._patience):
                    sock = key.data
                    rests[sock] += sock.recv(4096)
                    if (answer := parse(rests[sock])) is None:
                        continue
                    status, body, rests[sock] = answer
                    first = first or body
                    if b" 200 " not in status or body != first or "cursor" not in json.loads(body):
                        raise WrongResponse(f"GET /data: {status!r} {body!r}")
                    left[sock] -= 1
                    if left[sock]:
                        sock.sendall(request)
                    else:
                        del left[sock]
                        selector.unregister(sock)
                        sock.close()

    def _admit(self, member: Listener | Poller | Streamer) -> None:
        self._members.append(member)
        self._selector.register(member.socket, selectors.EVENT_READ, member)

    def _connect(self) -> socket.socket:
        sock = socket.socket()
        sock.settimeout(self._patience)
        if sys.platform == "linux" and (address := len(self._members) // PER_ADDRESS):
            sock.bind((f"127.0.0.{1 + address}", 0))
        sock.connect(("127.0.0.1", self._port))
        return sock

    def _greet(self, sock: socket.socket, path: str) -> None:
        request = _GREETING.format(path=path, host=self._host, agent=AGENT, key=_KEY)
        sock.sendall(request.encode())

    def _welcomed(self, sock: socket.socket) -> bytes:
        """Read the answer to a handshake; return what came right behind it."""
        data = b""
        while b"\r\n\r\n" not in data:
            if not (piece := sock.recv(4096)):
                raise WrongResponse(f"the server hung up on a handshake: {data!r}")
            data += piece
        head, _, early = data.partition(b"\r\n\r\n")
        if b" 101 " not in head.split(b"\r\n", 1)[0] or _ACCEPT not in head:
            raise WrongResponse(f"unexpected answer to a handshake: {head!r}")
        return early


def _live(commands: Connection, core: int | None, port: int, trigger: str) -> None:
    """Be a crowd, and do what the other process says, whatever Ctrl-C may mean to that."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if core is not None:
        os.sched_setaffinity(0, {core})
    try:
        crowd = Crowd(port, trigger)
    except (WrongResponse, OSError) as error:
        commands.send(error)
        return
    commands.send(None)
    while True:
        try:
            name, arguments = commands.recv()
        except EOFError:
            break
        try:
            answer = getattr(crowd, name)(*arguments)
        except (WrongResponse, OSError) as error:
            answer = error
        try:
            commands.send(answer)
        except BrokenPipeError:
            break  # it did not wait for the answer
    crowd.close()


class DistantCrowd:
    """The same in a process of its own, so that its work is not taken for the server's."""

    def __init__(self, port: int, trigger: str, *, core: int | None = None) -> None:
        context = multiprocessing.get_context("spawn")
        self._commands, theirs = context.Pipe()
        self._process = context.Process(
            target=_live, args=(theirs, core, port, trigger), daemon=True
        )
        self._process.start()
        theirs.close()
        self._answer()

    def _order(self, name: str, *arguments: Any) -> Any:
        self._commands.send((name, arguments))
        return self._answer()

    def _answer(self) -> Any:
        try:
            answer = self._commands.recv()
        except EOFError as error:
            raise WrongResponse("the crowd's process ended") from error
        if isinstance(answer, Exception):
            raise answer
        return answer

    def join(self, count: int, after: str = "") -> None:
        self._order("join", count, after)

    def poll(self, count: int, after: str) -> None:
        self._order("poll", count, after)

    def stream(self, count: int, after: str) -> None:
        self._order("stream", count, after)

    def tell(self) -> tuple[float, str]:
        seconds, cursor = self._order("tell")
        return float(seconds), str(cursor)

    def rest(self, seconds: float) -> None:
        self._order("rest", seconds)

    def fetch(self, connections: int, requests: int) -> None:
        self._order("fetch", connections, requests)

    def close(self) -> None:
        self._commands.close()
        self._process.join(PATIENCE)


@contextmanager
def crowd(port: int, trigger: str, *, core: int | None = None) -> Iterator[DistantCrowd]:
    """Have a crowd for as long as needed."""
    there = DistantCrowd(port, trigger, core=core)
    try:
        yield there
    finally:
        there.close()
