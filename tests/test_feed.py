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
from tests.conftest import ROOT


@pytest.fixture
def feed() -> Feed:
    feed = Feed()
    feed.publish({"n": 1})
    feed.publish({"n": 2})
    return feed


def race(feed: str, concurrency: str) -> dict[str, int]:
    """Run tests/feed_race.py: 100 waiters, 10,000 readings."""
    command = [sys.executable, "-m", "tests.feed_race", feed, concurrency]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("concurrency", ["threads", "greenlets"])
def test_a_hundred_waiters_lose_nothing(concurrency: str) -> None:
    result = race("Feed", concurrency)
    assert result["lost"] == result["backwards"] == 0
    assert result["woken"] >= 100


@pytest.mark.parametrize("concurrency", ["threads", "greenlets"])
def test_set_and_clear_loses_wakeups(concurrency: str) -> None:
    assert race("WrongFeed", concurrency)["lost"] > 0


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
    reading = feed.wait(after, timeout=10)
    assert reading is not None
    assert reading.value == {"n": 3}


def test_a_closed_feed_ends_every_wait(feed: Feed) -> None:
    threading.Timer(0.05, feed.close).start()
    assert feed.wait(feed.latest.cursor, timeout=10) is None
    assert feed.wait(feed.latest.cursor, timeout=10) is None
    assert feed.wait("ffffffff-1", timeout=10) is feed.latest


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
    waiting = threading.Thread(target=lambda: results.append(feed.wait(before, timeout=10)))
    waiting.start()
    feed.reset()
    waiting.join()
    assert feed.latest.cursor == f"{feed.epoch}-0" == received[-1]
    assert feed.epoch != before.partition("-")[0]
    assert results == [feed.latest]
