"""One browser of the crowd, or what publishes for it: sockets without a library, and cheap.

Whatever is heard is noted in a counter that all share, so that it can be verified byte by byte.
"""

import json
import socket
from collections import Counter

from bench.bytes_on_wire import AGENT, FETCH, WrongResponse, masked


def text_frame(message: bytes) -> bytes:
    """Return a server's frame for a short message."""
    return bytes([0x81, len(message)]) + message


def split(data: bytes) -> tuple[list[bytes], bytes]:
    """Split what a server sends into short frames and the beginning of the next."""
    frames = []
    while len(data) > 1 and len(data) >= (size := data[1] + 2):
        if data[1] > 125:
            raise WrongResponse(f"unexpected frame: {data[:2]!r}")
        frames.append(data[:size])
        data = data[size:]
    return frames, data


def parse(data: bytes) -> tuple[bytes, bytes, bytes] | None:
    """Split an answer into status line, body and what follows it; None if it is incomplete."""
    head, blank, rest = data.partition(b"\r\n\r\n")
    _, found, length = head.lower().partition(b"content-length:")
    size = int(length.split(b"\r\n", 1)[0]) if found else 0
    if not blank or len(rest) < size:
        return None
    return head.split(b"\r\n", 1)[0], rest[:size], rest[size:]


class Listener:
    """One open WebSocket. It counts whole frames, and answers pings."""

    __slots__ = ("_heard", "_receive", "_rest", "socket", "times")

    def __init__(self, sock: socket.socket, heard: Counter[bytes], early: bytes = b"") -> None:
        self.socket = sock
        self.times = 0
        self._receive = sock.recv
        self._heard = heard
        self._rest = early

    def readable(self) -> None:
        data = self._receive(4096)
        if not self._rest and data[:1] == b"\x81" and len(data) == data[1] + 2:  # nearly always
            self._heard[data] += 1
            self.times += 1
            return
        if not data:
            raise WrongResponse("the server closed a socket")
        frames, self._rest = split(self._rest + data)
        for frame in frames:
            if frame[0] == 0x89:
                self.socket.send(masked(10, frame[2:]))
            else:
                self._heard[frame] += 1
                self.times += 1


class Poller:
    """One browser that polls long: it asks, is told, and asks again for what comes after."""

    __slots__ = ("_heard", "_host", "_rest", "socket", "times")

    def __init__(self, sock: socket.socket, heard: Counter[bytes], host: str) -> None:
        self.socket = sock
        self.times = 0
        self._heard = heard
        self._host = host
        self._rest = b""

    def ask(self, cursor: str) -> None:
        self.socket.send(get(f"/update?after={cursor}", self._host))

    def readable(self) -> None:
        data = self.socket.recv(4096)
        if not data:
            raise WrongResponse("the server closed a long poll")
        answer = parse(self._rest + data)
        if answer is None:
            self._rest += data
            return
        status, body, self._rest = answer
        if b" 200 " not in status or self._rest:
            raise WrongResponse(f"unexpected answer to a long poll: {status!r}")
        self._heard[text_frame(body)] += 1
        self.times += 1
        self.ask(json.loads(body)["cursor"])


class Streamer:
    """One browser that listens to an event stream."""

    __slots__ = ("_heard", "_rest", "socket", "times")

    def __init__(self, sock: socket.socket, heard: Counter[bytes]) -> None:
        self.socket = sock
        self.times = 0
        self._heard = heard
        self._rest = b""

    def readable(self) -> None:
        data = self.socket.recv(4096)
        if not data:
            raise WrongResponse("the server ended an event stream")
        *events, self._rest = (self._rest + data).split(b"\n\n")
        for event in events:
            _, found, message = event.partition(b"data: ")
            if found:  # a comment or the retry time is no news
                self._heard[text_frame(message)] += 1
                self.times += 1


def get(path: str, host: str, template: str = FETCH) -> bytes:
    """Return a request as Chromium's fetch() or EventSource sends it."""
    return template.format(method="GET", path=path, host=host, agent=AGENT, etag="").encode()


class Trigger:
    """What makes the server tell everyone: `POST /data` on a connection that is kept alive."""

    def __init__(self, sock: socket.socket, host: str) -> None:
        self.socket = sock
        self._host = host
        self._rest = b""
        self._number = 0
        #: The frame that everyone must hear, once the server has answered.
        self.expected: bytes | None = None

    def pull(self) -> None:
        self.expected = None
        self._number += 1
        body = b'{"number":%d}' % self._number
        head = f"POST /data HTTP/1.1\r\nHost: {self._host}\r\nContent-Type: application/json\r\n"
        self.socket.sendall(b"%sContent-Length: %d\r\n\r\n%s" % (head.encode(), len(body), body))

    def readable(self) -> None:
        if not (data := self.socket.recv(4096)):
            raise WrongResponse("the server closed the publisher's connection")
        self._rest += data
        if (answer := parse(self._rest)) is not None:
            status, body, self._rest = answer
            if b" 201 " not in status:
                raise WrongResponse(f"unexpected answer to POST /data: {status!r}")
            signal = json.dumps({"cursor": json.loads(body)["cursor"]}, separators=(",", ":"))
            self.expected = text_frame(signal.encode())


class SpokenTrigger(Trigger):
    """For servers without HTTP: a WebSocket to /publish, on which any message publishes."""

    def pull(self) -> None:
        self.expected = None
        self.socket.sendall(masked(1, b"publish"))

    def readable(self) -> None:
        if not (data := self.socket.recv(4096)):
            raise WrongResponse("the server closed the publisher's connection")
        frames, self._rest = split(self._rest + data)
        for frame in frames:
            if frame[0] == 0x89:
                self.socket.send(masked(10, frame[2:]))
            else:
                self.expected = frame


class FloorTrigger(Trigger):
    """For the floor: it sends everyone the very bytes that it is sent."""

    def pull(self) -> None:
        self.expected = None
        self._number += 1
        self._frame = text_frame(b'{"cursor":"floor123-%d"}' % (100 + self._number % 900))
        self.socket.sendall(self._frame)

    def readable(self) -> None:
        if self.socket.recv(4096) != self._frame:
            raise WrongResponse("the floor did not do what it was told")
        self.expected = self._frame


TRIGGERS = {"http": Trigger, "websocket": SpokenTrigger, "floor": FloorTrigger}
