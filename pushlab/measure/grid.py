"""The grid: which ways are compared, for how many clients, how far away, at what pace."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pushlab.measure.driver import LOST_AFTER
from pushlab.measure.results import Cell
from pushlab.measure.ways import WAYS, Way

#: Up to so many clients, all ways are measured at the same time, with a server each; more would
#: get in each other's way, so every way is then alone on the machine.
TOGETHER = 200
#: What of a pace is the time between two questions of short polling, unless it is said: a half, so
#: that every other question is in vain.
PERIOD = 0.5
#: The seconds that one turn takes beside its changes, and that it takes to begin a group.
TURN, GROUP = 0.9, 2.5


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
    """Everything that one run is to measure."""

    groups: Sequence[Group]
    ways: Sequence[Way] = WAYS
    period: float | None = None
    #: Turns of each way, and changes in each turn.
    rounds: int = 4
    changes: int = 4
    #: Seconds after which a reading that a client does not have counts as lost.
    lost_after: float = LOST_AFTER
    #: Whether short polling asks at another moment of its period in each turn. One client alone
    #: would otherwise hear of every change after the same time.
    drifting: bool = False
    #: Whether to measure what very frequent changes do to slow readers, at last.
    slow_reader: bool = False

    def cell(self, group: Group, way: Way) -> Cell:
        """Return the cell that is to be filled."""
        period = (self.period or group.pace * PERIOD) if way.transport == "poll" else None
        return Cell(
            server=group.server, transport=way.transport, carry=way.carry, clients=group.clients,
            pace=group.pace, distance=group.distance, period=period,
        )  # fmt: skip

    def is_together(self, group: Group) -> bool:
        """Tell whether all ways are measured at the same time."""
        return group.clients <= TOGETHER

    def turn_seconds(self, group: Group) -> float:
        """Return about how long a turn takes."""
        return self.changes * group.pace + TURN + 3 * group.distance / 1e3

    def phase(self, number: int) -> float:
        """Return the share of a period after which short polling asks in the turn of this number.

        One turn after the other, they go through the period evenly if it is `drifting`.
        """
        return (number + 0.5) / self.rounds if self.drifting else 0.5

    @property
    def seconds(self) -> float:
        """Return about how long it takes to measure it all."""
        together = sum(
            self.rounds * self.turn_seconds(group)
            * (1 if self.is_together(group) else len(self.ways)) + GROUP
            for group in self.groups
        )  # fmt: skip
        return together + (SLOW_READER_SECONDS if self.slow_reader else 0)

    @property
    def descriptors(self) -> int:
        """Return how many files one process has to open: two connections a browser, at most."""
        return 2 * max(group.clients for group in self.groups) + 100


SLOW_READER_SECONDS = 8.0
