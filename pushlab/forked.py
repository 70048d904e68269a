"""What each process makes for itself, also after a fork."""

import os
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

Made = TypeVar("Made")

_making = threading.Lock()  #: nobody waits for anything while holding it


class PerProcess(Generic[Made]):
    """Something of which each process has its own.

    A lock of before a fork may be older than monkey patching: a greenlet that waits for such a lock
    stops all others, and the one that holds it, too.
    """

    def __init__(self, make: Callable[[], Made]) -> None:
        """`make` looks its class up when called: patching replaces it."""
        self._make = make
        self._made: dict[int, Made] = {}  # by process: one at most

    def get(self) -> Made:
        """Return this process's; it is made when first needed."""
        process = os.getpid()
        if (made := self._made.get(process)) is not None:
            return made
        with _making:
            if process not in self._made:
                self._made = {process: self._make()}
            return self._made[process]
