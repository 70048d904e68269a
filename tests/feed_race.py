"""100 waiters and 10,000 publishes: prints how many waiters never saw the newest reading.

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

WAITERS, PUBLISHES, PATIENCE = 100, 10_000, 2.0
TELLING = 0.005  # seconds that it takes to tell a browser


def main() -> None:
    feed = {"Feed": Feed, "WrongFeed": WrongFeed}[sys.argv[1]]()
    seen: list[list[int]] = [[] for _ in range(WAITERS)]
    started = threading.Barrier(WAITERS + 1)

    def follow(mine: list[int]) -> None:
        after = feed.latest.cursor
        started.wait()
        # Gives up when nothing has come for so long: the right feed's waiters only at the end.
        while (reading := feed.wait(after, timeout=PATIENCE)) is not None:
            after = reading.cursor
            mine.append(reading.sequence)
            time.sleep(TELLING)
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
    # At the end the case that matters: all are waiting, are woken, and while they still tell their
    # browsers what they heard, the last reading comes.
    time.sleep(10 * TELLING)
    feed.publish({"number": "the last but one"})
    time.sleep(TELLING / 5)
    feed.publish({"number": "the last"})
    for waiter in waiters:
        waiter.join()
    lost = sum(mine[-1:] != [PUBLISHES] for mine in seen)
    backwards = sum(mine != sorted(set(mine)) for mine in seen)
    print(json.dumps({"lost": lost, "backwards": backwards, "woken": sum(map(len, seen))}))


main()
