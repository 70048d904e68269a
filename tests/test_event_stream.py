"""Event streams: what is theirs alone."""

from typing import Any

import pytest

from pushlab.feed import Feed
from pushlab.transports import sse
from tests.conftest import Server
from tests.transports import EventStream


def test_an_event_stream_goes_on_after_the_last_event(server: Server) -> None:
    """The header counts, not the URL, which is that of the first time."""
    old, newest = server.publish({"n": 1}), server.publish({"n": 2})

    def told(after: str, last: str) -> Any:
        browser = EventStream(server, after=after, last_event_id=last)
        try:
            return browser.news(timeout=0.3)
        except TimeoutError:
            return None
        finally:
            browser.close()

    assert told(old, newest) is None
    assert told(newest, old) == {"cursor": newest}
    assert told(newest, "nonsense of another server") == {"cursor": newest}


def test_a_silent_event_stream_shows_that_it_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "HEARTBEAT", 0.01)
    feed = Feed()
    stream = sse.events(feed, feed.latest.cursor, carry=False)
    assert [next(stream) for _ in range(3)] == [b"retry: 1000\n\n", b":\n\n", b":\n\n"]
    newest = feed.publish({}).cursor.encode()
    assert next(stream) == b'id: %s\ndata: {"cursor":"%s"}\n\n' % (newest, newest)
    feed.close()
    assert list(stream) == []
