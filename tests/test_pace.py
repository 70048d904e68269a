"""Pace: when the data changes, and how that can be changed while a source waits."""

import math
import threading
from typing import Any

import pytest

from lab import pace
from lab.pace import PACES, Pace, Setting
from tests.clients import HANG_TIMEOUT
from tests.conftest import eventually


def waits(pace: Pace, times: int, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return how long each wait takes, by a clock that only the waiting moves."""
    now = 0.0

    def pass_time(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr("lab.pace.time.monotonic", lambda: now)
    monkeypatch.setattr("lab.pace.time.sleep", pass_time)
    monkeypatch.setattr(pace._changed, "wait", pass_time)
    taken = []
    for _ in range(times):
        begun = now
        pace.wait()
        taken.append(now - begun)
    return taken


@pytest.mark.parametrize(
    ("name", "every"), [("20 per s", 0.05), ("4 per s", 0.25), ("1 per s", 1.0)]
)
def test_a_fixed_pace(name: str, every: float, monkeypatch: pytest.MonkeyPatch) -> None:
    steady = Pace()
    steady.set(steady.setting.choose(name))
    assert waits(steady, 100, monkeypatch) == pytest.approx([every] * 100)
    assert steady.longest == every


def test_the_irregular_pace_is_two_seconds_on_average(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = waits(Pace(), 2000, monkeypatch)
    assert sum(taken) / len(taken) == pytest.approx(2.0, abs=0.15)
    assert min(taken) < 1 < 3 < max(taken) <= Pace().longest


def test_a_burst_comes_at_once_and_then_the_pace_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    steady = Pace(5.0)
    steady.hurry(3)
    assert waits(steady, 5, monkeypatch) == pytest.approx([pace.BURST_GAP] * 3 + [5.0] * 2)


def test_changes_beyond_the_limit_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    steady = Pace(5.0)
    for _ in range(100):
        steady.hurry(50)
    taken = waits(steady, pace.MAX_HURRY + 1, monkeypatch)
    assert taken[-2:] == pytest.approx([pace.BURST_GAP, 5.0])


@pytest.mark.parametrize(
    "change",
    [lambda it: it.set(it.setting.choose("4 per s")), lambda it: it.hurry()],
    ids=["set", "hurry"],
)
def test_a_waiting_source_notices_the_change(change: Any) -> None:
    paused = Pace()
    paused.set(paused.setting.choose("paused"))
    waiting = threading.Thread(target=paused.wait)
    waiting.start()
    eventually(lambda: paused._changed._waiters)  # type: ignore[attr-defined]
    change(paused)
    waiting.join(HANG_TIMEOUT)
    assert not waiting.is_alive()


def test_the_first_pace_has_a_name() -> None:
    assert list(Pace(0.3).names) == ["every 0.3 s", *PACES]
    assert Pace(0.3).setting.name == "every 0.3 s"
    assert list(Pace().names) == list(PACES)
    assert (Pace().setting.name, Pace(1.0).setting.name) == ("irregular", "1 per s")


CHOSEN, PAUSED = Setting("1 per s", "1 per s"), Setting("paused", "1 per s")
LENT = CHOSEN.borrow("20 per s", "a")
OWN = Setting("irregular", "irregular")


@pytest.mark.parametrize(
    ("after", "before", "change"),
    [
        (CHOSEN, CHOSEN, lambda it: it.choose("1 per s")),
        (Setting("4 per s", "4 per s"), CHOSEN, lambda it: it.choose("4 per s")),
        (PAUSED, CHOSEN, lambda it: it.choose("paused")),
        (PAUSED, PAUSED, lambda it: it.choose("paused")),
        (CHOSEN, PAUSED, lambda it: it.choose(it.resume)),
        (PAUSED, PAUSED.borrow("20 per s", "a"), lambda it: it.give_back("a")),
        (CHOSEN, LENT, lambda it: it.give_back("a")),
        (LENT, LENT, lambda it: it.give_back("b")),
        (CHOSEN, CHOSEN, lambda it: it.give_back("")),
        (CHOSEN, LENT.borrow("paused", "b"), lambda it: it.give_back("b")),
        (LENT.borrow("paused", "b"), LENT.borrow("paused", "b"), lambda it: it.give_back("a")),
        (PAUSED, LENT, lambda it: it.choose("paused")),
        (CHOSEN, LENT.borrow("paused", "a"), lambda it: it.choose(it.resume)),
    ],
)  # fmt: skip
def test_what_is_borrowed_is_given_back(after: Setting, before: Setting, change: Any) -> None:
    assert change(before) == after
    assert after.name == (after.borrowed or after.pace)


@pytest.mark.parametrize(
    ("setting", "known"),
    [
        (Setting("fast", "1 per s"), Setting("irregular", "1 per s")),
        (Setting("paused", "fast"), Setting("paused", "irregular")),
        (CHOSEN.borrow("fast", "a"), CHOSEN.borrow("irregular", "a")),
        (Setting("fast", "fast").borrow("paused", "a"), OWN.borrow("paused", "a")),
        (Setting("", "", "", ""), OWN),
    ],
)
def test_the_pace_of_another_process_may_be_unknown(setting: Setting, known: Setting) -> None:
    """Else a pause would not hold in a process that was started with another --pace."""
    pace = Pace()
    pace.set(setting)
    assert pace.setting == known
    assert pace.longest == {"paused": math.inf, "1 per s": 1.0, "irregular": 3.5}[known.name]
