"""Variants, and the scenarios in which they are compared."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import NamedTuple

from pushlab.transports import TRANSPORTS

#: Whether news carries the data, by the name on the command line.
PAYLOADS = {"signal": False, "carry": True}
#: What finds the function that serves a request: our dispatch in front of Flask, or Flask; at a
#: server that was not started here, it is not known.
DIRECT, FLASK, UNKNOWN = "direct", "flask", "unknown"


@dataclass(frozen=True, order=True)
class Variant:
    """A transport, its payload, and its requests' dispatch.

    A WebSocket that carries sends no request but its handshake. It is measured by Flask's: a
    change costs the same.
    """

    transport: str
    carry: bool
    dispatch: str = ""  #: unless it is given, DIRECT where there is a choice

    def __post_init__(self) -> None:
        if not self.dispatch:
            object.__setattr__(self, "dispatch", DIRECT if self.has_choice else FLASK)

    @property
    def has_choice(self) -> bool:
        """Whether our dispatch and Flask's are both possible."""
        only_handshakes = self.carry and TRANSPORTS[self.transport].upgrades
        return self.dispatch != UNKNOWN and not only_handshakes

    @property
    def payload(self) -> str:
        return "carry" if self.carry else "signal"

    @property
    def title(self) -> str:
        """As in "WebSocket, carry" and "Long polling, carry, Flask"."""
        by_flask = ", Flask" if self.has_choice and self.dispatch == FLASK else ""
        return f"{TRANSPORTS[self.transport].short}, {self.payload}{by_flask}"


#: Every transport with both payloads.
VARIANTS = tuple(
    Variant(transport, carry) for transport in TRANSPORTS for carry in PAYLOADS.values()
)


def both_dispatches(variants: Sequence[Variant]) -> list[Variant]:
    """Return the variants, and again by Flask's dispatch."""
    again = [one for one in variants if one.has_choice]
    return [*variants, *(replace(one, dispatch=FLASK) for one in again)]


#: Up to so many clients, all variants are measured at the same time, with a server each. More
#: would slow each other down, so each variant then has the machine for itself.
TOGETHER = 200
#: The default period of short polling, as a share of the pace: every other poll is in vain.
PERIOD = 0.5
#: Seconds after which a reading that a client does not have counts as lost.
LOST_AFTER = 5.0


class Scenario(NamedTuple):
    """The conditions in which variants are measured side by side."""

    server: str
    clients: int
    rtt_ms: float  #: round-trip time in milliseconds
    pace: float  #: seconds between two changes

    @property
    def title(self) -> str:
        """As in "100 browsers, 200 ms away"."""
        browsers = f"{self.clients:,} browser{'s' * (self.clients != 1)}"
        return f"{browsers}, {f'{self.rtt_ms:g} ms away' if self.rtt_ms else 'near'}"


@dataclass(frozen=True)
class Grid:
    """Scenarios that are measured in the same manner."""

    scenarios: Sequence[Scenario]
    variants: Sequence[Variant] = VARIANTS
    rounds: int = 4  #: turns of each variant
    changes: int = 4  #: in each turn
    period: float | None = None  #: seconds between two short polls; PERIOD of the pace unless set
    processing_time: float = 0.0  #: seconds that a browser needs per reading
    lost_after: float = LOST_AFTER  #: seconds
    #: Whether short polling polls at another moment of its period in each turn. A single client
    #: would otherwise see every change after the same time.
    drifting: bool = False

    def phase(self, number: int) -> float:
        """Return the share of its period after which polling begins.

        If it is `drifting`, the turns go through the period evenly.
        """
        return (number + 0.5) / self.rounds if self.drifting else 0.5

    @property
    def descriptors(self) -> int:
        """Return a process's files: at most two connections per client."""
        return 2 * max(scenario.clients for scenario in self.scenarios) + 100


#: Slow readers: seconds between two changes, and seconds that a client needs per reading.
FREQUENT, SLOW = 0.04, 0.2


def slow_readers(server: str, variants: Sequence[Variant]) -> Grid:
    """Return the case against push: changes too many to show."""
    return Grid(
        [Scenario(server, clients=5, rtt_ms=0.0, pace=FREQUENT)],
        variants, period=0.5, rounds=1, changes=round(5 / FREQUENT), processing_time=SLOW,
    )  # fmt: skip


def quick(server: str, variants: Sequence[Variant]) -> list[Grid]:
    """Return twenty seconds of measurement."""
    return [Grid(_scenarios([server], [20], [0.0, 200.0], [1.0]), variants, rounds=1, changes=2)]


def usual(server: str, variants: Sequence[Variant]) -> list[Grid]:
    """Return three minutes of measurement.

    The most clients come first, as memory is measured of fresh servers; there, both dispatches are
    measured.
    """
    most = _scenarios([server], [1000], [0.0], [1.0])
    return [
        Grid(most, both_dispatches(variants), rounds=8, changes=1),
        Grid(_scenarios([server], [100], [0.0, 200.0], [1.0]), variants, rounds=5),
        slow_readers(server, variants),
    ]


def full(server: str, variants: Sequence[Variant]) -> list[Grid]:
    """Return half an hour of measurement."""
    rtts = [0.0, 50.0, 200.0]
    most = _scenarios([server], [5000], [0.0], [4.0])
    return [
        Grid(most, both_dispatches(variants), changes=1),
        Grid(_scenarios([server], [1000], rtts, [1.0]), variants),
        Grid(_scenarios([server], [100, 10, 1], rtts, [1.0, 4.0]), variants, changes=6),
        slow_readers(server, variants),
    ]


def crossed(
    servers: Sequence[str],
    variants: Sequence[Variant],
    *,
    clients: Sequence[int],
    rtt: Sequence[float] = (0.0,),
    pace: Sequence[float] = (1.0,),
    period: float | None = None,
    changes: int = 16,
) -> list[Grid]:
    """Return every combination, the most clients first."""
    rounds = min(8 if max(clients) > TOGETHER else 4, changes)
    scenarios = _scenarios(servers, sorted(clients, reverse=True), rtt, pace)
    return [Grid(scenarios, variants, rounds, changes=-(-changes // rounds), period=period)]


def _scenarios(
    servers: Sequence[str], clients: Sequence[int], rtts: Sequence[float], paces: Sequence[float]
) -> list[Scenario]:
    return [Scenario(*conditions) for conditions in product(servers, clients, rtts, paces)]
