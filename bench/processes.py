"""Servers as processes: their start, CPU time and memory."""

import http.client
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
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


class NotRunning(Exception):
    """The program did not start; the message has its output."""


class Process:
    """A server's process, with those that it started."""

    def __init__(self, pid: int, port: int) -> None:
        self.port = port  #: for browsers
        self.inner_port = port  #: behind the proxy, where the server sees a loopback client
        self.pids = [pid]

    def beside(self, other: "Process") -> "Process":
        """Return both as one, with the other's port for browsers."""
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

    def cpu(self, *, interval: float = POLL_INTERVAL) -> float:
        """Return the microseconds of CPU used, once idle.

        It is idle when no thread runs or is ready to: on a busy machine, a thread that has used
        nothing for a moment may only have waited for its turn. `interval` is the seconds between
        two looks, in which it must use nothing.
        """
        deadline = time.monotonic() + TIMEOUT
        used = self._cpu()
        while True:
            time.sleep(interval)
            was_idle, before, used = self._is_idle(), used, self._cpu()
            if (was_idle and used == before) or time.monotonic() > deadline:
                return used

    def _cpu(self) -> float:
        return sum(map(_cpu_of, self._family))

    def _is_idle(self) -> bool:
        return not any(map(_is_running, self._family))

    def memory(self) -> int:
        """Return the resident set in bytes."""
        return sum(process.memory_info().rss for process in self._family)

    def threads(self) -> int:
        """Return the number of threads."""
        return sum(process.num_threads() for process in self._family)


def _cpu_of(process: psutil.Process) -> float:
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


def cores() -> tuple[int, int] | None:
    """Return cores for servers and for load generators, or None."""
    if sys.platform != "linux":
        return None
    ours = sorted(os.sched_getaffinity(0))
    return (ours[0], ours[-1]) if len(ours) > 1 else None


def environment_of_servers() -> dict[str, str]:
    """Return our environment without the variables that change our servers."""
    excluded = ("PORT", "PUSHLAB_OPTIONS", "PUSHLAB_TOKEN")
    return {name: value for name, value in os.environ.items() if name not in excluded}


@contextmanager
def on_core(core: int | None) -> Iterator[None]:
    """Start processes meanwhile on this core only."""
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
    command: Sequence[str], *, environment: Mapping[str, str] | None = None, port: int = 0
) -> Iterator[Process]:
    """Run a server; yields it once it has started.

    It has started once it responds at the port, or without one, has printed its URL.

    Raises NotRunning if it ends, or does not respond within START_TIMEOUT.
    """
    pair = cores()
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "output")
        with on_core(pair[0] if pair else None), output.open("w") as file:
            process = subprocess.Popen(  # noqa: S603 - our own programs
                command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=file, stderr=file,
                text=True, start_new_session=True,  # Ctrl-C is for us; we end it
                env={**environment_of_servers(), "PYTHONUNBUFFERED": "1", **(environment or {})},
            )  # fmt: skip
        try:
            deadline = time.monotonic() + START_TIMEOUT
            while not (found := _port_of(process, port, output)):
                if process.poll() is not None or time.monotonic() > deadline:
                    said = output.read_text().strip()[-300:]
                    raise NotRunning(f"{Path(command[0]).name} did not start: {said}")
                time.sleep(0.02)
            yield Process(process.pid, found)
        finally:
            _end(process)


def _port_of(process: "subprocess.Popen[str]", port: int, output: Path) -> int:
    """Return the server's port; 0 if it has not started."""
    if port:
        return port if _responds(port) and _listens(process.pid, port) else 0
    printed = re.search(r"http://[\w.]+:(\d+) ", output.read_text())
    return int(printed[1]) if printed else 0


def _listens(pid: int, port: int) -> bool:
    """Tell whether this process or a child listens there.

    Another program may have taken the port before it.
    """
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


def _end(process: "subprocess.Popen[str]") -> None:
    """Terminate a process; kill it after TIMEOUT."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(TIMEOUT)
    process.kill()
    process.wait()
