"""HTTP framing: each row of docs/reference/http.rst, on every server with our parser."""

import re
import socket
from collections.abc import Iterator

import pytest

from tests.conftest import ROOT, Server
from tests.hosting import start_server

#: Words of the table that stand for pieces of requests.
PIECES = {
    "host": "Host: localhost\r\n",
    "chunked": "Transfer-Encoding: chunked\r\n",
    "length": "Content-Length: 2\r\n",
    "stream": "Accept: text/event-stream\r\n",
    "gzip": "Content-Encoding: gzip\r\n",
    "get": "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
}
NEXT = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


def rows() -> Iterator[tuple[str, str]]:
    page = (ROOT / "docs" / "reference" / "http.rst").read_text()
    for line in page.splitlines():
        if row := re.fullmatch(r"9[0-9]{3} [0-9.]+ +``(.+)`` +([0-9 ]+, (?:next|closed))", line):
            yield row[1], row[2]


ROWS = tuple(rows())


@pytest.fixture(scope="module", params=["serve.py", "gunicorn", "servers/threads.py"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    server = start_server(request.param, tmp_path_factory.mktemp("server"), "--source", "http")
    server.publish({"n": 1})
    yield server
    assert server.stop() == 0
    assert "Traceback" not in server.log


def statuses(port: int, data: bytes) -> list[int]:
    """Send the bytes and a request behind them; return the status codes of all responses."""
    with socket.create_connection(("127.0.0.1", port), 10) as client:
        client.sendall(data + NEXT)
        client.shutdown(socket.SHUT_WR)
        received = b""
        try:
            while piece := client.recv(65536):
                received += piece
        except ConnectionResetError:
            pass  # what is left unread of a refused request
    return [int(code) for code in re.findall(rb"HTTP/1\.[01] ([0-9]{3}) ", received)]


def test_the_table_is_read_whole() -> None:
    table = (ROOT / "docs" / "reference" / "http.rst").read_text().count("\n9110 ")
    assert len(ROWS) == table + (ROOT / "docs" / "reference" / "http.rst").read_text().count(
        "\n9112 "
    )
    assert len(ROWS) > 70


@pytest.mark.parametrize(("written", "expected"), ROWS)
def test_row(server: Server, written: str, expected: str) -> None:
    cursor = server.http.get("/data").json["cursor"]
    text = written.encode().decode("unicode_escape")
    for name, piece in {**PIECES, "cursor": cursor}.items():
        text = text.replace(f"{{{name}}}", piece)
    codes, _, then = expected.partition(", ")
    found = statuses(server.port, text.encode("latin-1"))
    wanted = [int(code) for code in codes.split()]
    closes = then == "closed" or "threads" in str(server.process.args)
    assert found == wanted + ([] if closes else [200])
