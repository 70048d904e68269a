"""HTTP framing: each row of docs/reference/http.rst, on every server with our parser."""

import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.clients import HANG_TIMEOUT, read_all
from tests.conftest import ROOT, Server, ending_well, row
from tests.hosting import OWN, start_server

#: Words of the table that stand for pieces of requests.
PIECES = {
    "host": "Host: localhost\r\n",
    "chunked": "Transfer-Encoding: chunked\r\n",
    "length": "Content-Length: 2\r\n",
    "stream": "Accept: text/event-stream\r\n",
    "gzip": "Content-Encoding: gzip\r\n",
    "get": "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "extensions": f"1;{'x' * 8000}\r\n \r\n" * 5,
}
NEXT = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
PAGE = (ROOT / "docs" / "reference" / "http.rst").read_text()
PARTS = 8  #: of the table, for workers to share
ROWS = re.findall(r"\n9[0-9]{3} [0-9.]+ +``(.+)`` +([a-z0-9 ]+, (?:next|closed))", PAGE)


class Servers(NamedTuple):
    """One server of a kind, and one with TLS."""

    plain: Server
    tls: Server
    keeps_alive: bool


@pytest.fixture(scope="module", params=OWN)
def servers(request: pytest.FixtureRequest, certificate_folder: Path) -> Iterator[Servers]:
    both = [
        start_server(f"{request.param}{tls}", certificate_folder, "--source", "http")
        for tls in ("", " tls")
    ]
    both[0].publish({"n": 1})
    with ending_well(both):
        yield Servers(both[0], both[1], "threads" not in request.param)


def statuses(port: int, data: bytes) -> list[int]:
    """Send the bytes and the next request; return the status codes of all responses."""
    data, fin, _ = data.partition(b"{fin}")
    with socket.create_connection(("127.0.0.1", port), HANG_TIMEOUT) as client:
        client.sendall(data if fin else data + NEXT)
        client.shutdown(socket.SHUT_WR)
        received = read_all(client)
    if b" HTTP/1.0\r\n" in data:  # such a client knows no chunks
        assert b"chunked" not in received
    codes = [int(code) for code in re.findall(rb"HTTP/1\.1 ([0-9]{3}) ", received)]
    # RFC 9110 section 6.6.1.
    assert received.count(b"\r\nDate: ") >= len([code for code in codes if 200 <= code < 500])
    return codes


def test_the_table_is_read_whole() -> None:
    assert len(ROWS) == PAGE.count("\n9112 ") + PAGE.count("\n9110 ") > 120


@pytest.mark.parametrize("part", range(PARTS))
def test_rows(servers: Servers, part: int) -> None:
    for written, expected in ROWS[part::PARTS]:
        with row(written):
            check(servers, written, expected)


def check(servers: Servers, written: str, expected: str) -> None:
    text = written.encode().decode("unicode_escape")
    for name, piece in {**PIECES, "cursor": servers.plain.cursor}.items():
        text = text.replace(f"{{{name}}}", piece)
    is_tls, text = text.startswith("{https}"), text.removeprefix("{https}")
    found = statuses((servers.tls if is_tls else servers.plain).port, text.encode("latin-1"))
    codes, _, then = expected.partition(", ")
    wanted = [int(code) for code in codes.split() if codes != "none"]
    if then == "next":
        wanted.append(200)
    if not servers.keeps_alive:  # it ends with the first response that is no 100
        final = [code for code in wanted if code >= 200]
        wanted = wanted[: len(wanted) - len(final) + 1]
    assert found == wanted
