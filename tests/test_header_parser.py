"""Request headers that a proxy might read in another way."""

import json

import pytest

from tests.clients import exchange
from tests.conftest import Server


@pytest.mark.parametrize(
    "lines",
    [
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: gzip, chunked\r\nContent-Length: 4",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 4",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding: identity",
        "Content-Length: 4\r\nContent-Length: 4",
        "Content-Length: 4\r\nContent-Length: 5",
        "Content-Length: 1_0",
        "Content-Length: +4",
        "Content-Length: 4, 4",
        "Content-Length: -1",
        "Content-Length:",
        "Host: localhost",
        "X-Folded: a\r\n b",
        ": nameless",
    ],
)
def test_no_second_request_can_be_smuggled(server: Server, lines: str) -> None:
    request = f"POST /data HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n\r\n"
    smuggled = "GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"
    received = exchange(server.port, (request + smuggled).encode())
    status = b"501" if lines.endswith("gzip, chunked") else b"400"  # RFC 9112 section 6.1
    assert received.startswith(b"HTTP/1.1 %s " % status)
    assert received.count(b"HTTP/1.1 ") == 1


def test_a_bad_chunk_size_is_no_traceback(server: Server) -> None:
    """The fixture `server` searches the log for one."""
    for method in ("GET", "POST"):
        head = f"{method} /data HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked"
        exchange(server.port, f"{head}\r\n\r\n\r\n\r\n".encode())
    assert server.http.get("/data").status == 200


def test_a_chunked_body_is_read(server: Server) -> None:
    body = json.dumps({"chunked": True}).encode()
    head = b"POST /data HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    request = head + b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    assert exchange(server.port, request).startswith(b"HTTP/1.1 201 ")
    assert server.http.get("/data").json["value"] == {"chunked": True}


def test_deeply_nested_json_is_no_error_of_the_server(server: Server) -> None:
    for depth in range(300, 1100, 7):
        body = b'{"a":' * depth + b"1" + b"}" * depth
        assert server.http.post("/data", body).status in (201, 400)
    server.publish({})  # or other tests could not decode the newest reading
