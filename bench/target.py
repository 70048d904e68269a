"""The driver: it changes the data, has the audiences listen, and takes down what that costs."""

import json
import subprocess
import sys
import threading
import time
from contextlib import suppress
from typing import IO, Any, cast

import psutil

from bench.bytes_on_wire import WrongResponse
from bench.clients.base import sequence
from bench.clients.publisher import Publisher
from bench.processes import PATIENCE, ROOT, Process, cores, on_core

#: Changes that are made before anything is measured: all cursors then have the same length.
WARM_UP_CHANGES = 100
#: Changes that show what publishing costs, and the seconds between two, at most.
BASELINE_CHANGES, MAX_PACE = 4, 0.5


class ServerDied(Exception):
    """The server ended while it was measured; the message says when."""


class Stopped(Exception):
    """Somebody has asked for the run to end."""


class Worker:
    """An audience in a process of its own (see audience.py)."""

    def __init__(self) -> None:
        pair = cores()
        with on_core(pair[1] if pair else None):
            self._process = subprocess.Popen(
                [sys.executable, "-m", "bench.clients.worker"], cwd=ROOT,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
            )  # fmt: skip
        self._orders = cast(IO[bytes], self._process.stdin)
        self._answers = cast(IO[bytes], self._process.stdout)

    def order(self, what: str, **how: Any) -> None:
        """Give an order; whoever gives it reads the answer, too."""
        try:
            self._orders.write(json.dumps({"do": what, **how}).encode() + b"\n")
            self._orders.flush()
        except BrokenPipeError:
            raise WrongResponse("the audience's process ended") from None

    def answer(self) -> dict[str, Any]:
        """Return the answer to the last order; raises WrongAnswer if it is one to an error."""
        if not (line := self._answers.readline()):
            raise WrongResponse("the audience's process ended")
        found: dict[str, Any] = json.loads(line)
        if "wrong" in found:
            raise WrongResponse(found["wrong"])
        return found

    def ask(self, what: str, **how: Any) -> dict[str, Any]:
        """Give an order and return its answer."""
        self.order(what, **how)
        return self.answer()

    def close(self) -> None:
        """End the process."""
        with suppress(BrokenPipeError):  # it has ended by itself
            self._orders.close()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._answers.close()


class Target:
    """A server, what changes its data, and from where it can be reached."""

    def __init__(
        self,
        publisher: Publisher,
        *,
        host: str,
        port: int,
        process: Process | None = None,
        name: str = "",
        stopping: threading.Event | None = None,
    ) -> None:
        self.publisher = publisher
        self.host = host
        self.port = port
        self.process = process
        self.name = name or f"{host}:{port}"  #: as in the Host header
        self.was_attended = False  #: then it has memory to spare, and growth tells nothing
        self.offset = 0.0  #: how many seconds its clock is ahead of ours
        self.stopping = stopping or threading.Event()  #: set by who wants the run to end
        self._publishing: dict[float, list[float]] = {}

    def warm_up(self) -> None:
        """Change the data WARMING times."""
        for _ in range(WARM_UP_CHANGES):
            self.publisher.change()

    def publish_cpu(self, pace: float) -> list[float]:
        """Return the microseconds of CPU that a change costs while there is nobody to tell.

        One sample per change, at the pace at which it will be measured: a server that has rested
        for a second takes longer for the same. Empty where the CPU is not known.
        """
        if not self.process:
            return []
        pace = min(pace, MAX_PACE)
        if pace not in self._publishing:
            samples = self._publishing[pace] = []
            for _ in range(BASELINE_CHANGES):
                before = self.cpu() or 0.0
                self.publisher.change()
                self.pause(pace)
                samples.append(round((self.cpu() or 0.0) - before, 1))
        return self._publishing[pace]

    def knows_publish_cpu(self, pace: float) -> bool:
        """True if that need not be measured any more."""
        return not self.process or min(pace, MAX_PACE) in self._publishing

    def pause(self, seconds: float) -> None:
        """Wait; raises Stopped if the run is to end."""
        if seconds > 0 and self.stopping.wait(seconds):
            raise Stopped

    def cpu(self) -> float | None:
        """Return the microseconds of CPU that the server has used, None if it is not ours."""
        try:
            return self.process.cpu() if self.process else None
        except psutil.Error:
            raise ServerDied("the server died") from None

    def memory(self) -> int | None:
        """Return the bytes of memory that it has, None if it is not ours."""
        try:
            return self.process.memory() if self.process else None
        except psutil.Error:
            raise ServerDied("the server died") from None

    def keep_lengths(self, changes: int) -> None:
        """Let so many changes come without a cursor that is longer than the others."""
        while self.publisher.is_ours and len(str(self.newest + changes)) > len(
            str(self.newest + 1)
        ):
            self.publisher.change()

    @property
    def newest(self) -> int:
        """The number of the newest reading."""
        return sequence(self.publisher.cursor)

    def explain(self, error: Exception) -> Exception:
        """Return what is to be said of an error: if the server has died, that."""
        time.sleep(0.1)  # the end of a process is seen a moment after that of its connections
        if self.process and not self.process.is_alive:
            return ServerDied("the server died")
        return error
