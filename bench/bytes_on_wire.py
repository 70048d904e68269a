"""Count what one update costs on the wire, per transport: `python -m bench.bytes_on_wire`.

Starts serve.py, speaks to it as Chromium does (the same requests, header by header, on kept-alive
connections) and counts every byte of HTTP and WebSocket that passes the socket, both ways. TCP
and IP add 40 bytes or more per packet, which are not counted.
"""

import argparse
import base64
import http.client
import json
import os
import re
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Any, NamedTuple

from bench.environment import about
from bench.processes import ROOT
from bench.report.tables import as_rst
from bench.results import as_json
from bench.servers import started

RESULT = ROOT / "docs" / "results" / "wire.json"
COMMAND = "python -m bench.bytes_on_wire"

#: What changes.
VALUE: dict[str, Any] = {"cpu_percent": 12.5, "memory_percent": 41.0, "load": 0.42}

#: As sent by Chromium 156 on Linux, past its cache; a test compares them with the browser's own.
#: {etag} is what the page adds if it has an answer to ask about.
FETCH = """\
{method} {path} HTTP/1.1\r
Host: {host}\r
Connection: keep-alive\r
Pragma: no-cache\r
Cache-Control: no-cache\r
{etag}sec-ch-ua-platform: "Linux"\r
User-Agent: {agent}\r
sec-ch-ua: "Not:A-Brand";v="8", "Chromium";v="156"\r
sec-ch-ua-mobile: ?0\r
Accept: */*\r
Sec-Fetch-Site: same-origin\r
Sec-Fetch-Mode: cors\r
Sec-Fetch-Dest: empty\r
Referer: http://{host}/\r
Accept-Encoding: gzip, deflate, br, zstd\r
Accept-Language: en-US,en;q=0.9\r
\r
"""
EVENT_SOURCE = """\
GET {path} HTTP/1.1\r
Host: {host}\r
Connection: keep-alive\r
Pragma: no-cache\r
Cache-Control: no-cache\r
sec-ch-ua-platform: "Linux"\r
User-Agent: {agent}\r
Accept: text/event-stream\r
sec-ch-ua: "Not:A-Brand";v="8", "Chromium";v="156"\r
sec-ch-ua-mobile: ?0\r
Sec-Fetch-Site: same-origin\r
Sec-Fetch-Mode: cors\r
Sec-Fetch-Dest: empty\r
Referer: http://{host}/\r
Accept-Encoding: gzip, deflate, br, zstd\r
Accept-Language: en-US,en;q=0.9\r
\r
"""
HANDSHAKE = """\
GET {path} HTTP/1.1\r
Host: {host}\r
Connection: Upgrade\r
Pragma: no-cache\r
Cache-Control: no-cache\r
User-Agent: {agent}\r
Upgrade: websocket\r
Origin: http://{host}\r
Sec-WebSocket-Version: 13\r
Accept-Encoding: gzip, deflate, br, zstd\r
Accept-Language: en-US,en;q=0.9\r
Sec-WebSocket-Key: {key}\r
Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r
\r
"""
#: What somebody sends who reloads the page.
NAVIGATE = """\
GET {path} HTTP/1.1\r
Host: {host}\r
Connection: keep-alive\r
Cache-Control: max-age=0\r
sec-ch-ua: "Not:A-Brand";v="8", "Chromium";v="156"\r
sec-ch-ua-mobile: ?0\r
sec-ch-ua-platform: "Linux"\r
Upgrade-Insecure-Requests: 1\r
User-Agent: {agent}\r
Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/jxl,image/avif,image/webp,\
image/apng,*/*;q=0.8,application/signed-exchange;v=b3;q=0.7\r
Sec-Fetch-Site: none\r
Sec-Fetch-Mode: navigate\r
Sec-Fetch-User: ?1\r
Sec-Fetch-Dest: document\r
Accept-Encoding: gzip, deflate, br, zstd\r
Accept-Language: en-US,en;q=0.9\r
{etag}\r
"""
AGENT = (
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/156.0.0.0 Safari/537.36"
)


class WrongResponse(Exception):
    """The server did not do what is being measured."""


def masked(opcode: int, payload: bytes) -> bytes:
    """Return a client's frame for a short payload, masked with zeros, which leaves it as it is."""
    return bytes([0x80 | opcode, 0x80 | len(payload), 0, 0, 0, 0]) + payload


class Cost(NamedTuple):
    """Bytes up (browser to server) and down, and how many requests went up."""

    requests: int
    up: int
    down: int

    @property
    def total(self) -> int:
        return self.up + self.down


class Wire:
    """A connection to the server that counts its bytes."""

    def __init__(self, port: int) -> None:
        self.host = f"127.0.0.1:{port}"
        self.requests = self.up = self.down = 0
        self._socket = socket.create_connection(("127.0.0.1", port), 10)
        self._bytes = b""

    def close(self) -> None:
        self._socket.close()

    def cost(self) -> Cost:
        """Return what passed since the last call."""
        cost = Cost(self.requests, self.up, self.down)
        self.requests = self.up = self.down = 0
        return cost

    def send(self, template: str, path: str, *, method: str = "GET", known: str = "") -> None:
        """Send a request, that of somebody who has the reading `known`, if he is to say so."""
        key = base64.b64encode(os.urandom(16)).decode()
        etag = f'If-None-Match: "{known}"\r\n' if known else ""
        request = template.format(
            method=method, path=path, host=self.host, agent=AGENT, etag=etag, key=key
        )
        self._socket.sendall(request.encode())
        self.requests += 1
        self.up += len(request)

    def fetch_data(self) -> str:
        """GET /data as the page does after a signal; return the new cursor."""
        self.send(FETCH, "/data")
        return str(self.answer()["cursor"])

    def _take(self, size: int) -> bytes:
        while len(self._bytes) < size:
            piece = self._socket.recv(65536)
            if not piece:
                raise ConnectionError("the server hung up")
            self._bytes += piece
        taken, self._bytes = self._bytes[:size], self._bytes[size:]
        self.down += size
        return taken

    def head(self) -> bytes:
        """Read an answer up to the empty line."""
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self._take(1)
        return head

    def answer(self) -> dict[str, object]:
        """Read an answer and return its JSON."""
        return dict(json.loads(self.body()))

    def body(self) -> bytes:
        """Read an answer and return what follows its headers."""
        head = self.head()
        length = re.search(rb"Content-Length: (\d+)", head)
        body = self._take(int(length[1])) if length else b""
        if not head.startswith(b"HTTP/1.1 200"):
            raise ConnectionError(f"unexpected answer: {head.splitlines()[0].decode()}")
        return body

    def chunk(self) -> bytes:
        """Read a chunk of an answer that has no end (RFC 9112 section 7.1)."""
        line = b""
        while not line.endswith(b"\r\n"):
            line += self._take(1)
        return self._take(int(line, 16) + 2)[:-2]

    def frame(self) -> dict[str, object]:
        """Read a text frame and return its JSON."""
        opcode, size = self._take(2)
        if opcode != 0x81:
            raise ConnectionError(f"unexpected frame: {opcode:#x}")
        if size == 126:
            size = int.from_bytes(self._take(2), "big")
        return dict(json.loads(self._take(size)))


Publish = Callable[[], str]


def short_poll(port: int, publish: Publish, updates: int, *, method: str, news: bool) -> list[Cost]:
    """Return the cost of each question; HEAD asks for a signal, which leads to a fetch."""
    costs = []
    with closing(Wire(port)) as wire:
        known = publish()
        for _ in range(updates):
            newest = publish() if news else known
            wire.send(FETCH, "/data", method=method, known=known)
            if news and method == "GET":
                wire.answer()
            else:
                wire.head()
            if news and method == "HEAD":
                wire.fetch_data()
            known = newest
            costs.append(wire.cost())
    return costs


def long_poll(port: int, publish: Publish, updates: int, *, carry: bool) -> list[Cost]:
    """Return the cost of each update."""
    costs = []
    with closing(Wire(port)) as wire:
        known = publish()
        for _ in range(updates):
            wire.send(FETCH, f"/update?carry={carry:d}&after={known}")
            publish()
            told = str(wire.answer()["cursor"])
            known = told if carry else wire.fetch_data()
            costs.append(wire.cost())
    return costs


def stays_open(
    port: int,
    publish: Publish,
    updates: int,
    *,
    carry: bool,
    template: str,
    hear: Callable[[Wire], object],
) -> list[Cost]:
    """Return the cost of opening a connection that stays open, then of each update."""
    with closing(Wire(port)) as wire, closing(Wire(port)) as fetches:
        known = publish()
        wire.send(template, f"/update?carry={carry:d}&after={known}")
        wire.head()
        if template is EVENT_SOURCE:
            wire.chunk()  # `retry:`
        costs = [wire.cost()]
        for _ in range(updates):
            publish()
            hear(wire)
            if not carry:
                fetches.fetch_data()
            there, back = wire.cost(), fetches.cost()
            costs.append(Cost(*(a + b for a, b in zip(there, back, strict=True))))
    return costs


@contextmanager
def server() -> Iterator[int]:
    """Run serve.py for as long as needed; yields its port."""
    with started("serve.py") as process:
        yield process.port


def post(port: int, value: dict[str, object]) -> str:
    """Publish a value; return its cursor."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    with closing(connection):
        connection.request("POST", "/data", json.dumps(value))
        return str(json.load(connection.getresponse())["cursor"])


def measure(updates: int = 20) -> dict[str, Cost]:
    """Return the cost of one update by way of hearing of it, and of the handshake.

    Every update costs the same; if one does not, that is an error.
    """
    with server() as port:

        def publish() -> str:
            return post(port, VALUE)

        for _ in range(100):  # so that every sequence has three digits
            publish()
        variants = ("signal then fetch", False), ("carry", True)
        found: dict[str, list[Cost]] = {}
        for method, variant in (("HEAD", variants[0][0]), ("GET", variants[1][0])):
            for news, said in ((False, "nothing new"), (True, variant)):
                costs = short_poll(port, publish, updates, method=method, news=news)
                found[f"short poll, {said}"] = costs
        for variant, carry in variants:
            found[f"long poll, {variant}"] = long_poll(port, publish, updates, carry=carry)
        for name, template, hear in (
            ("SSE", EVENT_SOURCE, Wire.chunk),
            ("WebSocket", HANDSHAKE, Wire.frame),
        ):
            for variant, carry in variants:
                opening, *costs = stays_open(
                    port, publish, updates, carry=carry, template=template, hear=hear
                )
                found[f"{name}, opening"] = [opening]
                found[f"{name}, {variant}"] = costs
    for variant, costs in found.items():
        if len(set(costs)) != 1:
            raise AssertionError(f"{variant}: updates differ: {sorted(set(costs))}")
    return {variant: costs[0] for variant, costs in found.items()}


def table(costs: Mapping[str, Cost]) -> str:
    """Return a reStructuredText table."""
    rows: list[tuple[str, ...]] = [("bytes for one update", "requests", "up", "down", "both")]
    rows += [(variant, *map(str, cost), str(cost.total)) for variant, cost in costs.items()]
    return as_rst(rows)


def raw_result(costs: Mapping[str, Cost]) -> str:
    """Return what is kept of a measurement, as JSON."""
    browser = re.search(r"Chrome/(\d+)", AGENT)
    found = {
        "command": f"{COMMAND} --update-docs",
        **about(),
        "browser": f"Chromium {browser[1] if browser else ''}",
        "value": VALUE,
        "value_bytes": len(json.dumps(VALUE, separators=(",", ":"))),  # as the server writes it
        "costs": {variant: cost._asdict() for variant, cost in costs.items()},
    }
    return as_json(found)


def from_raw_result(found: Mapping[str, Any]) -> dict[str, Cost]:
    """Return the costs that `raw_result` was made of."""
    return {variant: Cost(**cost) for variant, cost in found["costs"].items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the table, write what was asked for."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=(__doc__ or "").partition(":")[0])
    parser.add_argument(
        "--update-docs", "--write", action="store_true", help="write docs/results/wire.json"
    )
    options = parser.parse_args(arguments)
    costs = measure()
    print(table(costs))
    if options.update_docs:
        RESULT.parent.mkdir(parents=True, exist_ok=True)
        RESULT.write_text(raw_result(costs))


if __name__ == "__main__":
    main()
