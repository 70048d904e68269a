"""What comes again in many requests is understood once."""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from pushlab import limits

R = TypeVar("R")


class _Results(dict[Any, R], Generic[R]):
    """A function's results; what is missing is computed."""

    __slots__ = ("_came_once", "_function", "_limit")

    def __init__(self, function: Callable[[Any], R], limit: str) -> None:
        self._function = function
        self._limit = limit
        self._came_once: set[int] = set()  # the texts' hashes

    def __missing__(self, text: Any) -> R:
        result = self._function(text)
        if result is None or len(text) > getattr(limits, self._limit):
            return result
        number = hash(text)
        if number not in self._came_once:
            # Not yet: what never comes again would fill the memory, and the processor's caches.
            if len(self._came_once) >= limits.REMEMBERED:
                self._came_once.clear()
            self._came_once.add(number)
        else:
            if len(self) >= limits.REMEMBERED:
                self.clear()
            self[text] = result
        return result


def remembered(
    function: Callable[[Any], R], limit: str = "REMEMBERED_LENGTH"
) -> Callable[[Any], R]:
    """Remember results, unless None, for short texts that came twice.

    Clients choose what they send: with long texts they would fill the memory. `limit` is the name
    of the length's. What is returned is the look-up of a dict, without a call in Python.
    """
    return _Results(function, limit).__getitem__
