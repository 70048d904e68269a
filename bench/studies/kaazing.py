"""Kaazing's quantum leap: polling every second, counted."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from bench.report.formatting import significant
from bench.report.tables import Table
from bench.results import Result, Results
from bench.scenarios import Grid, Scenario, Variant
from bench.studies.base import Study, dispatched, latencies, measured

POLLING, WEBSOCKET = Variant("poll", carry=True), Variant("websocket", carry=True)
#: Published traffic in Mbit/s of 2^20 bits, by transport and the number of clients.
PUBLISHED = {
    "polling": {1_000: "6.6", 10_000: "66", 100_000: "665"},
    "WebSocket": {1_000: "0.015", 10_000: "0.153", 100_000: "1.526"},
}
#: Clients that are not measured but computed.
COMPUTED = 100_000
MEGABIT, THEIR_MEGABIT = 1e6, 2**20
#: The share of the due polls from which on the machine counts as keeping up.
KEEPING_UP = 0.95
#: Seconds after which a reading counts as lost: on a busy machine responses are late.
LOST_AFTER = 30.0


class Flow(NamedTuple):
    """Traffic of a transport, both ways, without TCP/IP headers."""

    name: str
    result: Result
    due: float  #: polls or messages that are due in a second
    rate: float  #: those that were sent in a second
    header: float  #: bytes of each that are not data
    whole: float  #: bytes of each


def flows(results: Results) -> Iterator[tuple[Flow, Flow]]:
    """Yield what polling and WebSocket sent, the fewest clients first."""
    entries = {(result.clients, result.variant): result for result in measured(results)}
    for clients in sorted({clients for clients, _ in entries}):
        polling, socket = (entries.get((clients, variant)) for variant in (POLLING, WEBSOCKET))
        if polling and socket:
            polls, messages = polling.traffic.requests, socket.traffic.messages
            message = socket.traffic.bytes / messages
            data = message - (2 if message <= 2 + 125 else 4)  # headers: RFC 6455 section 5.2
            bodies = polling.seen * data  # a response with nothing new has none
            period = polling.period or polling.pace
            yield (
                _flow("polling", polling, polls, period=period, data=bodies / polls),
                _flow("WebSocket", socket, messages, period=socket.pace, data=data),
            )


def _flow(name: str, result: Result, sent: int, *, period: float, data: float) -> Flow:
    # The last change counts a whole pace.
    seconds = max(result.seconds, result.published * result.pace)
    whole = result.traffic.bytes / sent
    return Flow(name, result, result.clients / period, sent / seconds, whole - data, whole)


def keeps_up(flow: Flow) -> bool:
    """Tell whether as many were sent as were due."""
    return flow.rate >= KEEPING_UP * flow.due


def _basis(pairs: Sequence[tuple[Flow, Flow]]) -> tuple[Flow, Flow]:
    """Return the fewest clients that the machine kept up with."""
    return next((pair for pair in pairs if keeps_up(pair[0])), pairs[0])


@dataclass(frozen=True)
class Kaazing(Study):
    """Polling every second against WebSocket; data changes every second."""

    clients: Sequence[int] = (1_000, 10_000)
    period: float = 1.0  #: seconds between two polls of a client, and between two changes
    changes: int = 5
    name = "kaazing"
    title = "Peter Lubbers and Frank Greco (Kaazing): A Quantum Leap in Scalability for the Web"

    @property
    def grids(self) -> list[Grid]:
        scenarios = [Scenario("serve.py", clients, 0.0, self.period) for clients in self.clients]
        pair = [POLLING, WEBSOCKET]
        return [Grid(scenarios, pair, 1, self.changes, self.period, lost_after=LOST_AFTER)]

    @property
    def descriptors(self) -> int:
        return max(self.clients) + 100  # a variant that carries needs one connection each

    def tables(self, results: Results) -> list[Table]:
        pairs = list(flows(results))
        if not pairs:
            return []
        every, basis = [flow for pair in pairs for flow in pair], _basis(pairs)
        clients = basis[0].result.clients
        rows = [_row(flow, "measured", flow.result.clients, flow.rate) for flow in every]
        rows += [_row(flow, "computed", COMPUTED, flow.due / clients * COMPUTED) for flow in basis]
        notes = [
            f"{COMPUTED:,} clients are computed from the bytes of {clients:,}.",
            dispatched(flow.result for flow in pairs[0]),
        ]
        traffic = "Traffic that is not data: polling every second against WebSocket"
        latency = [
            {
                "clients": f"{flow.result.clients:,}",
                "transport": flow.name,
                **latencies(flow.result.notified_ms),
            }
            for flow in every
        ]
        how = "From the change until the client knows of it."
        return [
            Table.of(traffic, rows, notes),
            Table.of("Latency: measured instead of drawn", latency, [how]),
        ]

    def numbers(self, results: Results) -> dict[str, str]:
        pairs = list(flows(results))
        (polls, messages), (most, _) = _basis(pairs), pairs[-1]
        traffic, last = polls.result.traffic, most.result
        found = {
            "headers": polls.header,
            "request headers": traffic.up / traffic.requests,
            "ratio": polls.header / messages.header,
            "data": messages.whole - messages.header,
            "poll": polls.whole,
            "message": messages.whole,
            "most": last.clients,
            "rate": most.rate,
            "due": most.due,
        }
        return {
            **{f"kaazing {name}": f"{value:,.0f}" for name, value in found.items()},
            "kaazing due headers": significant(most.due * polls.header * 8 / MEGABIT),
            "kaazing coalesced": f"{last.coalesced / (last.published * last.clients):.0%}",
        }


def _row(flow: Flow, how: str, clients: int, rate: float) -> dict[str, str]:
    return {
        "clients": f"{clients:,}",
        "how": how,
        "transport": flow.name,
        "polls or messages a second": f"{rate:,.0f}",
        "headers, Mbit/s": significant(8 * rate * flow.header / MEGABIT),
        "headers, 2^20 bit/s": significant(8 * rate * flow.header / THEIR_MEGABIT),
        "published, 2^20 bit/s": PUBLISHED[flow.name].get(clients, "–"),
        "with the data, Mbit/s": significant(8 * rate * flow.whole / MEGABIT),
    }
