"""The feed: cursors, waiting, listeners; with threads and with greenlets."""

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
    """Let 100 waiters follow 10,000 readings in a process of their own."""
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
def test_set_and_clear_loses_wake_ups(concurrency: str) -> None:
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
def test_any_other_cursor_is_told_at_once(feed: Feed, after: str | None) -> None:
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


def test_a_closed_feed_answers_those_who_wait(feed: Feed) -> None:
    threading.Timer(0.05, feed.close).start()
    assert feed.wait(feed.latest.cursor, timeout=10) is None
    assert feed.wait(feed.latest.cursor, timeout=10) is None
    assert feed.wait("ffffffff-1", timeout=10) is feed.latest


def test_listeners_hear_every_reading_in_order_and_may_fail(
    feed: Feed, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_: object) -> None:
        raise RuntimeError("on purpose")

    heard: list[int] = []
    feed.subscribe(broken)
    feed.subscribe(lambda reading: heard.append(reading.sequence))
    publishers = [
        threading.Thread(target=lambda: [feed.publish({}) for _ in range(100)]) for _ in range(4)
    ]
    for publisher in publishers:
        publisher.start()
    for publisher in publishers:
        publisher.join()
    assert heard == list(range(3, 403))
    assert "on purpose" in caplog.text


@pytest.mark.parametrize("value", [{"n": float("nan")}, {"n": float("-inf")}])
def test_what_json_cannot_say_is_refused_and_changes_nothing(
    feed: Feed, value: dict[str, float]
) -> None:
    latest = feed.latest
    with pytest.raises(ValueError, match="JSON"):
        feed.publish(value)
    assert feed.latest is latest


def test_the_largest_value(feed: Feed) -> None:
    frame = len('{"text":""}')
    feed.publish({"text": "x" * (MAX_VALUE - frame)})
    with pytest.raises(ValueTooLarge, match="16385 bytes"):
        feed.publish({"text": "x" * (MAX_VALUE - frame + 1)})


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("8f3a91c2-41", True),
        ("0-0", True),
        ("8f3a91c2-999999999999999999", True),
        ("", False),
        ("41", False),
        ("8f3a91c2-", False),
        ("-41", False),
        ("8f3a91c2-41 ", False),
        ("8f3a91c2-41\n", False),
        ("8f3a91c2--41", False),
        ("8f3a91c2-4.1", False),
        ("8f3a91c2-٤١", False),
        ("8f3a91c2-1" + "0" * 18, False),
        ("x" * 33 + "-1", False),
    ],
)
def test_the_form_of_a_cursor(text: str, is_one: bool) -> None:
    assert is_cursor(text) is is_one


def test_a_feed_can_begin_anew() -> None:
    feed = Feed()
    heard: list[str] = []
    feed.subscribe(lambda reading: heard.append(reading.cursor))
    before = feed.publish({"n": 1}).cursor
    told: list[Reading | None] = []
    waiting = threading.Thread(target=lambda: told.append(feed.wait(before, timeout=10)))
    waiting.start()
    feed.reset()
    waiting.join()
    assert feed.latest.cursor == f"{feed.epoch}-0" == heard[-1]
    assert feed.epoch != before.partition("-")[0]
    assert told == [feed.latest]
