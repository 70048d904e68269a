"""Several processes of one program: what becomes of those that never listen."""

import signal
import sys
from pathlib import Path

import psutil
import pytest

from tests.conftest import Program, eventually

PROGRAM = """
import pathlib, time
from pushlab.hosting import workers

here = pathlib.Path(__file__).parent
if workers.is_worker():
    if not (here / "hang").exists():
        print("It listens", flush=True)
    time.sleep(3600)
workers.supervise(2, "127.0.0.1", 0, lambda port: f"port {port}")
"""


@pytest.mark.parametrize("generation", [1, 2])
def test_a_worker_that_never_listens_does_not_delay_the_stop(
    tmp_path: Path, generation: int
) -> None:
    """Neither of those that are started first, nor at a restart by SIGHUP."""
    (tmp_path / "program.py").write_text(PROGRAM)
    if generation == 1:
        (tmp_path / "hang").touch()
    program = Program(str(tmp_path / "program.py"), command=[sys.executable])
    if generation == 2:
        eventually(lambda: program.out)
        (tmp_path / "hang").touch()
        program.process.send_signal(signal.SIGHUP)
    eventually(lambda: len(program.children) == generation + 1)
    children = program.children
    program.stop()
    assert not psutil.wait_procs(children, timeout=0)[1]
    assert program.process.returncode == 0


def test_others_are_replaced_while_one_never_listens(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    program = Program(str(tmp_path / "program.py"), command=[sys.executable])
    eventually(lambda: program.out)
    before = program.children
    (tmp_path / "hang").touch()
    program.process.send_signal(signal.SIGHUP)
    eventually(lambda: len(program.children) == 3)
    before[1].kill()
    eventually(lambda: before[1] not in program.children and len(program.children) == 3)
    assert before[0] in program.children, "it serves until another listens"
    program.stop()


#: SIGHUP comes when the first two have a successor, but before that has its place.
ASKED_MEANWHILE = """
import os, signal
start = workers._Workers._start
started = []

def start_and_ask(self):
    started.append(start(self))
    if len(started) == 3:
        (here / "third").write_text(str(started[-1].pid))
        os.kill(os.getpid(), signal.SIGHUP)
    return started[-1]

workers._Workers._start = start_and_ask
"""


def test_a_process_that_is_just_started_is_restarted_too(tmp_path: Path) -> None:
    """It may have loaded what was there before."""
    place = "workers.supervise("
    (tmp_path / "program.py").write_text(PROGRAM.replace(place, ASKED_MEANWHILE + place))
    program = Program(str(tmp_path / "program.py"), command=[sys.executable])
    eventually(lambda: program.out)
    program.children[0].kill()
    third = int(eventually(lambda: (it := tmp_path / "third").exists() and it.read_text()))
    eventually(lambda: third not in {each.pid for each in program.children})
    program.stop()
