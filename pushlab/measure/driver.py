"""The driver: it changes the data, has the audiences listen, and takes down what that costs."""

import http.client
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import IO, Any, Protocol, cast

import psutil

from pushlab.far_ports import FarPort
from pushlab.measure.audience import ENDLESS
from pushlab.measure.clients.client import sequence
from pushlab.measure.processes import PATIENCE, ROOT, Process, cores, on_core
from pushlab.measure.results import Bill, Cell
from pushlab.measure.wire import WrongAnswer

#: What the data says while it is measured: always the same, so that every update costs the same.
VALUE: dict[str, Any] = {"cpu_percent": 12.5, "memory_percent": 41.0, "load": 0.42}
#: Seconds after which a reading that a client does not have counts as lost.
LOST_AFTER = 5.0
#: Seconds between the order to begin and the beginning.
NOTICE = 0.05
#: Changes that are made before anything is measured: all cursors then have the same length.
WARMING = 100


class ServerDied(Exception):
    """The server ended while it was measured; the message says when."""


class Publisher(Protocol):
    """What changes the data, or waits until it changes."""

    cursor: str  #: of the newest reading
    is_ours: bool  #: nobody else changes the data

    def change(self, value: Mapping[str, Any] = VALUE) -> Mapping[str, Any]:
        """Make a change, or wait for one; return what the data says from then on."""

    def close(self) -> None:
        """Hang up."""


class Posting:
    """It changes the data with `POST /data`."""

    is_ours = True

    def __init__(self, host: str, port: int, *, token: str = "", name: str = "") -> None:
        self._connection = http.client.HTTPConnection(host, port, timeout=PATIENCE)
        self._headers = {"Host": name or f"{host}:{port}"}
        self.cursor = newest(self._connection, self._headers)
        if token:
            self._headers["Authorization"] = f"Bearer {token}"

    def change(self, value: Mapping[str, Any] = VALUE) -> Mapping[str, Any]:
        try:
            self._connection.request("POST", "/data", json.dumps(value), self._headers)
            answer = self._connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise WrongAnswer(f"POST /data: {error or type(error).__name__}") from error
        if answer.status != 201:
            raise WrongAnswer(f"POST /data: {answer.status} {body.decode(errors='replace')[:200]}")
        self.cursor = str(json.loads(body)["cursor"])
        return value

    def close(self) -> None:
        self._connection.close()


class Watching:
    """It waits until the data changes by itself: with long polls, one after the other."""

    is_ours = False

    def __init__(self, host: str, port: int, *, name: str = "", patience: float = 60.0) -> None:
        self._connection = http.client.HTTPConnection(host, port, timeout=patience)
        self._headers = {"Host": name or f"{host}:{port}"}
        self._patience = patience
        self.cursor = newest(self._connection, self._headers)

    def change(self, value: Mapping[str, Any] = VALUE) -> Mapping[str, Any]:
        deadline = time.monotonic() + self._patience
        while time.monotonic() < deadline:
            try:
                path = f"/update?carry=1&after={self.cursor}"
                self._connection.request("GET", path, headers=self._headers)
                answer = self._connection.getresponse()
                body = answer.read()
            except (OSError, http.client.HTTPException) as error:
                raise WrongAnswer(f"GET /update: {error or type(error).__name__}") from error
            if answer.status == 200:
                reading: dict[str, Any] = json.loads(body)
                self.cursor = reading["cursor"]
                return dict(reading["value"])
        raise WrongAnswer(f"the data has not changed for {self._patience:.0f} s")

    def close(self) -> None:
        self._connection.close()


def newest(connection: http.client.HTTPConnection, headers: Mapping[str, str]) -> str:
    """Return the cursor of the newest reading; raises WrongAnswer if /data is none."""
    try:
        connection.request("GET", "/data", headers=dict(headers))
        answer = connection.getresponse()
        body = answer.read()
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "strerror", None) or error or type(error).__name__
        raise WrongAnswer(f"GET /data: {reason}") from error
    try:
        return str(json.loads(body)["cursor"])
    except (ValueError, TypeError, KeyError):
        raise WrongAnswer(f"GET /data: {answer.status}, and no reading") from None


class DistantAudience:
    """An audience in a process of its own (see audience.py)."""

    def __init__(self) -> None:
        pair = cores()
        with on_core(pair[1] if pair else None):
            self._process = subprocess.Popen(
                [sys.executable, "-m", "pushlab.measure.audience"], cwd=ROOT,
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
        self._orders.close()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._answers.close()


class Venue:
    """A server, what changes its data, and from where it can be reached."""

    def __init__(
        self,
        publisher: Publisher,
        *,
        host: str,
        port: int,
        process: Process | None = None,
        name: str = "",
    ) -> None:
        self.publisher = publisher
        self.host = host
        self.port = port
        self.process = process
        self.name = name or f"{host}:{port}"  #: as in the Host header
        self.publishing: list[float] = []  #: microseconds of CPU per change with nobody to tell
        self.was_attended = False  #: then it has memory to spare, and growth tells nothing
        self.offset = 0.0  #: how many seconds its clock is ahead of ours

    def warm_up(self) -> None:
        """Change the data WARMING times, and learn what that costs where nobody is told."""
        if not self.publisher.is_ours:
            return
        for _ in range(WARMING // 2):
            self.publisher.change()
        for _ in range(5):
            before = self.cpu()
            for _ in range(WARMING // 10):
                self.publisher.change()
            after = self.cpu()
            if before is not None and after is not None:
                self.publishing.append((after - before) / (WARMING // 10))

    def cpu(self) -> float | None:
        """Return the microseconds of CPU that the server has used, None if it is not ours."""
        try:
            return self.process.cpu() if self.process else None
        except psutil.Error:
            raise ServerDied("the server died") from None

    def memory(self) -> int | None:
        """Return the bytes of memory that it has, None if it is not ours."""
        return self.process.memory() if self.process else None

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


class Trial:
    """One way of hearing at one venue: what is measured becomes its cell."""

    def __init__(self, cell: Cell, venue: Venue, audience: DistantAudience) -> None:
        self.cell = cell
        self.venue = venue
        self.audience = audience

    @contextmanager
    def attended(self) -> Iterator[None]:
        """Have the clients there, at their distance."""
        cell, venue = self.cell, self.venue
        cell.publishing = venue.publishing
        with ExitStack() as stack:
            port, name = venue.port, venue.name
            if cell.distance:
                far = FarPort(cell.distance, host=venue.host, server_port=port, prefer=0)
                stack.callback(far.close)
                far.wait_until_open()
                port, name = far.port, f"{venue.host}:{far.port}"
            venue.cpu()  # which waits until nothing is left of what was before
            memory = venue.memory()
            found = self.audience.ask(
                "open", transport=cell.transport, carry=cell.carry, clients=cell.clients,
                address=[venue.host, port], host=name,
                after=venue.publisher.cursor, handling=cell.handling,
            )  # fmt: skip
            stack.callback(self._leave)
            cell.opening = Bill(**found["bill"])
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
        self, found: Mapping[str, Any], numbers: range, cpu: float | None, seconds: float
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
        if not self.venue.publisher.is_ours:
            cell.pace = round(cell.seconds / max(1, cell.published), 3)
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
    trials: Sequence[Trial],
    venue: Venue,
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
    pace = trials[0].cell.pace
    try:
        cpu = venue.cpu() if counted else None
        # Whoever has just been told must have the time to ask again.
        begin_at = time.time() + NOTICE + 2 * trials[0].cell.distance / 1e3
        for trial in trials:
            trial.begin(begin_at, changes * pace if counted else 0.0, phase=phase)
        first = venue.newest
        for number in range(changes):
            if venue.publisher.is_ours:
                time.sleep(max(0.0, begin_at + number * pace - time.time()))
            venue.publisher.change()
        last = venue.newest
        patience = 0.0 if counted and trials[0].cell.handling else lost_after
        deadline = time.time() + patience
        for trial in trials:
            trial.audience.order("finish", sequence=last, deadline=deadline)
        found = [trial.audience.answer() for trial in trials]
        ended_at = time.time()
        after = venue.cpu() if counted else None
    except WrongAnswer as error:
        raise venue.explain(error) from error
    if counted:
        used = None if cpu is None or after is None else after - cpu
        for trial, its in zip(trials, found, strict=True):
            trial.record(its, range(first + 1, last + 1), used, ended_at - begin_at)
