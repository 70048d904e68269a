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

ROOT = Path(__file__).resolve().parent.parent

#: Seconds between two looks at a process; if it did nothing in between, it is idle.
POLL_INTERVAL = 0.004
#: Seconds until a process is idle, has ended, or has responded.
TIMEOUT = 10.0


class NotRunning(Exception):
    """The program did not start; the message is the end of what it said."""


class Process:
    """A server in a process of its own, with all that it started before the first look."""

    def __init__(self, pid: int, port: int) -> None:
        self.port = port  #: for browsers
        self.inner_port = port  #: for whom it is to take for someone on this machine
        self.pids = [pid]

    def beside(self, other: "Process") -> "Process":
        """Return the two as one, which browsers reach at the other's port."""
        both = Process(self.pids[0], other.port)
        both.pids = self.pids + other.pids
        both.inner_port = self.inner_port
        return both

    @cached_property
    def _family(self) -> list[psutil.Process]:
        parents = [psutil.Process(pid) for pid in self.pids]
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

        That is when no thread runs or wants to: on a busy machine, one that has used nothing for
        a moment may only have had to wait for its turn.
        """
        deadline = time.monotonic() + TIMEOUT
        used = self._cpu()
        while True:
            time.sleep(POLL_INTERVAL)
            was_idle, before, used = self._is_idle(), used, self._cpu()
            if (was_idle and used == before) or time.monotonic() > deadline:
                return used

    def _cpu(self) -> float:
        return sum(map(_cpu_of, self._family))

    def _is_idle(self) -> bool:
        return not any(map(_is_running, self._family))

    def memory(self) -> int:
        """Return the resident bytes."""
        return sum(process.memory_info().rss for process in self._family)

    def threads(self) -> int:
        """Return how many threads there are."""
        return sum(process.num_threads() for process in self._family)


def _cpu_of(process: psutil.Process) -> float:
    if sys.platform == "linux":
        # The process's own clock (see clock_getcpuclockid): exact, and with the threads that have
        # ended, which one cannot ask any more.
        try:
            return time.clock_gettime_ns((~process.pid << 3) | 2) / 1e3
        except OSError:
            raise psutil.NoSuchProcess(process.pid) from None
    times = process.cpu_times()  # another system: coarser, down to 10 ms
    return float(times.user + times.system) * 1e6


def _is_running(process: psutil.Process) -> bool:
    for thread in Path(f"/proc/{process.pid}/task").glob("*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):  # one that has just ended
            if thread.read_text().rpartition(")")[2].split()[0] in "RD":
                return True
    return False


def cores() -> tuple[int, int] | None:
    """Return a core for what is measured and another for the crowd, where one can choose."""
    if sys.platform != "linux":
        return None
    ours = sorted(os.sched_getaffinity(0))
    return (ours[0], ours[-1]) if len(ours) > 1 else None


def environment_of_servers() -> dict[str, str]:
    """Return our environment without what would change how our servers serve."""
    theirs = ("PORT", "PUSHLAB_OPTIONS", "PUSHLAB_TOKEN")
    return {name: value for name, value in os.environ.items() if name not in theirs}


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


def end(process: "subprocess.Popen[str]") -> None:
    """Ask a process to end, and kill it if it does not within TIMEOUT."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(TIMEOUT)
    process.kill()
    process.wait()


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
                env={**environment_of_servers(), **(environment or {})},
                start_new_session=True,  # Ctrl-C is for us, who will end it
            )  # fmt: skip
        try:
            found = re.search(r":(\d+) ", process.stdout.readline() if process.stdout else "")
            if not found:
                process.wait(TIMEOUT)
                errors.seek(0)
                raise NotRunning(errors.read().strip().rpartition("\n")[2])
            yield Process(process.pid, int(found[1]))
        finally:
            end(process)
            if process.stdout:
                process.stdout.close()
