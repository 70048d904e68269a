"""The feed: cursors, waiting, subscribers, with threads and greenlets."""

import json
import subprocess
import sys
import threading
import time

import pytest

from pushlab.feed import Feed, Reading, ValueTooLarge
from pushlab.limits import MAX_VALUE
from pushlab.wsgi.parameters import is_cursor
from tests.clients import HANG_TIMEOUT
from tests.conftest import ROOT


@pytest.fixture
def feed() -> Feed:
    feed = Feed()
    feed.publish({"n": 1})
    feed.publish({"n": 2})
    return feed


@pytest.mark.parametrize("concurrency", ["threads", "greenlets"])
@pytest.mark.parametrize(("feed_class", "lost"), [("Feed", 0), ("WrongFeed", 100)])
def test_a_hundred_waiters(feed_class: str, lost: int, concurrency: str) -> None:
    """After 10,000 readings, the last comes while all send the one before it."""
    command = [sys.executable, "-m", "tests.feed_race", feed_class, concurrency]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["lost"] == lost
    assert lost or found["backwards"] == 0  # the wrong one may send a reading twice
    assert found["woken"] >= 100


def test_the_first_reading_is_number_one_after_an_empty_number_zero() -> None:
    feed = Feed()
    assert (feed.latest.sequence, feed.latest.value) == (0, {})
    assert feed.publish({}).sequence == 1


def test_wire_forms(feed: Feed) -> None:
    before = time.time()
    reading = feed.publish({"text": "naïve", "half a pair": "\ud83d"})
    assert reading.cursor == f"{feed.epoch}-3"
    assert before - 1e-3 <= reading.changed_at <= time.time() + 1e-3
    assert json.loads(reading.signal) == {"cursor": reading.cursor}
    assert json.loads(reading.carry) == {
        "cursor": reading.cursor,
        "changed_at": reading.changed_at,
        "value": {"text": "naïve", "half a pair": "\ud83d"},
    }


@pytest.mark.parametrize(
    "after",
    [None, "ffffffff-2", "{epoch}-1", "{epoch}-0", "{epoch}-3", "{epoch}-999999999", "anything"],
)
def test_any_other_cursor_gets_the_newest_at_once(feed: Feed, after: str | None) -> None:
    after = after and after.format(epoch=feed.epoch)
    assert feed.wait(after, timeout=0) is feed.latest


def test_the_newest_cursor_waits(feed: Feed) -> None:
    after = feed.latest.cursor
    assert feed.wait(after, timeout=0) is None
    start = time.monotonic()
    assert feed.wait(after, timeout=0.05) is None
    assert time.monotonic() - start >= 0.05
    threading.Timer(0.05, feed.publish, [{"n": 3}]).start()
    reading = feed.wait(after, timeout=HANG_TIMEOUT)
    assert reading is not None
    assert reading.value == {"n": 3}


def test_a_closed_feed_ends_every_wait(feed: Feed) -> None:
    threading.Timer(0.05, feed.close).start()
    assert feed.wait(feed.latest.cursor, timeout=HANG_TIMEOUT) is None
    assert feed.wait(feed.latest.cursor, timeout=HANG_TIMEOUT) is None
    assert feed.wait("ffffffff-1", timeout=HANG_TIMEOUT) is feed.latest


def test_subscribers_get_every_reading_in_order_and_may_fail(
    feed: Feed, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_: object) -> None:
        raise RuntimeError("on purpose")

    received: list[int] = []
    feed.subscribe(broken)
    feed.subscribe(lambda reading: received.append(reading.sequence))
    publishers = [
        threading.Thread(target=lambda: [feed.publish({}) for _ in range(100)]) for _ in range(4)
    ]
    for publisher in publishers:
        publisher.start()
    for publisher in publishers:
        publisher.join()
    assert received == list(range(3, 403))
    assert "on purpose" in caplog.text


@pytest.mark.parametrize("value", [{"n": float("nan")}, {"n": float("-inf")}])
def test_a_value_that_json_lacks_is_rejected(feed: Feed, value: dict[str, float]) -> None:
    latest = feed.latest
    with pytest.raises(ValueError, match="JSON"):
        feed.publish(value)
    assert feed.latest is latest


def test_the_largest_value(feed: Feed) -> None:
    frame = len('{"text":""}')
    feed.publish({"text": "x" * (MAX_VALUE - frame)})
    with pytest.raises(ValueTooLarge, match="16385 bytes"):
        feed.publish({"text": "x" * (MAX_VALUE - frame + 1)})


@pytest.mark.parametrize("text", ["8f3a91c2-41", "0-0", "8f3a91c2-999999999999999999"])
def test_well_formed_cursors(text: str) -> None:
    assert is_cursor(text)


@pytest.mark.parametrize(
    "text", ["", "41", "8f3a91c2-", "-41", "8f3a91c2-41 ", "8f3a91c2-41\n", "8f3a91c2--41",
             "8f3a91c2-4.1", "8f3a91c2-٤١", "8f3a91c2-1" + "0" * 18, "x" * 33 + "-1"],
)  # fmt: skip
def test_malformed_cursors(text: str) -> None:
    assert not is_cursor(text)


def test_a_reset_begins_a_new_epoch() -> None:
    feed = Feed()
    received: list[str] = []
    feed.subscribe(lambda reading: received.append(reading.cursor))
    before = feed.publish({"n": 1}).cursor
    results: list[Reading | None] = []
    waiting = threading.Thread(target=lambda: results.append(feed.wait(before, timeout=60)))
    waiting.start()
    feed.reset()
    waiting.join()
    assert feed.latest.cursor == f"{feed.epoch}-0" == received[-1]
    assert feed.epoch != before.partition("-")[0]
    assert results == [feed.latest]


def test_a_feed_is_made_while_all_are_closed() -> None:
    """The set of all must not change meanwhile."""
    making = threading.Thread(target=Feed, daemon=True)
    with Feed._keeping:
        before = len(Feed.instances)
        making.start()
        making.join(0.2)
        assert (making.is_alive(), len(Feed.instances)) == (True, before)
    making.join()
