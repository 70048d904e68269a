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
            time.sleep(0.001)  # the time that it takes to tell a browser
            if reading.sequence == PUBLISHES:
                break

    waiters = [threading.Thread(target=follow, args=(mine,)) for mine in seen]
    for waiter in waiters:
        waiter.start()
    started.wait()
    for number in range(PUBLISHES):
        feed.publish({"number": number})
        if number % 100 == 0:
            time.sleep(0.001)
    for waiter in waiters:
        waiter.join()
    lost = sum(mine[-1:] != [PUBLISHES] for mine in seen)
    backwards = sum(mine != sorted(set(mine)) for mine in seen)
    print(json.dumps({"lost": lost, "backwards": backwards, "woken": sum(map(len, seen))}))


main()
