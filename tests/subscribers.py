"""Many subscribers in one process, each checking what it receives.

`python -m tests.subscribers PORT LAST '[["sse", "log/a", 50], ...]'`: so many of each transport and
topic on this port of 127.0.0.1. It prints "ready" once each has received something, and what each
has seen as JSON, once all have the value {"n": LAST}, or at SIGTERM, or when the program that has
started it ends. SIGUSR1 cuts all connections.
"""

from gevent import monkey

monkey.patch_all()

import json
import os
import random
import signal
import socket
import sys
import time
from contextlib import suppress
from functools import lru_cache
from typing import Any, BinaryIO, NamedTuple

import gevent
from gevent.event import Event

from tests.clients import CLOSE, HANG_TIMEOUT, PING, PONG, UPGRADE, frame

#: Seconds, at most, until a subscriber that was cut off comes back, and between two short polls.
PAUSE = 0.2


class Message(NamedTuple):
    epoch: str
    sequence: int
    number: int  #: that was published, or -1
    is_reset: bool


def make_message(found: dict[str, Any]) -> Message:
    epoch, _, sequence = found["cursor"].rpartition("-")
    return Message(epoch, int(sequence), found.get("value", {}).get("n", -1), "reset" in found)


@lru_cache(4096)
def parse(text: bytes) -> Message:
    """Parse a message, once for all subscribers."""
    return make_message(json.loads(text))


def read(stream: BinaryIO, size: int) -> bytes:
    """Read so many bytes; raise EOFError if there are fewer."""
    found = stream.read(size)
    if len(found) < size:
        raise EOFError
    return found


class Subscriber:
    """Follows a topic, and comes back with its cursor whenever it is cut off."""

    def __init__(self, port: int, last: int, transport: str, topic: str) -> None:
        self.port, self.last, self.transport, self.topic = port, last, transport, topic
        self.is_log = topic.startswith("log/")
        self.epoch, self.sequence, self.number = "", 0, -1
        self.received = self.resets = self.connects = 0
        self.silence, self.received_at = 0.0, time.monotonic()
        self.wrong: list[str] = []
        self.socket: socket.socket | None = None
        self.is_stopped = False

    @property
    def is_done(self) -> bool:
        return self.number == self.last

    def result(self) -> dict[str, Any]:
        names = ("transport", "topic", "number", "received", "resets", "connects", "silence")
        return {**{name: getattr(self, name) for name in names}, "wrong": self.wrong[:3]}

    def run(self) -> None:
        while not self.is_stopped:
            try:
                self._follow()
            except (OSError, EOFError):  # it was cut off, or refused for the moment
                pass
            except Exception as error:
                self.wrong.append(repr(error))
            time.sleep(PAUSE * random.random())

    def _follow(self) -> None:
        self.connects += 1
        with socket.create_connection(("127.0.0.1", self.port), HANG_TIMEOUT) as sock:
            self.socket = sock
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with sock.makefile("rb", 65536) as stream:
                getattr(self, f"_{self.transport}")(sock, stream)

    def take(self, message: Message) -> None:
        """Check a message, and go on from there."""
        now = time.monotonic()
        if self.received:
            self.silence = max(self.silence, now - self.received_at)
        self.received_at = now
        if message.is_reset:
            self.resets += 1
            if message.epoch == self.epoch:
                self._is_wrong("a reset in the same epoch", message)
        elif self.is_log and self.epoch:
            if message.epoch != self.epoch:
                self._is_wrong("another epoch without a reset", message)
            elif message.sequence != self.sequence + 1:
                self._is_wrong("another sequence than the next", message)
            elif message.number not in (self.number, self.number + 1) and not self.resets:
                self._is_wrong("another number than the next", message)
        elif message.epoch == self.epoch and message.sequence <= self.sequence:
            self._is_wrong("a sequence that goes back", message)
        if 0 <= message.number < self.number:
            self._is_wrong("a number that goes back", message)
        self.received += 1
        self.epoch, self.sequence = message.epoch, message.sequence
        self.number = max(self.number, message.number)

    def _is_wrong(self, what: str, message: Message) -> None:
        had = f"{self.epoch}-{self.sequence} with {self.number}"
        self.wrong.append(f"{what}: after {had} came {message}")

    @property
    def _update(self) -> str:
        after = f"{self.epoch}-{self.sequence}" if self.epoch else ""
        return f"update?topic={self.topic}&carry=1&after={after}"

    def _send_get(self, sock: socket.socket, path: str, *headers: str) -> None:
        lines = (f"GET /push/{path} HTTP/1.1", f"Host: 127.0.0.1:{self.port}", *headers)
        sock.sendall("\r\n".join((*lines, "", "")).encode())

    @staticmethod
    def _read_head(stream: BinaryIO) -> tuple[int, dict[bytes, bytes]]:
        """Return the status, and the headers by their names in small letters."""
        if not (line := stream.readline()):
            raise EOFError
        headers = {}
        while (header := stream.readline()) not in (b"\r\n", b""):
            name, _, value = header.partition(b":")
            headers[name.lower()] = value.strip()
        return int(line.split()[1]), headers

    def _get(
        self, sock: socket.socket, stream: BinaryIO, path: str, *headers: str
    ) -> tuple[int, bytes]:
        self._send_get(sock, path, *headers)
        status, found = self._read_head(stream)
        body = read(stream, int(found.get(b"content-length", 0)))
        if status not in (200, 204, 304):
            raise EOFError  # a proxy's 502, or a server's 503: it comes back
        return status, body

    def _websocket(self, sock: socket.socket, stream: BinaryIO) -> None:
        self._send_get(sock, self._update, *(f"{name}: {value}" for name, value in UPGRADE.items()))
        if self._read_head(stream)[0] != 101:
            return
        while True:
            head = read(stream, 2)
            opcode, size = head[0] & 15, head[1]
            if size == 126:
                size = int.from_bytes(read(stream, 2), "big")
            payload = read(stream, size)
            if opcode == CLOSE:
                return
            if opcode == PING:
                sock.sendall(frame(PONG, payload))
            else:
                self.take(parse(payload))

    def _sse(self, sock: socket.socket, stream: BinaryIO) -> None:
        self._send_get(sock, self._update, "Accept: text/event-stream")
        if self._read_head(stream)[0] != 200:
            return
        rest = b""
        while size := int(stream.readline() or b"0", 16):  # of a chunk, which may end anywhere
            *lines, rest = (rest + read(stream, size)).split(b"\n")
            stream.readline()
            for line in lines:
                if line.startswith(b"data: "):
                    self.take(parse(line[6:]))

    def _longpoll(self, sock: socket.socket, stream: BinaryIO) -> None:
        while not self.is_stopped:
            self._ask(sock, stream, self._update)

    def _poll(self, sock: socket.socket, stream: BinaryIO) -> None:
        """Poll; a log by a long poll that does not wait, as `/data` has but the newest."""
        while not self.is_stopped:
            if self.is_log:
                self._ask(sock, stream, f"{self._update}&timeout=0")
            else:
                known = f'If-None-Match: "{self.epoch}-{self.sequence}"'
                self._ask(sock, stream, f"data?topic={self.topic}", known)
            time.sleep(PAUSE * random.random())

    def _ask(self, sock: socket.socket, stream: BinaryIO, path: str, *headers: str) -> None:
        status, body = self._get(sock, stream, path, *headers)
        if status == 200:
            found = json.loads(body)
            for message in found if isinstance(found, list) else [found]:
                self.take(make_message(message))


def main(port: str, last: str, kinds: str) -> None:
    subscribers = [
        Subscriber(int(port), int(last), transport, topic)
        for transport, topic, number in json.loads(kinds)
        for _ in range(number)
    ]

    def cut() -> None:
        for each in subscribers:
            if each.socket is not None:
                with suppress(OSError):  # it is closed already
                    each.socket.shutdown(socket.SHUT_RDWR)

    ended = Event()
    gevent.signal_handler(signal.SIGUSR1, cut)
    gevent.signal_handler(signal.SIGTERM, ended.set)
    for each in subscribers:
        gevent.spawn(each.run)
    parent = os.getppid()

    def wait(name: str) -> None:
        while not all(getattr(each, name) for each in subscribers):
            if ended.wait(0.05) or os.getppid() != parent:
                break

    wait("received")
    print("ready", flush=True)
    wait("is_done")
    print(json.dumps([each.result() for each in subscribers]), flush=True)
    os._exit(0)  # without waiting for them


if __name__ == "__main__":
    main(*sys.argv[1:])
