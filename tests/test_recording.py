"""bench.diagrams: what it reads from the bytes that passed a client and a server."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from bench import diagrams
from bench.diagrams import Log, Recorder, messages

READING = b'{"cursor":"8f3a91c2-%d","changed_at":1.5,"value":{}}'
OK = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"


def response(number: int) -> bytes:
    body = READING % number
    return OK % len(body) + body


def chunk(text: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(text), text)


def frame(number: int) -> bytes:
    body = READING % number
    return bytes([0x81, len(body)]) + body


def get(path: str, field: str = "Host: x") -> bytes:
    return f"GET {path} HTTP/1.1\r\n{field}\r\n\r\n".encode()


Row = tuple[str, str, int | None]

ROWS: dict[str, tuple[list[bytes], list[bytes], list[Row]]] = {
    "poll": (
        [get("/data", 'If-None-Match: "8f3a91c2-10"')] * 2,
        [b"HTTP/1.1 304 Not Modified\r\n\r\n", response(12)],
        [
            ("browser", "GET /data, If-None-Match: #0", None),
            ("browser", "GET /data, If-None-Match: #0", None),
            ("server", "304 Not Modified", None),
            ("server", "200 OK", 2),
        ],
    ),
    "longpoll": (
        [get("/update?carry=1&after=8f3a91c2-10"), get("/update?carry=1&after=8f3a91c2-11")],
        [response(11), b"HTTP/1.1 204 No Content\r\n\r\n"],
        [
            ("browser", "GET /update?carry=1&after=#0", None),
            ("browser", "GET /update?carry=1&after=#1", None),
            ("server", "200 OK", 1),
            ("server", "204 No Content", None),
        ],
    ),
    "sse": (
        [get("/update")],
        [
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n",
            chunk(b"retry: 1000\n\n"),
            chunk(b"id: 8f3a91c2-11\ndata: " + READING % 11 + b"\n\n"),
        ],
        [
            ("browser", "GET /update", None),
            ("server", "200 OK, a stream", None),
            ("server", "retry: 1000", None),
            ("server", "event", 1),
        ],
    ),
    "websocket": (
        [get("/update", "Upgrade: websocket")],
        [b"HTTP/1.1 101 Switching Protocols\r\n\r\n", frame(11), frame(13)],
        [
            ("browser", "GET /update", None),
            ("server", "101 Switching Protocols", None),
            ("server", "text frame", 1),
            ("server", "text frame", 3),
        ],
    ),
}


@pytest.mark.parametrize("transport", ROWS)
@pytest.mark.parametrize("piece", [1, 7, 10_000])
def test_messages_are_found_with_their_times(
    monkeypatch: pytest.MonkeyPatch, transport: str, piece: int
) -> None:
    """Whatever the pieces are in which the bytes arrive."""
    up, down, expected = ROWS[transport]
    now = 0.0
    monkeypatch.setattr(diagrams, "time", SimpleNamespace(time=lambda: now))
    ends = {end: (Log(), Log()) for end in ("browser", "server")}
    times: list[tuple[float, float]] = []
    for sender, receiver, direction, parts in (
        ("browser", "server", 0, up),
        ("server", "browser", 1, down),
    ):
        for part in parts:
            now += 1
            ends[sender][direction].add(part)
            sent = now
            for begin in range(0, len(part), piece):
                now += 1
                ends[receiver][direction].add(part[begin : begin + piece])
            times.append((sent, now))
    ends["server"][1].add(down[-1][:-1])  # is not complete when the recording ends
    found = list(messages(cast(Recorder, SimpleNamespace(ends=ends)), 10))
    assert [(each["from"], each["what"], each.get("reading")) for each in found] == expected
    assert [(each["sent"], each["received"]) for each in found] == times
    assert [each["bytes"] for each in found] == [len(part) for part in up + down]


def test_a_message_under_way_is_left_out() -> None:
    ends: dict[str, Any] = {end: (Log(), Log()) for end in ("browser", "server")}
    ends["browser"][0].add(get("/data") + get("/data"))
    ends["server"][0].add(get("/data"))
    (message,) = messages(cast(Recorder, SimpleNamespace(ends=ends)), 0)
    assert message["what"] == "GET /data"
