"""Pace: when the data changes, and how that can be changed while a source waits."""

import threading
from typing import Any

import pytest

from lab import pace
from lab.pace import PACES, Pace
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
    steady.set(name)
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
    "change", [lambda it: it.set("4 per s"), lambda it: it.hurry()], ids=["set", "hurry"]
)
def test_a_waiting_source_notices_the_change(change: Any) -> None:
    paused = Pace()
    paused.set("paused")
    waiting = threading.Thread(target=paused.wait)
    waiting.start()
    eventually(lambda: paused._changed._waiters)  # type: ignore[attr-defined]
    change(paused)
    waiting.join(HANG_TIMEOUT)
    assert not waiting.is_alive()


def test_the_first_pace_has_a_name() -> None:
    assert list(Pace(0.3).names) == ["every 0.3 s", *PACES]
    assert Pace(0.3).name == "every 0.3 s"
    assert list(Pace().names) == list(PACES)
    assert (Pace().name, Pace(1.0).name) == ("irregular", "1 per s")
    with pytest.raises(KeyError):
        Pace().set("fast")
