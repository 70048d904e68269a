"""The least that a broadcast costs, measured with `floor.c`."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.fanout.subscribers import Subscribers, subscribers
from bench.processes import NotRunning, Process, cpu_of, running

SOURCE = Path(__file__).with_name("floor.c")


@dataclass
class Floor:
    """The floor, with as many subscribers as the server."""

    _process: Process
    _subscribers: Subscribers

    def grow(self, size: int) -> None:
        """Have this many subscribers; it never has fewer again."""
        self._subscribers.join(size - self._subscribers.count, "frames")

    def cost(self, times: int) -> float:
        """Return the microseconds of CPU of one send."""
        cost = cpu_of(self._process, self._subscribers.broadcast, times)
        return cost / self._subscribers.count


def build(source: Path, program: str) -> None:
    """Compile a program; raises NotRunning without a C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if not compiler:
        raise NotRunning(f"the {source.stem} is a program in C: install a C compiler, such as gcc")
    command = [compiler, "-O2", "-o", program, str(source)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if built.returncode:
        raise NotRunning(f"{compiler} did not build {source.name}: {built.stderr[-300:]}")


@contextmanager
def floor() -> Iterator[Floor]:
    """Run the floor; raises NotRunning without a C compiler."""
    with tempfile.TemporaryDirectory() as folder:
        program = str(Path(folder, "floor"))
        build(SOURCE, program)
        with running([program]) as process, subscribers(process.port, "floor") as those:
            yield Floor(process, those)
