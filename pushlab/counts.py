"""What this process has done, in plain numbers.

`metrics` reads them. A broadcast adds once for hundreds of subscribers, and calls no library. What
counts here runs under the hub's lock, or in the one thread of an event loop; everything else holds
`lock`. Feeds, positions and readings have no type here: every part may count.
"""

import _thread
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

#: The upper bounds of a histogram's buckets, in seconds.
BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

#: What a sample is called, and its labels.
Key = tuple[str, ...]

# A generator that is garbage may end within the lock, and counts then. This one stays C's under
# gevent, whose own costs more than to count: nothing waits while holding it.
lock = _thread.RLock()


class Count:
    """The numbers of one transport and one class of topics."""

    __slots__ = ("coalesced", "notifications", "resets", "subscribers")

    def __init__(self) -> None:
        self.subscribers = 0  #: open now, once for each topic
        self.notifications = 0  #: readings, or signals of them, that were sent
        self.coalesced = 0  #: readings of states that were skipped
        self.resets = 0  #: sent in place of readings that are not kept


class Histogram:
    """Durations: their number up to each bound, and their sum."""

    def __init__(self) -> None:
        self.buckets = [0] * (len(BOUNDS) + 1)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count a duration.

        It may be negative, by the clocks of two machines.
        """
        seconds = max(0.0, seconds)
        with lock:  # feeds are broadcast, and read, side by side
            self.buckets[bisect_left(BOUNDS, seconds)] += 1
            self.sum += seconds


_counts: dict[tuple[str, str], Count] = {}

#: Bytes by transport: frames, chunks, and bodies of responses to polls.
sent_bytes: Counter[str] = Counter()
#: Subscribers that were dropped, by transport and reason.
dropped = Counter({(each, "slow"): 0 for each in ("sse", "websocket")})
dropped["websocket", "silent"] = 0
#: Requests and WebSockets that were refused, by reason.
refused: Counter[str] = Counter()

HISTOGRAMS = {"last_write": Histogram(), "redis_lag": Histogram()}
last_write, redis_lag = HISTOGRAMS.values()


def of(transport: str, rule: str) -> Count:
    """Return the numbers of a transport and a topic's rule."""
    key = transport, rule
    return _counts.get(key) or _counts.setdefault(key, Count())


def declare(rule: str) -> None:
    """Have numbers of a topic's rule, all 0."""
    for transport in ("poll", "longpoll", "sse", "websocket"):
        of(transport, rule)


def opened(transport: str, feeds: Iterable[Any], number: int = 1) -> None:
    """Count subscribers that came or, with -1, left."""
    with lock:
        for feed in feeds:
            of(transport, feed.rule).subscribers += number


def news(transport: str, readings: Sequence[Any], after: str | None, *, times: int = 1) -> None:
    """Count a feed's readings that were sent after this cursor."""
    first = readings[0]
    count = of(transport, first.feed.rule)
    count.notifications += times * len(readings)
    if first.is_reset:
        count.resets += times
    elif first.feed.keep == 1:
        count.coalesced += times * _skipped(after, first)


def fetched(reading: Any, method: str) -> None:
    """Count a reading that a short poll fetched."""
    with lock:
        news("poll", [reading], None)
        if method != "HEAD":
            sent_bytes["poll"] += len(reading.carry)


def sent(transport: str, size: int) -> None:
    """Count bytes that were sent."""
    with lock:
        sent_bytes[transport] += size


def _skipped(after: str | None, reading: Any) -> int:
    """Return how many readings are between these two."""
    epoch, _, sequence = (after or "").rpartition("-")
    its_epoch, _, its_sequence = reading.cursor.rpartition("-")
    return max(0, int(its_sequence) - int(sequence) - 1) if epoch == its_epoch else 0


def response(
    transport: str,
    positions: Iterable[Any],
    found: Sequence[Any],
    size: int,
    *,
    times: int = 1,
) -> None:
    """Count what was found at positions, and sent."""
    with lock:
        sent_bytes[transport] += times * size
        for feed, after in positions:
            if readings := [reading for reading in found if reading.feed is feed]:
                news(transport, readings, after, times=times)


def refuse(status: int) -> None:
    """Count a request that got this status, as an error."""
    try:
        reason = HTTPStatus(status).name.lower()
    except ValueError:  # an app may have statuses of its own
        reason = "other"
    with lock:
        refused[reason] += 1


@contextmanager
def waiting(transport: str, positions: Sequence[Any]) -> Iterator[None]:
    """Count a subscriber that waits in its request."""
    feeds = [feed for feed, _ in positions]
    opened(transport, feeds)
    try:
        yield
    finally:
        opened(transport, feeds, -1)


def gauges() -> dict[Key, float]:
    """Return what goes up and down."""
    counted = tuple(_counts.items())
    # A short poll is never open.
    return {("subscribers", *key): each.subscribers for key, each in counted if key[0] != "poll"}


def totals() -> dict[Key, float]:
    """Return what only goes up."""
    found: dict[Key, float] = {}
    for key, count in tuple(_counts.items()):
        found |= {
            ("notifications", *key): count.notifications,
            ("coalesced", *key): count.coalesced,
            ("resets", *key): count.resets,
            ("sent_bytes", key[0]): sent_bytes[key[0]],
        }
    found |= {("dropped", *pair): number for pair, number in tuple(dropped.items())}
    found |= {("refused", reason): number for reason, number in tuple(refused.items())}
    for name, histogram in HISTOGRAMS.items():
        found[name, "sum"] = histogram.sum
        found |= {(name, str(at)): number for at, number in enumerate(histogram.buckets)}
    return found
