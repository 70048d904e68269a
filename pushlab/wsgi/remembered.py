"""What comes again in many requests is understood once."""

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any, TypeVar

from pushlab import limits

R = TypeVar("R")


def remembered(function: Callable[..., R]) -> Callable[..., R]:
    """Remember results for short texts, the first argument.

    Clients choose what they send: with long texts they would fill the memory.
    """
    remembering = lru_cache(limits.REMEMBERED)(function)

    @wraps(function)
    def result(text: str, *more: Any) -> R:
        return (remembering if len(text) <= limits.REMEMBERED_LENGTH else function)(text, *more)

    return result
