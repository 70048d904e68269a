"""Deadlines on the wheel, and greenlets of the pool: forced schedules, without a wait."""

import contextvars
import sys
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import greenlet
import pytest

from pushlab import limits
from pushlab.hosting import timer_wheel
from pushlab.hosting.greenlet_pool import GreenletPool
from pushlab.hosting.timer_wheel import TimerWheel


class Clock:
    """The wheel's clock and timer, which stand still until `run_to`."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._due: tuple[float, Callable[[], None]] | None = None

    def monotonic(self) -> float:
        return self.now

    def call_after(self, seconds: float, callback: Callable[[], None]) -> "Clock":
        self._due = self.now + seconds, callback
        return self

    def close(self) -> None:
        self._due = None

    def run_to(self, now: float) -> None:
        """Let the time pass, with all that is due until then."""
        while self._due is not None and self._due[0] <= now:
            (self.now, callback), self._due = self._due, None
            callback()
        self.now = now


class One:
    """A connection that notes when its time is over."""

    due, tick = 0.0, 0

    def __init__(self, wheel: TimerWheel, noted: list["One"], then: Any = None) -> None:
        self._wheel, self._noted, self._then = wheel, noted, then

    def time_out(self) -> None:
        self._noted.append(self)
        assert self.tick == 0
        assert self not in self._wheel
        if self._then is not None:
            self._then()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(timer_wheel, "time", clock)
    return clock


@pytest.fixture
def wheel(clock: Clock) -> TimerWheel:
    return TimerWheel(clock.call_after)


def test_deadlines_come_in_their_order_and_never_early(clock: Clock, wheel: TimerWheel) -> None:
    noted: list[One] = []
    late = [0.52, 0.1, 75.0, 0.31, 10.0]
    ones = {seconds: One(wheel, noted) for seconds in late}
    for seconds, one in ones.items():
        wheel.set(one, clock.now + seconds)
    for seconds in sorted(late):
        clock.run_to(1000 + seconds - 0.001)
        assert ones[seconds] not in noted
        clock.run_to(1000 + seconds + 2 / timer_wheel.TICKS)
        assert noted[-1] is ones[seconds]
    assert len(noted) == len(late)
    assert list(wheel) == []


#: The moves of one deadline, in seconds from now; the last is None if it is taken off.
@pytest.mark.parametrize(
    "moves",
    [[1, 2], [2, 1], [1, 2, 1], [1, 3, 2], [3, 1, 2, 0.5], [1, 1], [1, None], [1, 2, None],
     [1, None, 2], [1, None, None]],
)  # fmt: skip
def test_the_last_move_of_a_deadline_counts(
    clock: Clock, wheel: TimerWheel, moves: list[float | None]
) -> None:
    noted: list[One] = []
    one = One(wheel, noted)
    for move in moves:
        if move is None:
            wheel.unset(one)
        else:
            wheel.set(one, clock.now + move)
    last = moves[-1]
    assert list(wheel) == [one] * (last is not None)
    clock.run_to(1000 + (last or 5) - 0.001)
    assert noted == []
    clock.run_to(1010)
    assert noted == [one] * (last is not None)


def test_other_work_gets_its_turn_between_many(clock: Clock, wheel: TimerWheel) -> None:
    """As when a process has stood still."""
    noted: list[One] = []
    for _ in range(3 * timer_wheel.CHUNK):
        wheel.set(One(wheel, noted), clock.now + 1)
    sizes = []
    call_after = clock.call_after

    def noting(seconds: float, callback: Callable[[], None]) -> Clock:
        sizes.append(len(noted))
        return call_after(seconds, callback)

    wheel._call_after = noting
    clock.run_to(1002)
    assert sizes == [timer_wheel.CHUNK, 2 * timer_wheel.CHUNK]
    assert len(set(noted)) == 3 * timer_wheel.CHUNK


@pytest.mark.parametrize("change", ["closed", "moved", "moved and back"])
def test_one_may_change_another_in_the_same_turn(
    clock: Clock, wheel: TimerWheel, change: str
) -> None:
    noted: list[One] = []

    def then() -> None:
        other = next((one for one in ones if one not in noted), None)
        if other is None:
            return
        if change == "closed":
            wheel.unset(other)
        else:
            wheel.unset(other)
            wheel.set(other, clock.now + (5 if change == "moved" else 0.01))

    ones = [One(wheel, noted, then), One(wheel, noted, then)]
    for one in ones:
        wheel.set(one, clock.now + 1)
    clock.run_to(1004)
    assert len(noted) == (2 if change == "moved and back" else 1)
    clock.run_to(1010)
    assert len(noted) == (1 if change == "closed" else 2)


def test_an_error_stops_no_other(clock: Clock, wheel: TimerWheel) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    noted: list[One] = []
    ones = [One(wheel, noted, fail) for _ in range(3)]
    for one in ones:
        wheel.set(one, clock.now + 1)
    for _ in ones:
        with pytest.raises(ZeroDivisionError):  # gevent's loop logs it, and goes on
            clock.run_to(1002)
    clock.run_to(1002)
    assert set(noted) == set(ones)


# The pool.


@pytest.fixture
def run() -> Iterator[Callable[..., None]]:
    """Run functions in the pool, each by a callback of the loop, as a server does."""
    pool = GreenletPool()

    def run(*functions: Callable[[], object]) -> None:
        loop = gevent.get_hub().loop
        for function in functions:
            loop.run_callback(pool.run, function)
        gevent.sleep(0)

    yield run
    assert len(pool._idle) <= limits.IDLE_GREENLETS


def test_a_greenlet_is_used_again(run: Callable[..., None]) -> None:
    used = []
    for _ in range(5):
        run(lambda: used.append(greenlet.getcurrent()))
    assert len(used) == 5
    assert len(set(used)) == 1


def test_those_that_wait_are_not_used(run: Callable[..., None]) -> None:
    count = 3 * limits.IDLE_GREENLETS
    event, used, ended = gevent.event.Event(), [], []

    def wait() -> None:
        used.append(greenlet.getcurrent())
        event.wait()
        ended.append(greenlet.getcurrent())

    run(*[wait] * count)
    assert (len(set(used)), len(ended)) == (count, 0)
    event.set()
    gevent.sleep(0)
    assert set(ended) == set(used)
    assert sum(not each.dead for each in used) == limits.IDLE_GREENLETS


@pytest.mark.parametrize("error", [ZeroDivisionError, gevent.GreenletExit, gevent.Timeout])
def test_after_an_error_functions_still_run(
    run: Callable[..., None], error: type[BaseException], capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise error

    ran: list[int] = []
    run(lambda: ran.append(1), fail, lambda: ran.append(2), lambda: ran.append(3))
    assert ran == [1, 2, 3]
    assert (error.__name__ in capsys.readouterr().err) == (error is not gevent.GreenletExit)


def test_what_is_thrown_into_an_idle_greenlet_stops_no_function(
    run: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    """As by a `gevent.Timeout` that an app has not cancelled."""
    used, ran = [], []
    run(lambda: used.append(greenlet.getcurrent()))
    gevent.kill(used[0], ZeroDivisionError())
    gevent.sleep(0)
    assert used[0].dead
    run(lambda: ran.append(1))
    assert ran == [1]
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_a_context_variable_is_of_one_function(run: Callable[..., None]) -> None:
    variable, seen = contextvars.ContextVar("variable", default=0), []
    run(lambda: variable.set(1), lambda: seen.append(variable.get()))
    assert seen == [0]


def test_deadlines_that_were_moved_leave_no_memory_behind(clock: Clock, wheel: TimerWheel) -> None:
    """As those of polls that have had their response, until the look a minute later."""
    noted: list[One] = []
    ones = [One(wheel, noted) for _ in range(100)]
    for one in ones:
        wheel.set(one, clock.now + 75)
    for one in ones:
        wheel.set(one, clock.now + 25)
    sizes = [sys.getsizeof(slot) for slot in wheel._slots.values()]
    assert min(sizes) == sys.getsizeof(timer_wheel.Slot(1))
    assert len(wheel._ticks) == len(wheel._slots) == 2
    wheel.set(ones[0], clock.now + 75)  # the same look again
    clock.run_to(1080)
    assert noted.count(ones[0]) == 1
    assert set(noted) == set(ones)


def test_the_last_of_a_turn_may_name_a_deadline_that_has_passed(
    clock: Clock, wheel: TimerWheel
) -> None:
    noted: list[One] = []
    late = One(wheel, noted)
    wheel.set(One(wheel, noted, lambda: wheel.set(late, clock.now - 0.05)), clock.now + 1)
    clock.run_to(1002)
    assert noted[-1] is late
