"""A famous wrong feed, kept because it looks right: `set()` wakes all, `clear()` arms it again.

Whoever is not inside `wait()` at that instant (he is still writing the previous reading to his
browser) misses it, and waits for the next one with the newest reading unseen. If there is no
next one, he waits for ever. Compare pushlab/feed.py.
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
