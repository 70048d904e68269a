"""Greenlets that are used again.

A new greenlet costs more than most requests: the interpreter maps a stack for each.
"""

from collections.abc import Callable
from typing import Any

import gevent
import greenlet

from pushlab import limits


class GreenletPool:
    """Runs functions that may have to wait."""

    def __init__(self) -> None:
        self._hub: Any = gevent.get_hub()
        self._idle: list[Any] = []

    def run(self, function: Callable[..., object], *arguments: Any) -> None:
        """Run the function at once, up to where it waits.

        Only the event loop may call this: another greenlet would not be resumed.
        """
        while self._idle:
            worker = self._idle.pop()
            if not worker.dead:  # as by a `gevent.Timeout` that an app has not cancelled
                worker.gr_context = None  # context variables are those of one function
                break
        else:
            worker = greenlet.greenlet(self._work, self._hub)
        worker.switch((function, arguments))

    def _work(self, job: tuple[Callable[..., object], tuple[Any, ...]]) -> None:
        worker = greenlet.getcurrent()
        while True:
            function, arguments = job
            try:
                function(*arguments)
            except Exception as error:
                self._hub.handle_error(worker, type(error), error, error.__traceback__)
            del function, arguments, job
            if len(self._idle) >= limits.IDLE_GREENLETS:
                return
            self._idle.append(worker)
            job = self._hub.switch()
