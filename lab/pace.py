"""Pace: when the data changes next; page controls set it."""

import math
import random
import threading
import time

#: The paces that the page offers, by name: seconds between two changes; None is irregular.
PACES: dict[str, float | None] = {
    "20 per s": 0.05,
    "4 per s": 0.25,
    "1 per s": 1.0,
    "irregular": None,
    "paused": math.inf,
}
#: Seconds between two changes of the irregular pace, at least and at most.
IRREGULAR = (0.5, 3.5)
#: Seconds between two changes of a burst: too fast for a slow browser, slow enough to be seen.
BURST_GAP = 0.01
#: Changes that may be pending.
MAX_HURRY = 200


class Pace:
    """Makes a source wait; it can be changed meanwhile."""

    def __init__(self, every: float | None = None) -> None:
        self._changed = threading.Condition()
        self._every = every
        self._hurry = 0
        names = {seconds: name for name, seconds in PACES.items()}
        own = names.get(every) or f"every {every:g} s"
        #: The name of the pace, one of `names`: those of PACES, and the first one.
        self.name = own
        self.names = PACES if own in PACES else {own: every, **PACES}

    @property
    def longest(self) -> float:
        """The most seconds that the next change may take."""
        return IRREGULAR[1] if self._every is None else self._every

    def set(self, name: str) -> None:
        """Change the pace at once; KeyError for unknown names."""
        with self._changed:
            self._every = self.names[name]
            self.name = name
            self._changed.notify_all()

    def hurry(self, times: int = 1) -> None:
        """Ask for changes now, at most MAX_HURRY, BURST_GAP apart."""
        with self._changed:
            self._hurry = min(self._hurry + times, MAX_HURRY)
            self._changed.notify_all()

    def wait(self) -> None:
        """Wait until the data is to change.

        That is at the pace, or at once after `hurry`. A fixed pace counts from the last
        change, an irregular one takes 0.5 to 3.5 seconds.
        """
        begun, irregular = time.monotonic(), random.uniform(*IRREGULAR)
        with self._changed:
            while not self._hurry:
                every = irregular if self._every is None else self._every
                left = begun + every - time.monotonic()
                if left <= 0:
                    return
                self._changed.wait(min(left, threading.TIMEOUT_MAX))
            self._hurry -= 1
        time.sleep(BURST_GAP)
