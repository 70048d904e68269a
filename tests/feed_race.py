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
from tests.lost_wakeup import WrongFeed

WAITERS, PUBLISHES = 100, 10_000
WAIT_TIMEOUT = 2.0  # seconds
SENDING = 0.005  # seconds in which a waiter sends a reading to its browser


def main() -> None:
    feed = {"Feed": Feed, "WrongFeed": WrongFeed}[sys.argv[1]]()
    seen: list[list[int]] = [[] for _ in range(WAITERS)]
    started = threading.Barrier(WAITERS + 1)

    def follow(mine: list[int]) -> None:
        after = feed.latest.cursor
        started.wait()
        # With the right feed, no wait times out.
        while (reading := feed.wait(after, timeout=WAIT_TIMEOUT)) is not None:
            after = reading.cursor
            mine.append(reading.sequence)
            time.sleep(SENDING)
            if reading.sequence == PUBLISHES:
                break

    waiters = [threading.Thread(target=follow, args=(mine,)) for mine in seen]
    for waiter in waiters:
        waiter.start()
    started.wait()
    for number in range(PUBLISHES - 2):
        feed.publish({"number": number})
        if number % 100 == 0:
            time.sleep(0.001)
    # The case that matters: all wait, are woken, and the last reading is published while they send
    # the one before it.
    time.sleep(10 * SENDING)
    feed.publish({"number": "the last but one"})
    time.sleep(SENDING / 5)
    feed.publish({"number": "the last"})
    for waiter in waiters:
        waiter.join()
    lost = sum(mine[-1:] != [PUBLISHES] for mine in seen)
    backwards = sum(mine != sorted(set(mine)) for mine in seen)
    print(json.dumps({"lost": lost, "backwards": backwards, "woken": sum(map(len, seen))}))


main()
