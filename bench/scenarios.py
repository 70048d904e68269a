"""The grid: which ways are compared, for how many clients, how far away, at what pace."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from bench.driver import LOST_AFTER
from bench.results import Cell
from bench.variants import WAYS, Variant

#: Up to so many clients, all ways are measured at the same time, with a server each; more would
#: get in each other's way, so every way is then alone on the machine.
TOGETHER = 200
#: What of a pace is the time between two questions of short polling, unless it is said: a half, so
#: that every other question is in vain.
PERIOD = 0.5
#: The seconds that one turn takes beside its changes, and that it takes to begin a group.
TURN, GROUP = 0.7, 3.5


class Group(NamedTuple):
    """What is measured side by side: the same conditions for every way."""

    server: str
    clients: int
    distance: float  #: milliseconds of a round trip
    pace: float  #: seconds between two changes

    @property
    def title(self) -> str:
        """What is going on, in words."""
        browsers = f"{self.clients:,} browser{'s' * (self.clients != 1)}"
        return f"{browsers}, {f'{self.distance:g} ms away' if self.distance else 'near'}"


@dataclass(frozen=True)
class Grid:
    """Groups that are measured in the same manner."""

    groups: Sequence[Group]
    ways: Sequence[Variant] = WAYS
    period: float | None = None  #: seconds between two questions of short polling
    #: Turns of each way, and changes in each turn.
    rounds: int = 4
    changes: int = 4
    handling: float = 0.0  #: seconds that a browser takes for each reading before it shows it
    #: Seconds after which a reading that a client does not have counts as lost.
    lost_after: float = LOST_AFTER
    #: Whether short polling asks at another moment of its period in each turn. One client alone
    #: would otherwise hear of every change after the same time.
    drifting: bool = False

    def cell(self, group: Group, way: Variant) -> Cell:
        """Return the cell that is to be filled."""
        period = (self.period or group.pace * PERIOD) if way.transport == "poll" else None
        return Cell(
            server=group.server, transport=way.transport, carry=way.carry, clients=group.clients,
            pace=group.pace, distance=group.distance, period=period, handling=self.handling,
        )  # fmt: skip

    def is_together(self, group: Group) -> bool:
        """Tell whether all ways are measured at the same time."""
        return group.clients <= TOGETHER

    def turn_seconds(self, group: Group, way: Variant) -> float:
        """Return about how long a turn takes: what is pushed is there soon after its change."""
        changes = self.changes if way.transport == "poll" else self.changes - 1
        return changes * group.pace + TURN + 5 * group.distance / 1e3

    def phase(self, number: int) -> float:
        """Return the share of a period after which short polling asks in the turn of this number.

        One turn after the other, they go through the period evenly if it is `drifting`.
        """
        return (number + 0.5) / self.rounds if self.drifting else 0.5

    @property
    def seconds(self) -> float:
        """Return about how long it takes to measure it all."""
        total = 0.0
        for group in self.groups:
            turns = [self.turn_seconds(group, way) for way in self.ways]
            total += GROUP + self.rounds * (max if self.is_together(group) else sum)(turns)
        return total

    @property
    def descriptors(self) -> int:
        """Return how many files one process has to open: two connections a browser, at most."""
        return 2 * max(group.clients for group in self.groups) + 100


#: So often the data changes before slow readers, in seconds, and so long one takes for a reading.
FREQUENT, SLOW = 0.04, 0.2


def slow_readers(server: str, ways: Sequence[Variant]) -> Grid:
    """Return the case against push: changes far more frequent than a browser can show them."""
    return Grid(
        [Group(server, clients=5, distance=0.0, pace=FREQUENT)],
        ways, period=0.5, rounds=1, changes=round(5 / FREQUENT), handling=SLOW,
    )  # fmt: skip


def quick(server: str, ways: Sequence[Variant]) -> list[Grid]:
    """Return what takes some twenty seconds."""
    near, far = (Group(server, 20, distance, pace=1.0) for distance in (0.0, 200.0))
    return [Grid([near, far], ways, rounds=1, changes=2)]


def usual(server: str, ways: Sequence[Variant]) -> list[Grid]:
    """Return what takes about two minutes: many first, as memory is measured of fresh servers."""
    return [
        Grid([Group(server, 1000, 0.0, pace=1.0)], ways, rounds=8, changes=1),
        Grid([Group(server, 100, away, pace=1.0) for away in (0.0, 200.0)], ways, rounds=5),
        slow_readers(server, ways),
    ]


def full(servers: Sequence[str], ways: Sequence[Variant]) -> list[Grid]:
    """Return the whole grid, which takes about half an hour for each server."""
    return [
        grid
        for server in servers
        for grid in (
            Grid([Group(server, 5000, 0.0, pace=4.0)], ways, rounds=4, changes=1),
            Grid(
                [Group(server, 1000, distance, pace=1.0) for distance in (0.0, 50.0, 200.0)], ways
            ),
            Grid(
                [
                    Group(server, clients, distance, pace)
                    for clients in (100, 10, 1)
                    for distance in (0.0, 50.0, 200.0)
                    for pace in (1.0, 4.0)
                ],
                ways,
                changes=6,
            ),
            slow_readers(server, ways),
        )
    ]


def crossed(
    servers: Sequence[str],
    ways: Sequence[Variant],
    *,
    clients: Sequence[int],
    distances: Sequence[float],
    paces: Sequence[float],
    period: float | None = None,
    changes: int = 16,
) -> list[Grid]:
    """Return every combination of these, the most clients first, with so many changes of each."""
    rounds = min(8 if max(clients) > TOGETHER else 4, changes)
    groups = [
        Group(server, count, distance, pace)
        for server in servers
        for count in sorted(clients, reverse=True)
        for distance in distances
        for pace in paces
    ]
    return [Grid(groups, ways, period=period, rounds=rounds, changes=-(-changes // rounds))]
