"""A feed with lost wakeups, kept because it looks right.

A waiter that is not inside `wait()` at that instant, because it is still sending the previous
reading to its browser, misses the reading. It waits for the next one, which may never come. Compare
pushlab/feed.py.
"""

import threading
from collections.abc import Mapping
from typing import Any

from pushlab.feed import Feed, Reading


class WrongFeed(Feed):
    def __init__(self) -> None:
        super().__init__()
        self._event = threading.Event()

    def publish(self, value: Mapping[str, Any] | None = None) -> Reading:
        reading = super().publish(value)
        self._event.set()
        self._event.clear()
        return reading

    def wait(self, after: str | None, *, timeout: float) -> Reading | None:
        return self.latest if self._event.wait(timeout) else None
