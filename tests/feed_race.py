"""Print how many waiters missed the newest reading.

python -m tests.feed_race Feed|WrongFeed threads|greenlets
"""

import sys

if sys.argv[2] == "greenlets":
    from gevent import monkey

    monkey.patch_all()

import json
import threading
import time

from pushlab.feed import Feed
from tests.clients import HANG_TIMEOUT
from tests.lost_wakeup import WrongFeed

WAITERS, PUBLISHES = 100, 10_000


def main() -> None:
    feed, timeout = {"Feed": (Feed(), HANG_TIMEOUT), "WrongFeed": (WrongFeed(), 0.5)}[sys.argv[1]]
    seen: list[list[int]] = [[] for _ in range(WAITERS)]
    started = threading.Barrier(WAITERS + 1)
    sending, last_published = threading.Semaphore(0), threading.Event()

    def follow(mine: list[int]) -> None:
        after = feed.latest.cursor
        started.wait()
        # With the right feed, no wait times out.
        while (reading := feed.wait(after, timeout=timeout)) or not last_published.is_set():
            if reading is None:
                continue
            after = reading.cursor
            mine.append(reading.sequence)
            time.sleep(0.005)  # it sends the reading to its browser
            if reading.value["number"] == "the last":
                break
            if reading.value["number"] == "the last but one":
                sending.release()
                last_published.wait()

    waiters = [threading.Thread(target=follow, args=(mine,)) for mine in seen]
    for waiter in waiters:
        waiter.start()
    started.wait()
    for number in range(PUBLISHES):
        feed.publish({"number": number})
        if number % 100 == 0:
            time.sleep(0.001)
    # The case that matters: all are woken, and the last reading is published while they send that.
    missing = WAITERS
    while missing:
        feed.publish({"number": "the last but one"})
        time.sleep(0.01)
        while missing and sending.acquire(blocking=False):
            missing -= 1
    feed.publish({"number": "the last"})
    last_published.set()
    for waiter in waiters:
        waiter.join()
    lost = sum(mine[-1] != feed.latest.sequence for mine in seen)
    backwards = sum(mine != sorted(set(mine)) for mine in seen)
    print(json.dumps({"lost": lost, "backwards": backwards, "woken": sum(map(len, seen))}))


main()
