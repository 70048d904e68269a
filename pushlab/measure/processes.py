"""Processes under observation: what they cost in CPU time and memory."""

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent.parent

#: Seconds between two looks at a process; if it did nothing in between, it is idle.
GLANCE = 0.004
#: Seconds that a process may take to come to rest, and to end when asked to.
PATIENCE = 10.0


class NotRunning(Exception):
    """The program did not start; the message is the end of what it said."""


class Process:
    """A server in a process of its own, with all that it started before the first look."""

    def __init__(self, pid: int, port: int) -> None:
        self.port = port
        self._pids = [pid]

    def beside(self, other: "Process") -> "Process":
        """Return the two as one, which is reached at the other's port."""
        both = Process(self._pids[0], other.port)
        both._pids = self._pids + other._pids
        return both

    @cached_property
    def _family(self) -> list[psutil.Process]:
        parents = [psutil.Process(pid) for pid in self._pids]
        return [*parents, *(child for one in parents for child in one.children(recursive=True))]

    @property
    def is_alive(self) -> bool:
        """False as soon as one of them has ended."""
        return all(
            process.is_running() and process.status() != psutil.STATUS_ZOMBIE
            for process in self._family
        )

    def cpu(self) -> float:
        """Return the microseconds of CPU used so far, once there is nothing more to do.

        The kernel brings a thread's figure up to date when the thread stops running, so it is
        read only when that is the case.
        """
        deadline = time.monotonic() + PATIENCE
        used = self._cpu()
        while True:
            time.sleep(GLANCE)
            if (now := self._cpu()) == used or time.monotonic() > deadline:
                return now
            used = now

    def _cpu(self) -> float:
        return sum(map(_cpu_of, self._family))

    def memory(self) -> int:
        """Return the resident bytes."""
        return sum(process.memory_info().rss for process in self._family)

    def threads(self) -> int:
        """Return how many threads there are."""
        return sum(process.num_threads() for process in self._family)


def _cpu_of(process: psutil.Process) -> float:
    nanoseconds = []
    for thread in Path(f"/proc/{process.pid}/task").glob("*/schedstat"):
        with suppress(FileNotFoundError, ProcessLookupError):  # one that has just ended
            nanoseconds.append(int(thread.read_text().split()[0]))
    if nanoseconds:
        return sum(nanoseconds) / 1e3
    times = process.cpu_times()  # another system: coarser, down to 10 ms
    return float(times.user + times.system) * 1e6


def cores() -> tuple[int, int] | None:
    """Return a core for what is measured and another for the crowd, where one can choose."""
    if sys.platform != "linux":
        return None
    ours = sorted(os.sched_getaffinity(0))
    return (ours[0], ours[-1]) if len(ours) > 1 else None


@contextmanager
def on_core(core: int | None) -> Iterator[None]:
    """Let whatever is started meanwhile run on this core only."""
    if core is None or sys.platform != "linux":
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def running(
    command: Sequence[str], *, environment: Mapping[str, str] | None = None
) -> Iterator[Process]:
    """Run a server that prints its URL when it is ready, followed by a space."""
    pair = cores()
    with tempfile.TemporaryFile("w+") as errors:
        with on_core(pair[0] if pair else None):
            process = subprocess.Popen(  # noqa: S603 - our own programs
                command, cwd=ROOT, stdout=subprocess.PIPE, stderr=errors, text=True,
                env={**os.environ, **(environment or {})},
                start_new_session=True,  # Ctrl-C is for us, who will end it
            )  # fmt: skip
        try:
            found = re.search(r":(\d+) ", process.stdout.readline() if process.stdout else "")
            if not found:
                process.wait(PATIENCE)
                errors.seek(0)
                raise NotRunning(errors.read().strip().rpartition("\n")[2])
            yield Process(process.pid, int(found[1]))
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(PATIENCE)
            process.kill()
            process.wait()
            if process.stdout:
                process.stdout.close()
