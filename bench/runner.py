"""One run: verify every variant, then measure every scenario."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from typing import Protocol, TypeVar

from bench.clients.http import WrongResponse
from bench.clients.publisher import Posting
from bench.clients.worker import Worker
from bench.measurement import Measurement, take_turn
from bench.processes import NotRunning
from bench.results import Result, Results
from bench.scenarios import PERIOD, TOGETHER, Grid, Scenario, Variant
from bench.servers import started
from bench.target import MAX_PACE, ServerDied, Stopped, Target
from bench.verify import verify

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")


class Failed(Exception):
    """The run cannot go on; the message says why."""


class Progress(Protocol):
    """What shows how far the run is."""

    def say(self, what: str) -> None:
        """Show what is being done."""

    def finish_round(self) -> None:
        """Count a round of a scenario as done."""


class Run:
    """The servers, workers and results of a run.

    `shared` is a server that runs already, at which all variants are measured at the same time.
    Without it, each variant has a server of its own.
    """

    def __init__(
        self, results: Results, progress: Progress, *, shared: Target | None = None
    ) -> None:
        self.results = results
        self.progress = progress
        self._shared = shared
        self._stopping = threading.Event()
        self._cleanup: list[ExitStack] = []  # ended all at the same time
        self._workers: dict[Variant, Worker] = {}
        self._targets: dict[tuple[str, Variant], Target] = {}
        self._verified: set[tuple[str, Variant]] = set()

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *_: object) -> None:
        _close(self._cleanup)
        if self._shared is not None:
            self._shared.publisher.close()

    def measure(self, grid: Grid) -> None:
        """Verify the grid's variants, then measure its scenarios.

        Raises Failed if a server does not start, dies or gives a wrong response; what was measured
        by then is in the results.
        """
        for scenario in grid.scenarios:
            self._prepare(scenario.server, grid.variants)
            self._measure(grid, scenario)

    def target(self, server: str, variant: Variant) -> Target:
        """Return where this variant is measured."""
        return self._shared or self._targets[server, variant]

    def _prepare(self, server: str, variants: Sequence[Variant]) -> None:
        """Start and verify what has not been before."""
        new = [variant for variant in variants if (server, variant) not in self._verified]
        if not new:
            return
        if self._shared is None:
            self.progress.say(f"starting {server}, once for each variant")
            targets = self._at_once(lambda one: self._start(server, one.dispatch), new)
            self._targets |= {
                (server, one): target for one, target in zip(new, targets, strict=True)
            }
        for variant in new:
            if variant not in self._workers:
                self._workers[variant] = self._until_the_end(closing(Worker()))
        self.progress.say("verifying that each variant brings the right readings")

        def check(variant: Variant) -> None:
            target = self.target(server, variant)
            with explained(f"{variant.title} is not right, so nothing is measured", target):
                verify(variant, target, self._workers[variant])

        self._at_once(check, new)
        self._verified |= {(server, variant) for variant in new}
        self.results.verified += [f"{variant.title} ({server})" for variant in new]

    def _start(self, server: str, dispatch: str) -> Target:
        with explained(f"starting {server}"):
            process = self._until_the_end(started(server, dispatch=dispatch))
            publisher = self._until_the_end(closing(Posting("127.0.0.1", process.inner_port)))
            target = Target(publisher, "127.0.0.1", process.port, process, stopping=self._stopping)
            target.warm_up()
        return target

    def _until_the_end(self, context: AbstractContextManager[Item]) -> Item:
        self._cleanup.append(stack := ExitStack())
        return stack.enter_context(context)

    def _measure(self, grid: Grid, scenario: Scenario) -> None:
        measurements = []
        for variant in grid.variants:
            result = Result(
                **scenario._asdict(), **vars(variant), processing_time=grid.processing_time
            )
            if variant.transport == "poll":
                result.period = grid.period or scenario.pace * PERIOD
            target = self.target(scenario.server, variant)
            measurements.append(Measurement(result, target, self._workers[variant]))
        self.results.entries += [measurement.result for measurement in measurements]
        pace = min(scenario.pace, MAX_PACE)

        def learn(one: Measurement) -> None:
            with explained(f"{one.result.variant.title}, {scenario.title}", one.target):
                one.target.measure_publishing(pace)

        def connect(one: Measurement) -> None:
            with explained(f"{one.result.variant.title}, {scenario.title}", one.target):
                one.connect()

        try:
            targets = [one.target for one in measurements]
            if any(target.process and pace not in target.publish_cpu for target in targets):
                self.progress.say("what a change costs without subscribers")
                self._at_once(learn, measurements)
            # The same for all of them: servers of one kind, in the same circumstances.
            baseline = [cpu for target in targets for cpu in target.publish_cpu.get(pace, ())]
            for one in measurements:
                one.result.publish_cpu = baseline
            self.progress.say(f"{scenario.title}: they connect")
            self._at_once(connect, measurements)
            for number in range(grid.rounds):
                self._take_round(grid, scenario, measurements, number)
        finally:
            _close(measurements)

    def _take_round(
        self, grid: Grid, scenario: Scenario, measurements: list[Measurement], number: int
    ) -> None:
        """Have each take a turn, at once or alone."""
        where = f"{scenario.title}: {{}}, turn {number + 1} of {grid.rounds}"

        def turn(*together: Measurement) -> None:
            target, alone = together[0].target, len(together) == 1
            what = together[0].result.variant.title if alone else "all variants"
            with explained(f"{what}, {scenario.title}", target):
                target.keep_lengths(grid.changes + 1)
                if target.publisher.controls_data:
                    take_turn(together, target, changes=1, counted=False)
                phase, lost_after = grid.phase(number), grid.lost_after
                take_turn(
                    together, target, changes=grid.changes, phase=phase, lost_after=lost_after
                )

        def staggered(place: int) -> None:
            # One after the other, so that they do not change at once.
            measurements[place].target.pause(place * scenario.pace / len(measurements))
            turn(measurements[place])

        if self._shared is not None:
            self.progress.say(where.format("all variants"))
            turn(*measurements)
        elif scenario.clients <= TOGETHER:
            self.progress.say(where.format("all variants, each with a server of its own"))
            self._at_once(staggered, range(len(measurements)))
        else:  # back and forth, so that a drift of the machine's speed cancels
            for place in range(len(measurements))[:: 1 if number % 2 == 0 else -1]:
                title = measurements[place].result.variant.title
                self.progress.say(where.format(f"{title}, alone"))
                turn(measurements[place])
        self.progress.finish_round()

    def _at_once(self, work: Callable[[Item], Outcome], items: Sequence[Item]) -> list[Outcome]:
        """Return each item's outcome; one failure stops the others.

        At a shared server, one follows the other.
        """
        if self._shared is not None:
            return [work(item) for item in items]
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
        if errors:  # the one that made the others stop
            raise min(errors, key=lambda error: isinstance(error, Stopped))
        return [future.result() for future in futures]


@contextmanager
def explained(where: str, target: Target | None = None) -> Iterator[None]:
    """Raise Failed, with this place, for what goes wrong."""
    try:
        yield
    except NotRunning as error:
        raise Failed(str(error)) from error
    except ServerDied as error:
        raise Failed(f"{where}: {error}") from error
    except WrongResponse as error:
        raise Failed(f"{where}: {target.explain(error) if target else error}") from error


def _close(those: Sequence[ExitStack | Measurement]) -> None:
    """Close all of these at the same time."""
    with ThreadPoolExecutor(max(1, len(those))) as pool:
        list(pool.map(lambda one: one.close(), those))
