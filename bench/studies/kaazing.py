"""Kaazing's quantum leap: what polling every second sends for nothing, counted and not drawn."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from bench.report import formatting
from bench.report.tables import Table
from bench.results import Result, Results
from bench.runner import Run
from bench.scenarios import Grid, Scenario, Variant
from bench.statistics import quantile
from bench.studies.base import GridStudy, dispatched, measured, milliseconds

POLLING, WEBSOCKET = Variant("poll", carry=True), Variant("websocket", carry=True)
#: Published traffic in Mbit/s of 2^20 bits, by the number of clients.
PUBLISHED = {
    1_000: {POLLING: "6.6", WEBSOCKET: "0.015"},
    10_000: {POLLING: "66", WEBSOCKET: "0.153"},
    100_000: {POLLING: "665", WEBSOCKET: "1.526"},
}
#: Clients that are not measured but computed.
COMPUTED = 100_000
MEGABIT, THEIR_MEGABIT = 1e6, 2**20
#: The share of the due polls from which on the machine counts as keeping up.
KEEPING_UP = 0.95
#: Clients that connect and disconnect in a second; an estimate.
CONNECTS_PER_SECOND = 1000
#: Seconds after which a reading counts as lost: on a busy machine responses are late.
LOST_AFTER = 30.0


class Flow(NamedTuple):
    """What a transport sent, in both directions, per second."""

    clients: int
    variant: Variant
    rate: float  #: polls or messages
    header: float  #: bytes of each that are not data
    whole: float  #: bytes of each

    @property
    def headers(self) -> float:
        """Bits a second that are not data."""
        return 8 * self.rate * self.header

    @property
    def everything(self) -> float:
        """Bits a second with the data, without the headers of TCP and IP."""
        return 8 * self.rate * self.whole


class Pair(NamedTuple):
    """Both transports, for the same number of clients."""

    polling: Result
    websocket: Result

    @property
    def clients(self) -> int:
        return self.polling.clients

    @property
    def period(self) -> float:
        """The seconds between two polls of a client."""
        return self.polling.period or self.polling.pace

    @property
    def due(self) -> float:
        """The polls that are due in a second."""
        return self.clients / self.period

    @property
    def keeps_up(self) -> bool:
        """Whether as many polls were answered as were due."""
        return self.polls().rate >= KEEPING_UP * self.due

    @property
    def body(self) -> float:
        """Bytes of a reading, in a frame or in a poll's response."""
        return self.websocket.traffic.bytes / self.websocket.traffic.messages - self.frame_header

    @property
    def frame_header(self) -> int:
        """Bytes that a server's frame has before its payload (RFC 6455 section 5.2)."""
        size = self.websocket.traffic.bytes / self.websocket.traffic.messages
        return 2 if size <= 2 + 125 else 4

    def polls(self) -> Flow:
        """Return what polling sent. A response with nothing new has no body."""
        traffic = self.polling.traffic
        bodies = self.polling.seen * self.body
        return Flow(
            self.clients,
            POLLING,
            traffic.requests / _seconds(self.polling),
            (traffic.bytes - bodies) / traffic.requests,
            traffic.bytes / traffic.requests,
        )

    def messages(self) -> Flow:
        """Return what WebSocket sent."""
        traffic = self.websocket.traffic
        return Flow(
            self.clients,
            WEBSOCKET,
            traffic.messages / _seconds(self.websocket),
            self.frame_header,
            traffic.bytes / traffic.messages,
        )

    def scaled(self, clients: int) -> list[Flow]:
        """Return what both would send for so many clients, with every poll served."""
        rates = clients / self.period, clients / self.websocket.pace
        return [
            traffic._replace(clients=clients, rate=rate)
            for traffic, rate in zip((self.polls(), self.messages()), rates, strict=True)
        ]


def _seconds(result: Result) -> float:
    """Return the seconds that were measured; the last change counts a whole pace."""
    return max(result.seconds, result.published * result.pace)


@dataclass(frozen=True)
class Kaazing(GridStudy):
    """Polling once a second against WebSocket, where the data changes once a second."""

    clients: Sequence[int] = (1_000, 10_000)
    period: float = 1.0  #: seconds between two polls of a client, and between two changes
    changes: int = 5
    name = "kaazing"
    title = "Peter Lubbers and Frank Greco (Kaazing): A Quantum Leap in Scalability for the Web"

    @property
    def grid(self) -> Grid:
        """What is measured."""
        return Grid(
            [Scenario("serve.py", clients, 0.0, self.period) for clients in self.clients],
            variants=[POLLING, WEBSOCKET],
            period=self.period,
            rounds=1,
            changes=self.changes,
            lost_after=LOST_AFTER,
        )

    @property
    def seconds(self) -> float:
        return super().seconds + self._connecting

    @property
    def _connecting(self) -> float:
        return sum(self.clients) / CONNECTS_PER_SECOND

    @property
    def descriptors(self) -> int:
        return max(self.clients) + 100  # a variant that carries needs one connection each

    def measure(self, run: Run) -> None:
        run.measure(self.grid)
        run.progress.advance(self._connecting)

    def tables(self, results: Results) -> list[Table]:
        pairs = list(pairs_of(results))
        return [_traffic(pairs), _latency(pairs)] if pairs else []

    def numbers(self, results: Results) -> dict[str, str]:
        pairs = list(pairs_of(results))
        basis, most = _basis(pairs), pairs[-1]
        polls, messages, traffic = basis.polls(), basis.messages(), basis.polling.traffic
        coalesced = most.polling.coalesced / (most.polling.published * most.clients)
        return {
            "kaazing headers": f"{polls.header:,.0f}",
            "kaazing request headers": f"{traffic.up / traffic.requests:,.0f}",
            "kaazing ratio": f"{polls.header / messages.header:,.0f}",
            "kaazing data": f"{basis.body:,.0f}",
            "kaazing poll": f"{polls.whole:,.0f}",
            "kaazing message": f"{messages.whole:,.0f}",
            "kaazing most": f"{most.clients:,}",
            "kaazing rate": f"{most.polls().rate:,.0f}",
            "kaazing due": f"{most.due:,.0f}",
            "kaazing due headers": formatting.significant(most.due * polls.header * 8 / MEGABIT),
            "kaazing coalesced": f"{coalesced:.0%}",
        }


def pairs_of(results: Results) -> Iterator[Pair]:
    """Yield the pairs that were measured, the fewest clients first."""
    entries = {(result.clients, result.variant): result for result in measured(results)}
    for clients in sorted({clients for clients, _ in entries}):
        polling, websocket = (entries.get((clients, variant)) for variant in (POLLING, WEBSOCKET))
        if polling and websocket:
            yield Pair(polling, websocket)


def _basis(pairs: Sequence[Pair]) -> Pair:
    """Return what is computed from: clients that the machine kept up with, if there are any."""
    return next((pair for pair in pairs if pair.keeps_up), pairs[0])


def _traffic(pairs: Sequence[Pair]) -> Table:
    rows = [
        _row(traffic, "measured") for pair in pairs for traffic in (pair.polls(), pair.messages())
    ]
    rows += [_row(traffic, "computed") for traffic in _basis(pairs).scaled(COMPUTED)]
    return Table(
        "Traffic that is not data: polling every second against WebSocket",
        (
            "clients",
            "how",
            "transport",
            "polls or messages a second",
            "headers, Mbit/s",
            "headers, 2^20 bit/s",
            "published, 2^20 bit/s",
            "with the data, Mbit/s",
        ),
        rows,
        [
            f"{COMPUTED:,} clients are computed from the bytes of {_basis(pairs).clients:,}.",
            dispatched([pairs[0].polling, pairs[0].websocket]),
        ],
    )


def _row(traffic: Flow, how: str) -> list[str]:
    return [
        f"{traffic.clients:,}",
        how,
        "polling" if traffic.variant == POLLING else "WebSocket",
        f"{traffic.rate:,.0f}",
        formatting.significant(traffic.headers / MEGABIT),
        formatting.significant(traffic.headers / THEIR_MEGABIT),
        PUBLISHED.get(traffic.clients, {}).get(traffic.variant, "–"),
        formatting.significant(traffic.everything / MEGABIT),
    ]


def _latency(pairs: Sequence[Pair]) -> Table:
    rows = [
        [
            f"{pair.clients:,}",
            name,
            *(milliseconds(quantile(result.notified_ms, q)) for q in (0.5, 0.95, 0.99)),
            milliseconds(max(result.notified_ms)),
        ]
        for pair in pairs
        for name, result in (("polling", pair.polling), ("WebSocket", pair.websocket))
    ]
    return Table(
        "Latency: measured instead of drawn",
        ("clients", "transport", "p50, ms", "p95, ms", "p99, ms", "max, ms"),
        rows,
        ["From the change until the client knows of it."],
    )
