"""What comes again in many requests is understood once."""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from pushlab import limits

R = TypeVar("R")


class _Results(dict[Any, R], Generic[R]):
    """A function's results; what is missing is computed."""

    def __init__(self, function: Callable[[Any], R], longest: int) -> None:
        self._function = function
        self._longest = longest
        self._came_once: set[int] = set()  # the texts' hashes

    def __missing__(self, text: Any) -> R:
        result = self._function(text)
        if result is not None and len(text) <= self._longest:
            self._remember(text, result)
        return result

    def _remember(self, text: Any, result: R) -> None:
        # Not the first time: what never comes again would fill the memory, and the processor's
        # caches.
        if (number := hash(text)) in self._came_once:
            if len(self) >= limits.REMEMBERED:
                self.clear()
            self[text] = result
        else:
            if len(self._came_once) >= limits.REMEMBERED:
                self._came_once.clear()
            self._came_once.add(number)


def remembered(
    function: Callable[[Any], R], longest: int = limits.REMEMBERED_LENGTH
) -> Callable[[Any], R]:
    """Remember a function's results for short texts, unless None.

    Clients choose what they send: with long texts they would fill the memory. What is returned is
    the look-up of a dict, without a call in Python.
    """
    return _Results(function, longest).__getitem__
