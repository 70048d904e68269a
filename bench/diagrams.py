"""Record each transport at work, and draw that.

`python -m bench.diagrams` starts serve.py behind the relay of a far port, follows it with the
headless clients of compare.py, and notes when each message left one side and arrived at the other,
by one clock. That is docs/explanation/transports/recording.json; bench/report/diagrams.py draws it.
Each kind is recorded several times, and the recording that other programs have disturbed least is
kept.
"""

import json
import re
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from functools import partial
from itertools import pairwise
from typing import Any

from bench.clients.base import sequence
from bench.clients.frames import read_frame
from bench.clients.http import read_chunks, read_response
from bench.clients.publisher import Posting
from bench.clients.worker import LoadGenerator
from bench.environment import about
from bench.report.diagrams import KINDS, RECORDING, Kind, draw_all
from bench.servers import HTTP_SOURCE, started
from lab.far_ports import FarPort

#: Milliseconds of a round trip.
DISTANCE = 200.0
#: Seconds from the beginning at which the data changes: alone, then three times within the time of
#: a round trip, then alone.
CHANGES = (0.65, 1.4, 1.46, 1.52, 2.2)
#: Seconds that are recorded, and the seconds between two short polls.
LENGTH, PERIOD = 2.95, 0.5
#: Recordings of each kind; the one whose messages travelled fastest is kept.
RUNS = 5


class Log:
    """When the bytes of one direction passed a place."""

    def __init__(self) -> None:
        self.data = b""
        self._marks: list[tuple[int, float]] = []  # the bytes until then, and the time

    def add(self, data: bytes) -> None:
        """Note bytes that pass now."""
        self.data += data
        self._marks.append((len(self.data), time.time()))

    def passed(self, count: int) -> float:
        """Return when so many bytes had passed."""
        return next(at for until, at in self._marks if until >= count)


class RecordedSocket(socket.socket):
    """A client's socket that notes what passes."""

    up: Log
    down: Log

    def sendall(self, data: Any, flags: int = 0) -> None:
        self.up.add(bytes(data))
        super().sendall(data, flags)

    def recv(self, bufsize: int, flags: int = 0) -> bytes:
        data = super().recv(bufsize, flags)
        self.down.add(data)
        return data


class Recorder(LoadGenerator):
    """One client, and a tap at the server.

    What the client's bytes and the server's pass is noted at both ends. A kind has one connection.
    """

    def __init__(self, server_port: int) -> None:
        super().__init__()
        self.ends = {end: (Log(), Log()) for end in ("browser", "server")}  #: bytes up, and down
        self._server_port = server_port
        self._sockets: list[socket.socket] = []
        self._tap = socket.create_server(("127.0.0.1", 0))
        self.tap_port: int = self._tap.getsockname()[1]
        self.selector.register(self._tap, selectors.EVENT_READ, self._accept)

    def connect(self) -> socket.socket:
        """Return a new connection, whose bytes are noted."""
        plain = super().connect()
        timeout = plain.gettimeout()
        recorded = RecordedSocket(fileno=plain.detach())
        recorded.settimeout(timeout)
        recorded.up, recorded.down = self.ends["browser"]
        return recorded

    def _accept(self) -> None:
        client, _ = self._tap.accept()
        server = socket.create_connection(("127.0.0.1", self._server_port))
        up, down = self.ends["server"]
        for one, other, log in ((client, server, up), (server, client, down)):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._sockets.append(one)
            self.selector.register(one, selectors.EVENT_READ, partial(self._pass, one, other, log))

    def _pass(self, one: socket.socket, other: socket.socket, log: Log) -> None:
        data = one.recv(65536)
        if not data:
            self.selector.unregister(one)
            return
        log.add(data)
        other.sendall(data)

    def run_until(self, when: float) -> None:
        """Let the client and the tap work until that time."""
        while (left := when - time.time()) > 0:
            self._run(left)

    def shown_at(self) -> dict[int, float]:
        """Return by sequence when the client showed a reading."""
        (client,) = self._clients
        return {number: shown for number, (_, shown) in client.times.items()}

    def end(self) -> None:
        """Close everything."""
        self.close()
        for each in (self._tap, *self._sockets):
            with suppress(KeyError):
                self.selector.unregister(each)
            each.close()


def record(kind: Kind) -> dict[str, Any]:
    """Follow a server; return what passed, in seconds."""
    with ExitStack() as stack:
        port = stack.enter_context(started("serve.py", options=HTTP_SOURCE)).port
        publisher = stack.enter_context(closing(Posting("127.0.0.1", port)))
        for _ in range(10):
            publisher.change()  # so that all cursors here have numbers of two digits
        recorder = Recorder(port)
        stack.callback(recorder.end)
        far = FarPort(DISTANCE, host="127.0.0.1", server_port=recorder.tap_port, prefer=0)
        stack.callback(far.close)
        far.wait_until_open()
        first, begin_at = sequence(publisher.cursor), time.time()
        published: dict[int, float] = {}

        def publish() -> None:
            for after in CHANGES:
                time.sleep(max(0.0, begin_at + after - time.time()))
                published[sequence(publisher.cursor) + 1] = time.time()
                publisher.change()

        thread = threading.Thread(target=publish)
        thread.start()
        try:
            recorder.open(
                transport=kind.transport,
                carry=kind.carry,
                clients=1,
                address=["127.0.0.1", far.port],
                host=f"127.0.0.1:{far.port}",
                after=publisher.cursor,
            )
            if kind.transport == "poll":
                recorder.begin(begin_at=begin_at, ticks=int(LENGTH / PERIOD), period=PERIOD)
            recorder.run_until(begin_at + LENGTH)
            shown = recorder.shown_at()
        finally:
            thread.join()

    def since(at: float) -> float:
        return round(at - begin_at, 4)

    return {
        "changes": [[number - first, since(at)] for number, at in published.items()],
        "messages": [
            {**message, "sent": since(message["sent"]), "received": since(message["received"])}
            for message in sorted(messages(recorder, first), key=lambda each: each["sent"])
            if message["received"] < begin_at + LENGTH
        ],
        "shown": [[number - first, since(at)] for number, at in shown.items()],
    }


def messages(recorder: Recorder, first: int) -> Iterator[dict[str, Any]]:
    """Yield what passed: the sender, what, and when."""
    (browser_up, browser_down), (server_up, server_down) = recorder.ends.values()
    whole: list[tuple[str, bytes, str, Log, Log]] = []
    for request in re.findall(rb"(?s).+?\r\n\r\n", browser_up.data):
        whole.append(("browser", request, _request(request), browser_up, server_up))
    for message, what in _from_server(server_down.data):
        whole.append(("server", message, what, server_down, browser_down))
    begin = {"browser": 0, "server": 0}
    for sender, message, what, at_sender, at_receiver in whole:
        end = begin[sender] + len(message)
        if end > len(at_receiver.data):
            continue  # still under way
        news = re.search(rb'"cursor":"\w+-(\d+)"', message)
        yield {
            "from": sender,
            "what": re.sub(r"\w{8}-(\d+)", lambda found: f"#{int(found[1]) - first}", what),
            "bytes": len(message),
            "sent": at_sender.passed(begin[sender] + 1),
            "received": at_receiver.passed(end),
            **({"reading": int(news[1]) - first} if news else {}),
        }
        begin[sender] = end


def _request(request: bytes) -> str:
    line, _, headers = request.decode().partition(" HTTP/1.1\r\n")
    known = re.search(r'If-None-Match: "(.*)"', headers)
    return f"{line}, If-None-Match: {known[1]}" if known else line


def _from_server(data: bytes) -> Iterator[tuple[bytes, str]]:
    """Yield each response, event or frame, and what it is."""
    read: Callable[[bytes], tuple[int, str] | None] = _response
    while data and (found := read(data)):
        size, what = found
        yield data[:size], what
        data = data[size:]
        if what.startswith("101"):
            read = _frame
        elif what.endswith("stream"):
            read = _chunk


def _response(data: bytes) -> tuple[int, str] | None:
    head, _, _ = data.partition(b"\r\n\r\n")
    status = head[9:].partition(b"\r\n")[0].decode()
    if b"text/event-stream" in head:
        return len(head) + 4, f"{status}, a stream"
    found = read_response(data)
    return (found.size, status) if found else None


def _chunk(data: bytes) -> tuple[int, str] | None:
    head, _, _ = data.partition(b"\r\n")
    size = len(head) + 2 + int(head, 16) + 2
    text, _ = read_chunks(data[:size])
    if not text:
        return None
    return size, "event" if b"data:" in text else text.decode().strip()


def _frame(data: bytes) -> tuple[int, str] | None:
    found = read_frame(data)
    return (found.size, "text frame") if found else None


def calmest(kind: Kind) -> dict[str, Any]:
    """Return the fastest of RUNS recordings."""

    def delay(found: dict[str, Any]) -> float:
        """Return how long messages travelled, and plain requests took."""
        rows = found["messages"][1:]  # without the one that waits until the connection is open
        pairs = (pair for pair in pairwise(rows) if pair[0]["what"].startswith("GET /data"))
        travelled = sum(row["received"] - row["sent"] for row in rows) / len(rows)
        return float(travelled + sum(response["sent"] - row["received"] for row, response in pairs))

    return min((record(kind) for _ in range(RUNS)), key=delay)


def main() -> None:
    """Record every kind, and draw it."""
    RECORDING.parent.mkdir(exist_ok=True)
    recording = {
        "command": "python -m bench.diagrams",
        "about": about(),
        "rtt_ms": DISTANCE,
        "seconds": LENGTH,
        "kinds": {name: calmest(kind) for name, kind in KINDS.items()},
    }
    RECORDING.write_text(json.dumps(recording, indent=1) + "\n")
    draw_all()


if __name__ == "__main__":
    main()
