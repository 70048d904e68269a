"""The driver: it changes the data, has the audiences listen, and takes down what that costs."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import IO, Any, cast

import psutil

from bench.bytes_on_wire import WrongAnswer
from bench.clients.base import sequence
from bench.clients.publisher import Publisher
from bench.clients.worker import ENDLESS
from bench.processes import PATIENCE, ROOT, Process, cores, on_core
from bench.results import Cell, Traffic
from lab.far_ports import FarPort

#: Seconds after which a reading that a client does not have counts as lost.
LOST_AFTER = 5.0
#: Seconds between the order to begin and the beginning.
NOTICE = 0.05
#: Changes that are made before anything is measured: all cursors then have the same length.
WARMING = 100
#: Changes from which one learns what publishing costs, and the seconds between two, at most.
LEARNING, UNHURRIED = 4, 0.5
#: Seconds in which what was under way arrives at slow readers, in the end.
ARRIVING = 0.5


class ServerDied(Exception):
    """The server ended while it was measured; the message says when."""


class Stopped(Exception):
    """Somebody has asked for the run to end."""


class DistantAudience:
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
            raise WrongAnswer("the audience's process ended") from None

    def answer(self) -> dict[str, Any]:
        """Return the answer to the last order; raises WrongAnswer if it is one to an error."""
        if not (line := self._answers.readline()):
            raise WrongAnswer("the audience's process ended")
        found: dict[str, Any] = json.loads(line)
        if "wrong" in found:
            raise WrongAnswer(found["wrong"])
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
        for _ in range(WARMING):
            self.publisher.change()

    def publishing(self, pace: float) -> list[float]:
        """Return the microseconds of CPU that a change costs while there is nobody to tell.

        One sample per change, at the pace at which it will be measured: a server that has rested
        for a second takes longer for the same. Empty where the CPU is not known.
        """
        if not self.process:
            return []
        pace = min(pace, UNHURRIED)
        if pace not in self._publishing:
            samples = self._publishing[pace] = []
            for _ in range(LEARNING):
                before = self.cpu() or 0.0
                self.publisher.change()
                self.pause(pace)
                samples.append(round((self.cpu() or 0.0) - before, 1))
        return self._publishing[pace]

    def knows_publishing(self, pace: float) -> bool:
        """True if that need not be measured any more."""
        return not self.process or min(pace, UNHURRIED) in self._publishing

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


class Measurement:
    """One way of hearing at one venue: what is measured becomes its cell."""

    def __init__(self, cell: Cell, venue: Target, audience: DistantAudience) -> None:
        self.cell = cell
        self.venue = venue
        self.audience = audience

    @contextmanager
    def attended(self) -> Iterator[None]:
        """Have the clients there, at their distance."""
        cell, venue = self.cell, self.venue
        with ExitStack() as stack:
            port, name = venue.port, venue.name
            if cell.distance:
                try:
                    far = FarPort(cell.distance, host=venue.host, server_port=port, prefer=0)
                    stack.callback(far.close)
                    far.wait_until_open()
                except SystemExit as said:  # for programs of which it is a part
                    raise WrongAnswer(f"the relay does not run: {said}") from None
                port, name = far.port, f"{venue.host}:{far.port}"
            venue.cpu()  # which waits until nothing is left of what was before
            memory = venue.memory()
            stack.callback(self._leave)
            found = self.audience.ask(
                "open", transport=cell.transport, carry=cell.carry, clients=cell.clients,
                address=[venue.host, port], host=name,
                after=venue.publisher.cursor, handling=cell.handling,
            )  # fmt: skip
            cell.opening = Traffic(**found["bill"])
            self.settle()
            grown = venue.memory()
            if memory is not None and grown is not None and not venue.was_attended:
                cell.memory = grown - memory
            venue.was_attended = True
            yield

    def _leave(self) -> None:
        with suppress(WrongAnswer):  # which it has said before
            self.audience.ask("leave")

    def settle(self) -> None:
        """Let everybody have the newest reading."""
        take_turn([self], self.venue, changes=1, counted=False)

    def begin(self, begin_at: float, seconds: float, *, phase: float = 0.5) -> None:
        """Have the audience count, and ask if it is its way, for so long (see Audience.begin)."""
        period = self.cell.period or 0.0
        ticks = max(1, round(seconds / period)) if period else 0
        if period and not self.venue.publisher.is_ours:
            ticks = ENDLESS  # nobody knows how long it will take
        self.audience.ask("begin", begin_at=begin_at, ticks=ticks, period=period, phase=phase)

    def record(
        self,
        found: Mapping[str, Any],
        numbers: range,
        *,
        cpu: float | None,
        seconds: float,
        between: float | None,
    ) -> None:
        """Add what was found out in a turn with the readings of these numbers."""
        cell, offset = self.cell, 1e3 * self.venue.offset
        seen = [entry for entry in found["seen"] if entry[0] in numbers]
        cell.published += len(numbers)
        cell.seen += len(seen)
        if cell.handling:  # it may be behind for ever, which is what is looked at
            cell.waiting += found["waiting"]
        else:
            cell.lost += found["lost"]
        missing = len(numbers) * cell.clients - len(seen)
        cell.coalesced += missing - (found["waiting"] if cell.handling else found["lost"])
        cell.known += [round(known + offset, 3) for _, known, _ in seen]
        cell.had += [round(had + offset, 3) for _, _, had in seen]
        for name, amount in found["bill"].items():
            setattr(cell.bill, name, getattr(cell.bill, name) + amount)
        if cpu is not None:
            cell.cpu.append(round(cpu, 1))
            cell.changes.append(len(numbers))
        cell.audience_cpu = max(cell.audience_cpu, round(found["cpu"], 3))
        cell.seconds = round(cell.seconds + seconds, 3)
        if between is not None:  # somebody else's pace
            cell.pace = round(between, 3)
        changed = {int(number): at for number, at in found["changed_at"].items()}
        if (first := min((n for n in changed if n in numbers), default=None)) is not None:
            zero = changed[first]
            cell.trace_changes = [
                round(1e3 * (at - zero), 3)
                for number, at in sorted(changed.items())
                if number in numbers
            ]
            cell.trace = [
                (kind, None if sent is None else _since(zero, sent, self.venue.offset),
                 _since(zero, received, self.venue.offset), up, down)
                for kind, sent, received, up, down in found["trace"]
            ]  # fmt: skip


def _since(zero: float, moment: float, offset: float) -> float:
    return round(1e3 * (moment + offset - zero), 3)


def take_turn(
    trials: Sequence[Measurement],
    venue: Target,
    *,
    changes: int,
    counted: bool = True,
    phase: float = 0.5,
    lost_after: float = LOST_AFTER,
) -> None:
    """Change the data so many times while these listen, all of them at this venue.

    `phase` is when in its period each of them asks, if it is its way (see Audience.begin).
    Raises ServerDied, or WrongAnswer if what happens is not what the protocol says.
    """
    cell, publisher = trials[0].cell, venue.publisher
    try:
        cpu = venue.cpu() if counted else None
        # Whoever has just been told must have the time to ask again.
        begin_at = time.time() + NOTICE + 2 * cell.distance / 1e3
        for trial in trials:
            trial.begin(begin_at, changes * cell.pace if counted else 0.0, phase=phase)
        venue.pause(begin_at - time.time())
        if not publisher.is_ours:
            publisher.refresh()
        first, changed_at = venue.newest, publisher.changed_at
        for number in range(changes):
            if publisher.is_ours:
                venue.pause(begin_at + number * cell.pace - time.time())
            publisher.change()
        last = venue.newest
        deadline = time.time() + (ARRIVING if counted and cell.handling else lost_after)
        for trial in trials:
            trial.audience.order("finish", sequence=last, deadline=deadline)
        found = [trial.audience.answer() for trial in trials]
        ended_at = time.time()
        after = venue.cpu() if counted else None
    except WrongAnswer as error:
        raise venue.explain(error) from error
    if counted:
        for trial, its in zip(trials, found, strict=True):
            trial.record(
                its, range(first + 1, last + 1), seconds=ended_at - begin_at,
                cpu=None if cpu is None or after is None else after - cpu,
                between=None if publisher.is_ours
                else (publisher.changed_at - changed_at) / (last - first),
            )  # fmt: skip
