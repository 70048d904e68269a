"""Servers as processes: their start, CPU time and memory."""

import http.client
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent

#: Seconds between two looks at a process; if it did nothing in between, it is idle.
POLL_INTERVAL = 0.004
#: Seconds until a process is idle, has ended, or has responded.
TIMEOUT = 10.0
#: Seconds until a server has started.
START_TIMEOUT = 30.0
#: Variables of the environment that change our servers.
_OPTIONS = {"PORT", "PUSHLAB_OPTIONS", "PUSHLAB_TOKEN"}


class NotRunning(Exception):
    """The program did not start; the message has its output."""


@dataclass
class Process:
    """A server's processes, with those that they started."""

    pids: Sequence[int]
    port: int  #: for browsers
    inner_port: int = 0  #: behind a proxy, where the server sees a loopback client

    def __post_init__(self) -> None:
        self.inner_port = self.inner_port or self.port

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

    def cpu(self, *, interval: float = POLL_INTERVAL) -> float:
        """Return the microseconds of CPU used, once idle.

        It is idle when no thread runs or is ready to: on a busy machine, a thread that has used
        nothing for a moment may only have waited for its turn. `interval` is the seconds between
        two looks, in which it must use nothing.
        """
        deadline = time.monotonic() + TIMEOUT
        used = sum(map(_used, self._family))
        while True:
            time.sleep(interval)
            was_idle = not any(map(_is_running, self._family))
            before, used = used, sum(map(_used, self._family))
            if (was_idle and used == before) or time.monotonic() > deadline:
                return used

    def cpu_of_each(self) -> list[float]:
        """Return the microseconds of CPU used by each process."""
        return list(map(_used, self._family))

    def memory(self) -> int:
        """Return the resident set in bytes."""
        return sum(process.memory_info().rss for process in self._family)


def cpu_of(process: Process, work: Callable[[], object], times: int = 1) -> float:
    """Return the average CPU microseconds of some work."""
    before = process.cpu()
    for _ in range(times):
        work()
    return (process.cpu() - before) / times


def _used(process: psutil.Process) -> float:
    if sys.platform == "linux":
        # The process's own clock (see clock_getcpuclockid) is exact, and includes threads that have
        # ended.
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


@contextmanager
def on_core(place: int | None) -> Iterator[None]:
    """Start processes on core 0 or -1; None: any core."""
    if sys.platform != "linux" or place is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {sorted(before)[place]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def running(
    command: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    port: int = 0,
    stdin: int = subprocess.DEVNULL,
    stderr: int | None = None,
    core: int | None = 0,
) -> Iterator[Process]:
    """Run a server; yields it once it has started.

    It has started once it responds at the port, or without one, has printed its URL. Raises
    NotRunning if it ends, or does not respond within START_TIMEOUT.
    """
    inherited = {name: os.environ[name] for name in os.environ.keys() - _OPTIONS}
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "output")
        with on_core(core), output.open("w") as file:
            process = subprocess.Popen(  # noqa: S603 - our own programs
                command,
                cwd=ROOT,
                stdin=stdin,
                stdout=file,
                stderr=file if stderr is None else stderr,
                start_new_session=True,  # Ctrl-C is for us; we end it
                env={**inherited, "PYTHONUNBUFFERED": "1", **(environment or {})},
            )
        try:
            deadline = time.monotonic() + START_TIMEOUT
            while not (found := _port_of(process.pid, port, output)):
                if process.poll() is not None or time.monotonic() > deadline:
                    said = output.read_text().strip()[-300:]
                    raise NotRunning(f"{Path(command[0]).name} did not start: {said}")
                time.sleep(0.02)
            yield Process([process.pid], found)
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(TIMEOUT)
            process.kill()
            process.wait()


def _port_of(pid: int, port: int, output: Path) -> int:
    """Return the server's port; 0 if it has not started."""
    if port:
        return port if _listens(pid, port) and _responds(port) else 0
    printed = re.search(r"https?://[\w.]+:(\d+) ", output.read_text())
    return int(printed[1]) if printed else 0


def _listens(pid: int, port: int) -> bool:
    """Tell whether it is this process at the port."""
    try:
        process = psutil.Process(pid)
        return any(
            connection.status == psutil.CONN_LISTEN and connection.laddr.port == port
            for one in (process, *process.children(recursive=True))
            for connection in one.net_connections("tcp")
        )
    except psutil.AccessDenied:
        return True  # this system does not say
    except psutil.NoSuchProcess:
        return False


def _responds(port: int) -> bool:
    # Not by urllib, which would use a proxy that the environment names.
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=5)) as connection:
        try:
            connection.request("GET", "/data")
            return connection.getresponse().status == 200  # nginx may be up before its server
        except (OSError, http.client.HTTPException):
            return False
