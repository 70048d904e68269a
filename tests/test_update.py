"""The URL /update: its parameters, Last-Event-ID, and heartbeats."""

import time
from contextlib import closing
from urllib.parse import quote

import pytest

from pushlab import limits
from pushlab.feed import Feed
from pushlab.transports import sse
from tests.clients import UPGRADE
from tests.conftest import Server
from tests.transports import EventStream


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("after=", "after"),
        ("after=41", "after"),
        ("after=8f3a91c2-", "after"),
        ("after=8f3a91c2-41%0a", "after"),
        ("after=%ff%fe-1", "after"),
        ("carry=", "carry"),
        ("carry=2", "carry"),
        ("carry=true", "carry"),
        ("carry=0&after=no", "after"),
    ],
)
@pytest.mark.parametrize("transport", ["longpoll", "sse", "websocket"])
def test_malformed_parameters_are_named(
    server: Server, transport: str, query: str, parameter: str
) -> None:
    event_stream = {"Accept": "text/event-stream"}
    headers = {"websocket": UPGRADE, "sse": event_stream}.get(transport, {})
    response = server.http.get(f"/update?{query}", headers=headers)
    assert response.status == 400
    assert response.headers["Content-Type"] == "application/json"
    assert response.json["error"].startswith(f"{parameter}:")


@pytest.mark.parametrize("timeout", ["", "x", "-1", "60.1", "61", "1e1", "nan", "inf", "1_0",
                                     "\u0665", "+5", "0x10", "999999999999"])  # fmt: skip
def test_a_malformed_timeout_is_named(server: Server, timeout: str) -> None:
    response = server.http.get(f"/update?timeout={quote(timeout)}")
    assert response.status == 400
    assert response.json["error"].startswith("timeout:")


@pytest.mark.parametrize("timeout", ["0", "0.0", "0.25"])
def test_a_poll_is_held_for_its_timeout(server: Server, timeout: str) -> None:
    start = time.monotonic()
    response = server.http.get(f"/update?after={server.cursor}&timeout={timeout}")
    elapsed = time.monotonic() - start
    assert (response.status, response.body) == (204, b"")
    assert response.headers["Cache-Control"] == "no-store"
    assert elapsed >= float(timeout)


def test_last_event_id_takes_precedence_over_after(server: Server) -> None:
    """A reconnecting browser sends the URL of its first request."""
    old, newest = server.publish({"n": 1}), server.publish({"n": 2})

    def opened(after: str, last: str) -> EventStream:
        return EventStream(server, after=after, last_event_id=last)

    for last in (old, "nonsense of another server"):
        with closing(opened(newest, last)) as browser:
            assert browser.receive() == {"cursor": newest}
    with closing(opened(old, newest)) as browser:
        third = server.publish({"n": 3})
        assert browser.receive() == {"cursor": third}, "the second is known"


def test_an_idle_event_stream_sends_heartbeats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HEARTBEAT", 0.01)
    feed = Feed()
    body = sse.update([feed], {"QUERY_STRING": f"after={feed.latest.cursor}"}).response({}).body
    stream = iter(body)
    assert [next(stream) for _ in range(3)] == [b"retry: 1000\n\n", b":\n\n", b":\n\n"]
    newest = feed.publish({}).cursor.encode()
    assert next(stream) == b'id: %s\ndata: {"cursor":"%s"}\n\n' % (newest, newest)
    feed.close()
    assert list(stream) == []
