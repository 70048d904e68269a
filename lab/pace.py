"""Pace: when the data changes next; page controls set it."""

import math
import random
import threading
import time
from typing import NamedTuple

#: The paces that the page offers, by name: seconds between two changes; None is irregular.
PACES: dict[str, float | None] = {
    "20 per s": 0.05,
    "4 per s": 0.25,
    "1 per s": 1.0,
    "irregular": None,
    "paused": math.inf,
}
PAUSED = "paused"
#: Seconds between two changes of the irregular pace, at least and at most.
IRREGULAR = (0.5, 3.5)
#: Seconds between two changes of a burst: too fast for a slow browser, slow enough to be seen.
BURST_GAP = 0.01
#: Changes that may be pending.
MAX_HURRY = 200


class Setting(NamedTuple):
    """What pages have set.

    Only the server knows it: to a page that has just opened, an experiment of another one looks
    like the pace to go back to. Each field but `borrower` is the name of a pace.
    """

    pace: str  #: which a page has chosen
    resume: str  #: which was chosen before it was paused
    borrowed: str = ""  #: for an experiment: it holds in place of `pace` until it is given back
    borrower: str = ""  #: the page's connection

    @property
    def name(self) -> str:
        """The pace that holds."""
        return self.borrowed or self.pace

    def choose(self, name: str) -> "Setting":
        """Return it with this pace, which nobody gives back."""
        return Setting(name, self.resume if name == PAUSED else name)

    def borrow(self, name: str, borrower: str) -> "Setting":
        """Return it with another pace for an experiment."""
        return self._replace(borrowed=name, borrower=borrower)

    def give_back(self, borrower: str) -> "Setting":
        """Return it without what this page borrowed."""
        return Setting(self.pace, self.resume) if self.borrower == borrower else self


class Pace:
    """Makes a source wait; it can be changed meanwhile."""

    def __init__(self, every: float | None = None) -> None:
        self._changed = threading.Condition()
        self._hurry = 0
        known = {seconds: name for name, seconds in PACES.items()}
        own = known.get(every) or f"every {every:g} s"
        #: The paces by name: those of PACES, and the first one.
        self.names = PACES if own in PACES else {own: every, **PACES}
        self._own = own
        self.setting = Setting(own, own)
        self._every = every

    @property
    def longest(self) -> float:
        """The most seconds that the next change may take."""
        return IRREGULAR[1] if self._every is None else self._every

    def set(self, setting: Setting) -> None:
        """Change the pace at once.

        Another process may have been started with a pace that is unknown here. In its place is the
        one that this process was started with: what else was set holds all the same.
        """
        pace, resume, borrowed = (name if name in self.names else self._own for name in setting[:3])
        known = Setting(pace, resume, setting.borrowed and borrowed, setting.borrower)
        with self._changed:
            self._every = self.names[known.name]
            self.setting = known
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
