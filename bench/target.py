"""The target: a server that is measured, and its publisher."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import psutil

from bench.clients.base import sequence
from bench.clients.publisher import Publisher
from bench.processes import Process

Figure = TypeVar("Figure", int, float)

#: Changes that are made before anything is measured: all cursors then have the same length.
WARM_UP_CHANGES = 100
#: Changes that show what publishing costs, and the seconds between two, at most.
BASELINE_CHANGES, MAX_PACE = 4, 0.5


class ServerDied(Exception):
    """The server ended while it was measured."""


class Stopped(Exception):
    """The run was stopped."""


@dataclass(eq=False)
class Target:
    """A server, its address, and what changes its data."""

    publisher: Publisher
    host: str
    port: int
    process: Process | None = None
    name: str = ""  #: as in the Host header
    offset: float = 0.0  #: how many seconds its clock is ahead of ours
    stopping: threading.Event = field(default_factory=threading.Event)  #: set to end the run
    had_clients: bool = False  #: then it has memory to spare, and growth means nothing
    #: Microseconds of CPU per change without subscribers, by pace.
    publish_cpu: dict[float, list[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.name = self.name or f"{self.host}:{self.port}"

    def address(self, transport: str) -> dict[str, Any]:
        """Return what a load generator needs to open clients."""
        return {
            "transport": transport,
            "address": [self.host, self.port],
            "host": self.name,
            "after": self.publisher.cursor,
        }

    def warm_up(self) -> None:
        """Make WARM_UP_CHANGES changes."""
        for _ in range(WARM_UP_CHANGES):
            self.publisher.change()

    def measure_publishing(self, pace: float) -> None:
        """Fill in `publish_cpu`, where the CPU is known.

        One sample per change, at the pace at which it will be measured: a server that has been idle
        for a second takes longer for the same.
        """
        samples = self.publish_cpu[pace] = []
        for _ in range(BASELINE_CHANGES if self.process else 0):
            before = self.cpu() or 0.0
            self.publisher.change()
            self.pause(pace)
            samples.append(round((self.cpu() or 0.0) - before, 1))

    def pause(self, seconds: float) -> None:
        """Wait; raises Stopped if the run is to end."""
        if seconds > 0 and self.stopping.wait(seconds):
            raise Stopped

    def cpu(self) -> float | None:
        """Return the server's microseconds of CPU, None if not known."""
        return self._of(Process.cpu)

    def memory(self) -> int | None:
        """Return its bytes of memory, None if not known."""
        return self._of(Process.memory)

    def _of(self, figure: Callable[[Process], Figure]) -> Figure | None:
        try:
            return figure(self.process) if self.process else None
        except psutil.Error:
            raise ServerDied("the server died") from None

    def keep_lengths(self, changes: int) -> None:
        """Publish until the next cursors have the same length."""
        while self.publisher.controls_data:
            if len(str(self.newest + changes)) == len(str(self.newest + 1)):
                return
            self.publisher.change()

    @property
    def newest(self) -> int:
        """The sequence of the newest reading."""
        return sequence(self.publisher.cursor)

    def explain(self, error: Exception) -> Exception:
        """Return the error, or ServerDied if that caused it."""
        time.sleep(0.1)  # the end of a process is seen a moment after that of its connections
        dead = self.process and not self.process.is_alive
        return ServerDied("the server died") if dead else error
