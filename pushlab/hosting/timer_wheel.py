"""Deadlines of thousands of connections.

Hardly any is ever reached. Putting a deadline off costs nothing: a connection that is looked at too
early is put back. Only one that moves before the next look has to be moved here.
"""

import math
import time
from collections.abc import Callable, Iterator
from heapq import heappop, heappush
from itertools import islice
from typing import Any, Protocol

#: How often in a second the wheel looks, at most.
TICKS = 20
#: How many connections it looks at before other work gets its turn.
CHUNK = 256


class Timed(Protocol):
    """A connection that has a deadline."""

    due: float  #: by the monotonic clock, in seconds
    tick: int  #: the wheel's: when it looks at this connection; 0 if it is not on the wheel

    def time_out(self) -> None:
        """Act on the deadline; it is off the wheel."""


class Slot(set[Any]):
    """The connections of one look."""

    __slots__ = ("tick",)

    def __init__(self, tick: int) -> None:
        self.tick = tick  #: one object for all of them


#: One object for all looks that no connection waits for any more.
_NOBODY = Slot(0)


class TimerWheel:
    """All connections with a deadline, by their next look."""

    def __init__(self, call_after: Callable[[float, Callable[[], None]], Any]) -> None:
        self._call_after = call_after  # returns a timer, with `close`
        self._slots: dict[int, Slot] = {}
        self._ticks: list[int] = []  # a heap
        self._timer: Any = None
        self._next = math.inf

    def __iter__(self) -> Iterator[Any]:
        for slot in tuple(self._slots.values()):
            yield from tuple(slot)

    def set(self, one: Timed, due: float) -> None:
        """Call `one.time_out()` then, unless this is changed or undone before."""
        one.due = due
        if 0 < one.tick <= due * TICKS:  # the wheel looks at it before, as nearly always
            return
        tick = int(due * TICKS) + 1
        if one.tick:
            if one.tick == tick:
                return
            self.unset(one)
        slot = self._slots.get(tick)
        if slot is None:
            heappush(self._ticks, tick)
            if tick < self._next:
                self._wake_at(tick)
        if not slot:
            slot = self._slots[tick] = Slot(tick)
        slot.add(one)
        one.tick = slot.tick

    def unset(self, one: Timed) -> None:
        """Take a connection off the wheel."""
        if one.tick:
            slot = self._slots[one.tick]
            slot.discard(one)
            if not slot:  # a set keeps the memory of all that it has had, here for a minute
                self._slots[one.tick] = _NOBODY
            one.tick = 0

    def _wake_at(self, tick: int) -> None:
        if self._timer is not None:
            self._timer.close()
        self._next = tick
        self._timer = self._call_after(max(0.0, tick / TICKS - time.monotonic()), self._turn)

    def _turn(self) -> None:
        now = time.monotonic()
        self._next = math.inf
        try:
            while self._ticks and self._ticks[0] <= now * TICKS:
                tick = self._ticks[0]
                for one in tuple(islice(self._slots[tick], CHUNK)):
                    if one.tick == tick:  # else another's `time_out` has closed or moved it
                        self._look_at(one, now)
                if self._slots[tick]:  # the rest in a moment
                    break
                heappop(self._ticks)
                del self._slots[tick]
        finally:
            if self._ticks:
                self._wake_at(self._ticks[0])

    def _look_at(self, one: Timed, now: float) -> None:
        self.unset(one)
        if one.due > now:
            self.set(one, one.due)
        else:
            one.time_out()
