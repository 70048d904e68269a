"""The benchmark of attackers works; how fast servers are is not tested here."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import docutils.core
import pytest

from bench import fairness
from bench.fairness import ATTACKS, FIGURES, Attack, measure, tables
from bench.processes import Process
from bench.servers import started


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_others_are_measured_during_an_attack(attack: Attack) -> None:
    found = measure("serve.py", attack, 0.5)
    assert min(found.get_ms) > 0
    assert found.late_ms, "the last change is waited for"
    assert found.missed >= 0
    text = "\n\n".join(tables({"measured": [found._asdict()]}))
    docutils.core.publish_string(text, settings_overrides={"halt_level": 2, "report_level": 2})
    for figure in FIGURES:
        assert figure.title in text


def test_a_server_that_stands_still_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written before the change stops the server for half a second."""
    processes: list[int] = []

    @contextmanager
    def recorded(*arguments: Any, **options: Any) -> Iterator[Process]:
        with started(*arguments, **options) as process:
            processes.extend(process.pids)
            yield process

    def stand_still() -> bytes:
        os.kill(processes[0], signal.SIGSTOP)
        time.sleep(0.5)
        os.kill(processes[0], signal.SIGCONT)
        return b""

    monkeypatch.setattr(fairness, "started", recorded)
    assert measure("serve.py", Attack("stand still", lines=stand_still), 0.1).latest >= 500
