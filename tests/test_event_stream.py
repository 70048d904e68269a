"""Event streams: Last-Event-ID and heartbeats."""

from typing import Any

import pytest

from pushlab import limits
from pushlab.feed import Feed
from pushlab.transports import sse
from tests.conftest import Server
from tests.transports import EventStream


def test_last_event_id_takes_precedence_over_after(server: Server) -> None:
    """A browser that reconnects sends the URL of its first request."""
    old, newest = server.publish({"n": 1}), server.publish({"n": 2})

    def received(after: str, last: str) -> Any:
        browser = EventStream(server, after=after, last_event_id=last)
        try:
            return browser.receive(timeout=0.3)
        except TimeoutError:
            return None
        finally:
            browser.close()

    assert received(old, newest) is None
    assert received(newest, old) == {"cursor": newest}
    assert received(newest, "nonsense of another server") == {"cursor": newest}


def test_an_idle_event_stream_sends_heartbeats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HEARTBEAT", 0.01)
    feed = Feed()
    stream = sse.events(feed, feed.latest.cursor, carry=False)
    assert [next(stream) for _ in range(3)] == [b"retry: 1000\n\n", b":\n\n", b":\n\n"]
    newest = feed.publish({}).cursor.encode()
    assert next(stream) == b'id: %s\ndata: {"cursor":"%s"}\n\n' % (newest, newest)
    feed.close()
    assert list(stream) == []
