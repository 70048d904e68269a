"""What is compared: variants, and the scenarios in which they are measured side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pushlab.transports import TRANSPORTS

#: What news brings, by the name that the command line has for it.
PAYLOADS = {"signal": False, "carry": True}
#: What finds the function that serves a request: our dispatch in front of Flask, or Flask.
DIRECT, FLASK = "direct", "flask"


@dataclass(frozen=True, order=True)
class Variant:
    """A transport, its payload, and what dispatches the requests that updates take.

    Only GET /data and the long poll have a direct dispatch. A stream or WebSocket that carries
    needs no request but the one that opens it, which Flask dispatches.
    """

    transport: str
    carry: bool
    dispatch: str = ""  #: DIRECT or FLASK; DIRECT where there is a choice, unless it is given

    def __post_init__(self) -> None:
        if not self.dispatch:
            object.__setattr__(self, "dispatch", DIRECT if self.has_choice else FLASK)

    @property
    def has_choice(self) -> bool:
        """Whether its requests can be dispatched either way."""
        return not self.carry or self.transport in ("poll", "longpoll")

    @property
    def payload(self) -> str:
        return "carry" if self.carry else "signal"

    @property
    def title(self) -> str:
        """As in "WebSocket, carry" and "Long polling, carry, Flask"."""
        known = TRANSPORTS.get(self.transport)
        by_flask = ", Flask" if self.has_choice and self.dispatch == FLASK else ""
        return f"{known.short if known else self.transport}, {self.payload}{by_flask}"


#: Every transport with both payloads.
VARIANTS = tuple(
    Variant(transport, carry) for transport in TRANSPORTS for carry in PAYLOADS.values()
)


def both_dispatches(variants: Sequence[Variant]) -> list[Variant]:
    """Return the variants, and short and long polling once more with Flask's dispatch."""
    polls = [one for one in variants if one.transport in ("poll", "longpoll")]
    return [*variants, *(Variant(one.transport, one.carry, FLASK) for one in polls)]


#: Up to so many clients, all ways are measured at the same time, with a server each; more would
#: get in each other's way, so every way is then alone on the machine.
TOGETHER = 200
#: What of a pace is the time between two questions of short polling, unless it is said: a half, so
#: that every other question is in vain.
PERIOD = 0.5
#: Seconds that a turn takes beside its changes, and that it takes to begin a scenario; estimates.
TURN_SECONDS, BEGIN_SECONDS = 0.7, 3.5
#: Seconds after which a reading that a client does not have counts as lost.
LOST_AFTER = 5.0


class Scenario(NamedTuple):
    """What is measured side by side: the same conditions for every way."""

    server: str
    clients: int
    rtt_ms: float  #: milliseconds of a round trip
    pace: float  #: seconds between two changes

    @property
    def title(self) -> str:
        """What is going on, in words."""
        browsers = f"{self.clients:,} browser{'s' * (self.clients != 1)}"
        return f"{browsers}, {f'{self.rtt_ms:g} ms away' if self.rtt_ms else 'near'}"


@dataclass(frozen=True)
class Grid:
    """Groups that are measured in the same manner."""

    scenarios: Sequence[Scenario]
    variants: Sequence[Variant] = VARIANTS
    period: float | None = None  #: seconds between two questions of short polling
    #: Turns of each way, and changes in each turn.
    rounds: int = 4
    changes: int = 4
    processing_time: float = (
        0.0  #: seconds that a browser takes for each reading before it shows it
    )
    #: Seconds after which a reading that a client does not have counts as lost.
    lost_after: float = LOST_AFTER
    #: Whether short polling asks at another moment of its period in each turn. One client alone
    #: would otherwise hear of every change after the same time.
    drifting: bool = False

    def is_together(self, scenario: Scenario) -> bool:
        """Tell whether all ways are measured at the same time."""
        return scenario.clients <= TOGETHER

    def turn_seconds(self, scenario: Scenario, variant: Variant) -> float:
        """Return about how long a turn takes: what is pushed is there soon after its change."""
        changes = self.changes if variant.transport == "poll" else self.changes - 1
        return changes * scenario.pace + TURN_SECONDS + 5 * scenario.rtt_ms / 1e3

    def phase(self, number: int) -> float:
        """Return the share of a period after which short polling asks in the turn of this number.

        One turn after the other, they go through the period evenly if it is `drifting`.
        """
        return (number + 0.5) / self.rounds if self.drifting else 0.5

    @property
    def seconds(self) -> float:
        """Return about how long it takes to measure it all."""
        total = 0.0
        for scenario in self.scenarios:
            turns = [self.turn_seconds(scenario, variant) for variant in self.variants]
            total += BEGIN_SECONDS + self.rounds * (max if self.is_together(scenario) else sum)(
                turns
            )
        return total

    @property
    def descriptors(self) -> int:
        """Return how many files one process has to open: two connections a browser, at most."""
        return 2 * max(scenario.clients for scenario in self.scenarios) + 100


#: So often the data changes before slow readers, in seconds, and so long one takes for a reading.
FREQUENT, SLOW = 0.04, 0.2


def slow_readers(server: str, variants: Sequence[Variant]) -> Grid:
    """Return the case against push: changes far more frequent than a browser can show them."""
    return Grid(
        [Scenario(server, clients=5, rtt_ms=0.0, pace=FREQUENT)],
        variants, period=0.5, rounds=1, changes=round(5 / FREQUENT), processing_time=SLOW,
    )  # fmt: skip


def quick(server: str, variants: Sequence[Variant]) -> list[Grid]:
    """Return what takes some twenty seconds."""
    near, far = (Scenario(server, 20, rtt_ms, pace=1.0) for rtt_ms in (0.0, 200.0))
    return [Grid([near, far], variants, rounds=1, changes=2)]


def usual(server: str, variants: Sequence[Variant]) -> list[Grid]:
    """Return what takes about three minutes: many first, as memory is measured of fresh servers."""
    return [
        Grid(
            [Scenario(server, 1000, 0.0, pace=1.0)],
            both_dispatches(variants),
            rounds=8,
            changes=1,
        ),
        Grid([Scenario(server, 100, away, pace=1.0) for away in (0.0, 200.0)], variants, rounds=5),
        slow_readers(server, variants),
    ]


def full(servers: Sequence[str], variants: Sequence[Variant]) -> list[Grid]:
    """Return the whole grid, which takes about half an hour for each server."""
    return [
        grid
        for server in servers
        for grid in (
            Grid(
                [Scenario(server, 5000, 0.0, pace=4.0)],
                both_dispatches(variants),
                rounds=4,
                changes=1,
            ),
            Grid(
                [Scenario(server, 1000, rtt_ms, pace=1.0) for rtt_ms in (0.0, 50.0, 200.0)],
                variants,
            ),
            Grid(
                [
                    Scenario(server, clients, rtt_ms, pace)
                    for clients in (100, 10, 1)
                    for rtt_ms in (0.0, 50.0, 200.0)
                    for pace in (1.0, 4.0)
                ],
                variants,
                changes=6,
            ),
            slow_readers(server, variants),
        )
    ]


def crossed(
    servers: Sequence[str],
    variants: Sequence[Variant],
    *,
    clients: Sequence[int],
    rtts: Sequence[float],
    paces: Sequence[float],
    period: float | None = None,
    changes: int = 16,
) -> list[Grid]:
    """Return every combination of these, the most clients first, with so many changes of each."""
    rounds = min(8 if max(clients) > TOGETHER else 4, changes)
    scenarios = [
        Scenario(server, count, rtt_ms, pace)
        for server in servers
        for count in sorted(clients, reverse=True)
        for rtt_ms in rtts
        for pace in paces
    ]
    return [Grid(scenarios, variants, period=period, rounds=rounds, changes=-(-changes // rounds))]
