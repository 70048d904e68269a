"""One variant measured at a target, turn by turn."""

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

from bench.clients.http import WrongResponse
from bench.clients.worker import UNLIMITED, Worker
from bench.results import Result, Traffic
from bench.scenarios import LOST_AFTER
from bench.target import Target
from lab.far_ports import FarPort
from pushlab.hosting import StartupError

#: Seconds between the order to begin and the beginning.
START_DELAY = 0.05
#: Seconds in which what is under way arrives at slow readers, at the end of a turn.
DRAIN_TIME = 0.5


@dataclass
class Measurement:
    """One variant's clients at a target, and their result."""

    result: Result
    target: Target
    worker: Worker
    _stack: ExitStack = field(default_factory=ExitStack)

    def connect(self) -> None:
        """Have the clients connected, at their distance."""
        result, target = self.result, self.target
        address = target.address(result.transport)
        if result.rtt_ms:
            try:
                far = FarPort(result.rtt_ms, host=target.host, server_port=target.port, prefer=0)
                self._stack.callback(far.close)
                far.wait_until_open()
            except StartupError as error:
                raise WrongResponse(f"the relay does not run: {error}") from None
            address |= {"address": [target.host, far.port], "host": f"{target.host}:{far.port}"}
        target.cpu()  # which waits until the server is idle
        memory = target.memory()
        self._stack.callback(self.worker.do, "close")
        kind = {"carry": result.carry, "processing_time": result.processing_time}
        found = self.worker.do("open", clients=result.clients, **kind, **address)
        result.connect_traffic = Traffic(**found["traffic"])
        take_turn([self], target, changes=1, counted=False)
        grown = target.memory()
        if memory is not None and grown is not None and not target.had_clients:
            result.memory = grown - memory
        target.had_clients = True

    def close(self) -> None:
        """Disconnect the clients."""
        with suppress(WrongResponse):  # the worker has reported it before
            self._stack.close()

    def begin(self, begin_at: float, seconds: float, *, phase: float) -> None:
        """Count from now on; short polling polls (see LoadGenerator.begin)."""
        period = self.result.period or 0.0
        ticks = max(1, round(seconds / period)) if period else 0
        if period and not self.target.publisher.controls_data:
            ticks = UNLIMITED  # how long it takes is not known
        self.worker.do("begin", begin_at=begin_at, ticks=ticks, period=period, phase=phase)

    def record(self, found: Mapping[str, Any], sequences: range, *, seconds: float) -> None:
        """Add what a turn found for these readings."""
        result, offset = self.result, 1e3 * self.target.offset
        seen = [entry for entry in found["seen"] if entry[0] in sequences]
        slow = bool(result.processing_time)  # it may stay behind, so nothing counts as lost
        result.published += len(sequences)
        result.seen += len(seen)
        result.queued += found["queued"] if slow else 0
        result.lost += 0 if slow else found["lost"]
        missing = len(sequences) * result.clients - len(seen)
        result.coalesced += missing - found["queued" if slow else "lost"]
        result.notified_ms += [round(notified + offset, 3) for _, notified, _ in seen]
        result.received_ms += [round(received + offset, 3) for _, _, received in seen]
        for name, amount in found["traffic"].items():
            setattr(result.traffic, name, getattr(result.traffic, name) + amount)
        result.worker_cpu = max(result.worker_cpu, round(found["cpu"], 3))
        result.seconds = round(result.seconds + seconds, 3)


def take_turn(
    measurements: Sequence[Measurement],
    target: Target,
    *,
    changes: int,
    counted: bool = True,
    phase: float = 0.5,
    lost_after: float = LOST_AFTER,
) -> None:
    """Change the data so many times while the clients receive.

    All measurements are at this target. `phase` is when in its period short polling polls (see
    LoadGenerator.begin). Raises ServerDied, or WrongResponse if the server breaks the protocol.
    """
    result, publisher = measurements[0].result, target.publisher
    try:
        cpu = target.cpu() if counted else None
        # Clients that have just received a reading need the time to ask again.
        begin_at = time.time() + START_DELAY + 2 * result.rtt_ms / 1e3
        for measurement in measurements:
            measurement.begin(begin_at, changes * result.pace if counted else 0.0, phase=phase)
        target.pause(begin_at - time.time())
        if not publisher.controls_data:
            publisher.refresh()
        first, changed_at = target.newest, publisher.changed_at
        for number in range(changes):
            if publisher.controls_data:
                target.pause(begin_at + number * result.pace - time.time())
            publisher.change()
        last = target.newest
        deadline = time.time() + (DRAIN_TIME if counted and result.processing_time else lost_after)
        for measurement in measurements:
            measurement.worker.order("finish", sequence=last, deadline=deadline)
        found = [measurement.worker.result() for measurement in measurements]
        ended_at = time.time()
        used = target.cpu() if counted else None
    except WrongResponse as error:
        raise target.explain(error) from error
    if not counted:
        return
    for measurement, its in zip(measurements, found, strict=True):
        measurement.record(its, range(first + 1, last + 1), seconds=ended_at - begin_at)
        if cpu is not None and used is not None:
            measurement.result.cpu.append(round(used - cpu, 1))
            measurement.result.changes.append(last - first)
        if not publisher.controls_data:  # the pace is the target's own
            pace = (publisher.changed_at - changed_at) / (last - first)
            measurement.result.pace = round(pace, 3)
