"""One run: every way of hearing is verified, and then measured scenario by scenario."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, Protocol, TypeVar

from bench.bytes_on_wire import WrongResponse
from bench.clients.publisher import Posting
from bench.clients.worker import UNLIMITED
from bench.processes import NotRunning
from bench.results import Result, Results, Traffic
from bench.scenarios import BEGIN_SECONDS, LOST_AFTER, PERIOD, Grid, Scenario, Variant
from bench.servers import started
from bench.target import BASELINE_CHANGES, MAX_PACE, ServerDied, Stopped, Target, Worker
from bench.verify import VERIFYING, verify
from lab.far_ports import FarPort

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")

#: Seconds that starting a server takes, about; two start at a time on two cores.
STARTING = 0.9
#: Seconds between the order to begin and the beginning.
START_DELAY = 0.05
#: Seconds in which what was under way arrives at slow readers, in the end.
DRAIN_TIME = 0.5


class Failed(Exception):
    """The run cannot go on; the message says at what and why."""


class Progress(Protocol):
    """Somebody who is told how far it is."""

    def say(self, what: str) -> None:
        """Hear what is being done."""

    def advance(self, seconds: float) -> None:
        """Hear that so much of what was planned is done."""


class Measurement:
    """One way of hearing at one venue: what is measured becomes its cell."""

    def __init__(self, result: Result, target: Target, worker: Worker) -> None:
        self.result = result
        self.target = target
        self.worker = worker

    @contextmanager
    def attended(self) -> Iterator[None]:
        """Have the clients there, at their distance."""
        result, target = self.result, self.target
        with ExitStack() as stack:
            port, name = target.port, target.name
            if result.rtt_ms:
                try:
                    far = FarPort(result.rtt_ms, host=target.host, server_port=port, prefer=0)
                    stack.callback(far.close)
                    far.wait_until_open()
                except SystemExit as said:  # for programs of which it is a part
                    raise WrongResponse(f"the relay does not run: {said}") from None
                port, name = far.port, f"{target.host}:{far.port}"
            target.cpu()  # which waits until nothing is left of what was before
            memory = target.memory()
            stack.callback(self._leave)
            found = self.worker.ask(
                "open", transport=result.transport, carry=result.carry, clients=result.clients,
                address=[target.host, port], host=name,
                after=target.publisher.cursor, processing_time=result.processing_time,
            )  # fmt: skip
            result.connect_traffic = Traffic(**found["traffic"])
            self.settle()
            grown = target.memory()
            if memory is not None and grown is not None and not target.was_attended:
                result.memory = grown - memory
            target.was_attended = True
            yield

    def _leave(self) -> None:
        with suppress(WrongResponse):  # which it has said before
            self.worker.ask("leave")

    def settle(self) -> None:
        """Let everybody have the newest reading."""
        take_turn([self], self.target, changes=1, counted=False)

    def begin(self, begin_at: float, seconds: float, *, phase: float = 0.5) -> None:
        """Have the audience count, and ask if it is its way, for so long (see Audience.begin)."""
        period = self.result.period or 0.0
        ticks = max(1, round(seconds / period)) if period else 0
        if period and not self.target.publisher.is_ours:
            ticks = UNLIMITED  # nobody knows how long it will take
        self.worker.ask("begin", begin_at=begin_at, ticks=ticks, period=period, phase=phase)

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
        result, offset = self.result, 1e3 * self.target.offset
        seen = [entry for entry in found["seen"] if entry[0] in numbers]
        result.published += len(numbers)
        result.seen += len(seen)
        if result.processing_time:  # it may be behind for ever, which is what is looked at
            result.queued += found["queued"]
        else:
            result.lost += found["lost"]
        missing = len(numbers) * result.clients - len(seen)
        result.coalesced += missing - (found["queued"] if result.processing_time else found["lost"])
        result.notified_ms += [round(known + offset, 3) for _, known, _ in seen]
        result.received_ms += [round(had + offset, 3) for _, _, had in seen]
        for name, amount in found["traffic"].items():
            setattr(result.traffic, name, getattr(result.traffic, name) + amount)
        if cpu is not None:
            result.cpu.append(round(cpu, 1))
            result.changes.append(len(numbers))
        result.worker_cpu = max(result.worker_cpu, round(found["cpu"], 3))
        result.seconds = round(result.seconds + seconds, 3)
        if between is not None:  # somebody else's pace
            result.pace = round(between, 3)
        changed = {int(number): at for number, at in found["changed_at"].items()}
        if (first := min((n for n in changed if n in numbers), default=None)) is not None:
            zero = changed[first]
            result.trace_changes = [
                round(1e3 * (at - zero), 3)
                for number, at in sorted(changed.items())
                if number in numbers
            ]
            result.trace = [
                (kind, None if sent is None else _since(zero, sent, self.target.offset),
                 _since(zero, received, self.target.offset), up, down)
                for kind, sent, received, up, down in found["trace"]
            ]  # fmt: skip


def _since(zero: float, moment: float, offset: float) -> float:
    return round(1e3 * (moment + offset - zero), 3)


def take_turn(
    measurements: Sequence[Measurement],
    target: Target,
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
    result, publisher = measurements[0].result, target.publisher
    try:
        cpu = target.cpu() if counted else None
        # Whoever has just been told must have the time to ask again.
        begin_at = time.time() + START_DELAY + 2 * result.rtt_ms / 1e3
        for measurement in measurements:
            measurement.begin(begin_at, changes * result.pace if counted else 0.0, phase=phase)
        target.pause(begin_at - time.time())
        if not publisher.is_ours:
            publisher.refresh()
        first, changed_at = target.newest, publisher.changed_at
        for number in range(changes):
            if publisher.is_ours:
                target.pause(begin_at + number * result.pace - time.time())
            publisher.change()
        last = target.newest
        deadline = time.time() + (DRAIN_TIME if counted and result.processing_time else lost_after)
        for measurement in measurements:
            measurement.worker.order("finish", sequence=last, deadline=deadline)
        found = [measurement.worker.answer() for measurement in measurements]
        ended_at = time.time()
        after = target.cpu() if counted else None
    except WrongResponse as error:
        raise target.explain(error) from error
    if counted:
        for measurement, its in zip(measurements, found, strict=True):
            measurement.record(
                its, range(first + 1, last + 1), seconds=ended_at - begin_at,
                cpu=None if cpu is None or after is None else after - cpu,
                between=None if publisher.is_ours
                else (publisher.changed_at - changed_at) / (last - first),
            )  # fmt: skip


class Run:
    """What is going on: the servers, the audiences, and what was found out so far.

    `shared` is a server that runs already, at which all ways are measured at the same time. Without
    it, each way has a server of its own.
    """

    def __init__(
        self, results: Results, progress: Progress, *, shared: Target | None = None
    ) -> None:
        self.results = results
        self.progress = progress
        self._shared = shared
        self._stopping = threading.Event()
        self._leaving: list[ExitStack] = []  # what is to be ended, all at the same time
        self._workers: dict[Variant, Worker] = {}
        self._targets: dict[tuple[str, Variant], Target] = {}

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *_: object) -> None:
        _close(self._leaving)
        if self._shared is not None:
            self._shared.publisher.close()

    @staticmethod
    def preparing_seconds(servers: int, variants: int) -> float:
        """Return about how long it takes to start so many servers for each way, and to verify."""
        return servers * (variants * STARTING + VERIFYING)

    def measure(self, grid: Grid) -> None:
        """Verify the grid's ways on each of its servers, then fill its cells.

        Raises Failed if a server does not start, dies or gives a wrong answer; what was measured
        by then is in the results.
        """
        for scenario in grid.scenarios:
            self._prepare(scenario.server, grid.variants)
            self._measure(grid, scenario)

    def target(self, server: str, variant: Variant) -> Target:
        """Return where this way is measured."""
        return self._shared or self._targets[server, variant]

    def _prepare(self, server: str, variants: Sequence[Variant]) -> None:
        new = [variant for variant in variants if (server, variant) not in self._targets]
        if not new:
            return
        if self._shared is None:
            self.progress.say(f"starting {server}, once for each way")
            for variant, target in zip(
                new,
                self._at_once(self._start, [(server, variant.dispatch) for variant in new]),
                strict=True,
            ):
                self._targets[server, variant] = target
        else:
            self._targets.update({(server, variant): self._shared for variant in new})
        for variant in new:
            if variant not in self._workers:
                self._workers[variant] = Worker()
                self._until_the_end().callback(self._workers[variant].close)
        self.progress.say("verifying that each way brings the right readings, across a reconnect")

        def check(variant: Variant) -> None:
            target = self.target(server, variant)
            with explained(f"{variant.title} is not right, so nothing is measured", target):
                verify(variant, target, self._workers[variant])

        if self._shared is None:
            self._at_once(check, new)
        else:
            for variant in new:
                check(variant)
        self.results.verified += [f"{variant.title} ({server})" for variant in new]
        self.progress.advance(VERIFYING + STARTING * len(new))

    def _start(self, what: tuple[str, str]) -> Target:
        server, dispatch = what
        try:
            process = self._until_the_end().enter_context(started(server, dispatch=dispatch))
        except NotRunning as error:
            raise Failed(str(error)) from error
        with explained(f"starting {server}"):
            publisher = Posting("127.0.0.1", process.inner_port)
            self._until_the_end().callback(publisher.close)
            target = Target(
                publisher, host="127.0.0.1", port=process.port, process=process,
                stopping=self._stopping,
            )  # fmt: skip
            target.warm_up()
        return target

    def _until_the_end(self) -> ExitStack:
        self._leaving.append(ExitStack())
        return self._leaving[-1]

    def _measure(self, grid: Grid, scenario: Scenario) -> None:
        measurements = [
            Measurement(
                _empty_result(grid, scenario, variant),
                self.target(scenario.server, variant),
                self._workers[variant],
            )
            for variant in grid.variants
        ]
        self.results.entries += [measurement.result for measurement in measurements]
        attendance = [ExitStack() for _ in measurements]

        def learn(measurement: Measurement) -> None:
            with explained(
                f"{measurement.result.variant.title}, {scenario.title}", measurement.target
            ):
                measurement.target.publish_cpu(scenario.pace)

        def come(place: int) -> None:
            measurement = measurements[place]
            with explained(
                f"{measurement.result.variant.title}, {scenario.title}", measurement.target
            ):
                attendance[place].enter_context(measurement.attended())

        try:
            if not all(
                measurement.target.knows_publish_cpu(scenario.pace) for measurement in measurements
            ):
                self.progress.say("what a change costs while nobody listens")
                self._at_once(learn, measurements)
                self.progress.advance(BASELINE_CHANGES * min(scenario.pace, MAX_PACE))
            # The same for all of them: servers of one kind, in the same circumstances.
            for measurement in measurements:
                measurement.result.publish_cpu = [
                    sample
                    for other in measurements
                    for sample in other.target.publish_cpu(scenario.pace)
                ]
            self.progress.say(f"{scenario.title}: they come")
            if self._shared is None:
                self._at_once(come, range(len(measurements)))
            else:
                for place in range(len(measurements)):
                    come(place)
            self.progress.advance(BEGIN_SECONDS)
            for number in range(grid.rounds):
                self._take_round(grid, scenario, measurements, number)
        finally:
            _close(attendance)

    def _take_round(
        self, grid: Grid, scenario: Scenario, measurements: list[Measurement], number: int
    ) -> None:
        """Have each of them take a turn: all at the same time, or one after the other."""
        seconds = max(
            grid.turn_seconds(scenario, measurement.result.variant) for measurement in measurements
        )

        def turn(measurements: Sequence[Measurement]) -> None:
            who = measurements[0].result.variant.title if len(measurements) == 1 else "all ways"
            target = measurements[0].target
            with explained(f"{who}, {scenario.title}", target):
                target.keep_lengths(grid.changes + 1)
                if target.publisher.is_ours:
                    take_turn(measurements, target, changes=1, counted=False)
                take_turn(
                    measurements, target, changes=grid.changes, phase=grid.phase(number),
                    lost_after=grid.lost_after,
                )  # fmt: skip

        where = f"{scenario.title}: {{}}, turn {number + 1} of {grid.rounds}"
        if self._shared is not None:
            self.progress.say(where.format("all ways"))
            turn(measurements)
            self.progress.advance(seconds)
        elif grid.is_together(scenario):
            self.progress.say(where.format("all ways, each with a server of its own"))

            def staggered(place: int) -> None:
                # One after the other, so that they do not change at once.
                measurements[place].target.pause(place * scenario.pace / len(measurements))
                turn([measurements[place]])

            self._at_once(staggered, range(len(measurements)))
            self.progress.advance(seconds)
        else:  # forth and back, so that a drift of the machine's speed cancels
            for measurement in measurements if number % 2 == 0 else measurements[::-1]:
                self.progress.say(where.format(f"{measurement.result.variant.title}, alone"))
                turn([measurement])
                self.progress.advance(grid.turn_seconds(scenario, measurement.result.variant))

    def _at_once(self, work: Callable[[Item], Outcome], items: Sequence[Item]) -> list[Outcome]:
        """Return what comes of each of these; who interrupts it need not wait until all is done."""
        with ThreadPoolExecutor(max(1, len(items))) as pool:
            futures = [pool.submit(work, item) for item in items]
            try:
                done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            except BaseException:
                self._stopping.set()
                raise
            if any(future.exception() for future in done):
                self._stopping.set()
        errors = [error for future in futures if (error := future.exception())]
        if errors:  # not that of those who were only told to stop
            raise min(errors, key=lambda error: isinstance(error, Stopped))
        return [future.result() for future in futures]


@contextmanager
def explained(where: str, target: Target | None = None) -> Iterator[None]:
    """Say where it was that something went wrong, and if it was that the server died."""
    try:
        yield
    except ServerDied as error:
        raise Failed(f"{where}: {error}") from error
    except WrongResponse as error:
        raise Failed(f"{where}: {target.explain(error) if target else error}") from error


def _empty_result(grid: Grid, scenario: Scenario, variant: Variant) -> Result:
    """Return the result that is to be filled."""
    period = (grid.period or scenario.pace * PERIOD) if variant.transport == "poll" else None
    return Result(
        server=scenario.server, transport=variant.transport, carry=variant.carry,
        dispatch=variant.dispatch, clients=scenario.clients, pace=scenario.pace,
        rtt_ms=scenario.rtt_ms, period=period, processing_time=grid.processing_time,
    )  # fmt: skip


def _close(stacks: Sequence[ExitStack]) -> None:
    """End all of these at the same time."""
    with ThreadPoolExecutor(max(1, len(stacks))) as pool:
        list(pool.map(ExitStack.close, stacks))
