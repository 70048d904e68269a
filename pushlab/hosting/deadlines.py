"""Deadlines of connections, kept while the process stands still."""

import math
import time
from collections.abc import Iterable
from typing import Any, Protocol, TypeVar


class Timed(Protocol):
    """A connection that has a deadline."""

    @property
    def deadline(self) -> float:
        """The monotonic time by which bytes must have come."""


Connection = TypeVar("Connection", bound=Timed)


class Deadlines:
    """Finds the connections whose deadline has passed.

    A process may stand still past a deadline: SIGSTOP, a debugger. What clients have sent meanwhile
    is in their sockets, and must be read before they are given up. So a deadline counts at the
    second look that finds it passed: between the two the connections have had their turn.
    """

    def __init__(self) -> None:
        self._late: dict[Any, float] = {}

    def passed(self, connections: Iterable[Connection]) -> list[Connection]:
        """Return those whose deadline the previous call found passed, too."""
        now, before = time.monotonic(), self._late
        late = [(each, deadline) for each in connections if (deadline := each.deadline) < now]
        self._late = dict(late)
        return [each for each, deadline in late if before.get(each, math.nan) == deadline]
