"""One run: every way of hearing is verified, and then measured group by group."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from typing import Protocol, TypeVar

from bench.bytes_on_wire import WrongAnswer
from bench.clients.publisher import Posting
from bench.driver import (
    LEARNING,
    UNHURRIED,
    DistantAudience,
    Measurement,
    ServerDied,
    Stopped,
    Target,
    take_turn,
)
from bench.processes import NotRunning
from bench.results import Results
from bench.scenarios import GROUP, Grid, Group
from bench.servers import started
from bench.variants import Variant
from bench.verify import VERIFYING, verify

Item = TypeVar("Item")
Result = TypeVar("Result")

#: Seconds that starting a server takes, about; two start at a time on two cores.
STARTING = 0.9


class Failed(Exception):
    """The run cannot go on; the message says at what and why."""


class Progress(Protocol):
    """Somebody who is told how far it is."""

    def say(self, what: str) -> None:
        """Hear what is being done."""

    def advance(self, seconds: float) -> None:
        """Hear that so much of what was planned is done."""


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
        self._audiences: dict[Variant, DistantAudience] = {}
        self._venues: dict[tuple[str, Variant], Target] = {}

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *_: object) -> None:
        _close(self._leaving)
        if self._shared is not None:
            self._shared.publisher.close()

    @staticmethod
    def preparing_seconds(servers: int, ways: int) -> float:
        """Return about how long it takes to start so many servers for each way, and to verify."""
        return servers * (ways * STARTING + VERIFYING)

    def measure(self, grid: Grid) -> None:
        """Verify the grid's ways on each of its servers, then fill its cells.

        Raises Failed if a server does not start, dies or gives a wrong answer; what was measured
        by then is in the results.
        """
        for group in grid.groups:
            self._prepare(group.server, grid.ways)
            self._measure(grid, group)

    def venue(self, server: str, way: Variant) -> Target:
        """Return where this way is measured."""
        return self._shared or self._venues[server, way]

    def _prepare(self, server: str, ways: Sequence[Variant]) -> None:
        new = [way for way in ways if (server, way) not in self._venues]
        if not new:
            return
        if self._shared is None:
            self.progress.say(f"starting {server}, once for each way")
            for way, venue in zip(
                new, self._at_once(self._start, [server for _ in new]), strict=True
            ):
                self._venues[server, way] = venue
        else:
            self._venues.update({(server, way): self._shared for way in new})
        for way in new:
            if way not in self._audiences:
                self._audiences[way] = DistantAudience()
                self._until_the_end().callback(self._audiences[way].close)
        self.progress.say("verifying that each way brings the right readings, across a reconnect")

        def check(way: Variant) -> None:
            venue = self.venue(server, way)
            with explained(f"{way.title} is not right, so nothing is measured", venue):
                verify(way, venue, self._audiences[way])

        if self._shared is None:
            self._at_once(check, new)
        else:
            for way in new:
                check(way)
        self.results.verified += [f"{way.title} ({server})" for way in new]
        self.progress.advance(VERIFYING + STARTING * len(new))

    def _start(self, server: str) -> Target:
        try:
            process = self._until_the_end().enter_context(started(server))
        except NotRunning as error:
            raise Failed(str(error)) from error
        with explained(f"starting {server}"):
            publisher = Posting("127.0.0.1", process.inner_port)
            self._until_the_end().callback(publisher.close)
            venue = Target(
                publisher, host="127.0.0.1", port=process.port, process=process,
                stopping=self._stopping,
            )  # fmt: skip
            venue.warm_up()
        return venue

    def _until_the_end(self) -> ExitStack:
        self._leaving.append(ExitStack())
        return self._leaving[-1]

    def _measure(self, grid: Grid, group: Group) -> None:
        trials = [
            Measurement(grid.cell(group, way), self.venue(group.server, way), self._audiences[way])
            for way in grid.ways
        ]
        self.results.cells += [trial.cell for trial in trials]
        attendance = [ExitStack() for _ in trials]

        def learn(trial: Measurement) -> None:
            with explained(f"{trial.cell.way.title}, {group.title}", trial.venue):
                trial.venue.publishing(group.pace)

        def come(place: int) -> None:
            trial = trials[place]
            with explained(f"{trial.cell.way.title}, {group.title}", trial.venue):
                attendance[place].enter_context(trial.attended())

        try:
            if not all(trial.venue.knows_publishing(group.pace) for trial in trials):
                self.progress.say("what a change costs while nobody listens")
                self._at_once(learn, trials)
                self.progress.advance(LEARNING * min(group.pace, UNHURRIED))
            # The same for all of them: servers of one kind, in the same circumstances.
            for trial in trials:
                trial.cell.publishing = [
                    sample for other in trials for sample in other.venue.publishing(group.pace)
                ]
            self.progress.say(f"{group.title}: they come")
            if self._shared is None:
                self._at_once(come, range(len(trials)))
            else:
                for place in range(len(trials)):
                    come(place)
            self.progress.advance(GROUP)
            for number in range(grid.rounds):
                self._take_round(grid, group, trials, number)
        finally:
            _close(attendance)

    def _take_round(self, grid: Grid, group: Group, trials: list[Measurement], number: int) -> None:
        """Have each of them take a turn: all at the same time, or one after the other."""
        seconds = max(grid.turn_seconds(group, trial.cell.way) for trial in trials)

        def turn(trials: Sequence[Measurement]) -> None:
            who = trials[0].cell.way.title if len(trials) == 1 else "all ways"
            venue = trials[0].venue
            with explained(f"{who}, {group.title}", venue):
                venue.keep_lengths(grid.changes + 1)
                if venue.publisher.is_ours:
                    take_turn(trials, venue, changes=1, counted=False)
                take_turn(
                    trials, venue, changes=grid.changes, phase=grid.phase(number),
                    lost_after=grid.lost_after,
                )  # fmt: skip

        where = f"{group.title}: {{}}, turn {number + 1} of {grid.rounds}"
        if self._shared is not None:
            self.progress.say(where.format("all ways"))
            turn(trials)
            self.progress.advance(seconds)
        elif grid.is_together(group):
            self.progress.say(where.format("all ways, each with a server of its own"))

            def staggered(place: int) -> None:
                # One after the other, so that they do not change at once.
                trials[place].venue.pause(place * group.pace / len(trials))
                turn([trials[place]])

            self._at_once(staggered, range(len(trials)))
            self.progress.advance(seconds)
        else:  # forth and back, so that a drift of the machine's speed cancels
            for trial in trials if number % 2 == 0 else trials[::-1]:
                self.progress.say(where.format(f"{trial.cell.way.title}, alone"))
                turn([trial])
                self.progress.advance(grid.turn_seconds(group, trial.cell.way))

    def _at_once(self, work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
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
def explained(where: str, venue: Target | None = None) -> Iterator[None]:
    """Say where it was that something went wrong, and if it was that the server died."""
    try:
        yield
    except ServerDied as error:
        raise Failed(f"{where}: {error}") from error
    except WrongAnswer as error:
        raise Failed(f"{where}: {venue.explain(error) if venue else error}") from error


def _close(stacks: Sequence[ExitStack]) -> None:
    """End all of these at the same time."""
    with ThreadPoolExecutor(max(1, len(stacks))) as pool:
        list(pool.map(ExitStack.close, stacks))
