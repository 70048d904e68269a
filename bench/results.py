"""Results: every raw sample, and the figures from them."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.processes import ROOT
from bench.scenarios import Variant
from bench.statistics import quantile

#: The raw results from which `make figures` fills in the documents.
PUBLISHED = ROOT / "docs" / "results"
#: Bytes of the IPv4 and TCP headers of a packet, with the timestamps that systems send.
PACKET_HEADER = 20 + 20 + 12
#: Bytes that fit a packet beside them, on Ethernet.
SEGMENT = 1448
#: The percentile of the CPU of all turns that is reported: other load can only add to it.
CPU_PERCENTILE = 0.1
#: Fewer clients cost less than the spread of a server's CPU and memory.
MIN_CPU_CLIENTS = 100


@dataclass
class Traffic:
    """The traffic of all clients, counted at their sockets."""

    requests: int = 0  #: WebSocket handshakes included
    empty: int = 0  #: responses without news
    messages: int = 0  #: frames and events
    up: int = 0  #: bytes, without TCP's and IP's
    down: int = 0
    keepalive: int = 0  #: bytes of pings, pongs and comments, not in `up` and `down`
    packets: int = 0  #: at least, with an acknowledgement for each that gets no response

    @property
    def bytes(self) -> int:
        return self.up + self.down


@dataclass
class Result:
    """What was measured of one variant in one scenario."""

    server: str
    transport: str
    carry: bool
    clients: int
    pace: float  #: seconds between two changes
    rtt_ms: float  #: round-trip time in milliseconds
    period: float | None = None  #: seconds between two short polls
    dispatch: str = ""  #: "direct" or "flask", see Variant
    processing_time: float = 0.0  #: seconds that a client needs per reading
    #: Readings published, and what became of them at all clients together.
    published: int = 0
    seen: int = 0
    coalesced: int = 0
    lost: int = 0
    queued: int = 0  #: received by slow readers, and not shown by the end
    #: Milliseconds from the change until a client knew of it, and until it had the data.
    notified_ms: list[float] = field(default_factory=list)
    received_ms: list[float] = field(default_factory=list)
    connect_traffic: Traffic = field(default_factory=Traffic)  #: until all were subscribed
    traffic: Traffic = field(default_factory=Traffic)  #: from then on
    #: Microseconds of the server's CPU per turn, and the changes in each turn; empty if not known.
    cpu: list[float] = field(default_factory=list)
    changes: list[int] = field(default_factory=list)
    #: Microseconds of CPU per change without subscribers.
    publish_cpu: list[float] = field(default_factory=list)
    memory: int | None = None  #: bytes by which the clients made the server grow
    worker_cpu: float = 0.0  #: share of one core that the load generator used
    seconds: float = 0.0  #: of all turns together

    def __post_init__(self) -> None:
        self.dispatch = self.variant.dispatch

    @property
    def variant(self) -> Variant:
        return Variant(self.transport, self.carry, self.dispatch)

    @property
    def title(self) -> str:
        """The variant, and the period of short polling."""
        period = "" if self.period is None else f", every {self.period:g} s"
        return self.variant.title + period

    @property
    def updates(self) -> int:
        """The updates that reached clients; costs are divided by them."""
        return max(1, self.seen)

    @property
    def bytes_per_update(self) -> float:
        return self.traffic.bytes / self.updates

    @property
    def bytes_with_headers_per_update(self) -> float:
        """Bytes with the estimated headers of TCP and IP."""
        return self.bytes_per_update + self.traffic.packets * PACKET_HEADER / self.updates

    @property
    def bytes_per_second(self) -> float | None:
        """Bytes per second and client: what counts for slow readers."""
        return self.traffic.bytes / self.seconds / self.clients if self.seconds else None

    @property
    def cpu_samples(self) -> list[float]:
        """Microseconds of server CPU per change and client, per turn.

        The cost of publishing without subscribers is subtracted.
        """
        once = quantile(self.publish_cpu, CPU_PERCENTILE) if self.publish_cpu else 0.0
        return [
            (cpu / changes - once) / self.clients
            for cpu, changes in zip(self.cpu, self.changes, strict=True)
        ]

    @property
    def knows_cpu(self) -> bool:
        """Whether the server's CPU was measured, for enough clients."""
        return bool(self.cpu) and self.clients >= MIN_CPU_CLIENTS

    @property
    def cpu_per_update(self) -> float | None:
        """The CPU_PERCENTILE of `cpu_samples`; None if not known."""
        return quantile(self.cpu_samples, CPU_PERCENTILE) if self.knows_cpu else None

    @property
    def memory_per_client(self) -> float | None:
        """Bytes of server memory per client, if known and many."""
        known = self.memory is not None and self.clients >= MIN_CPU_CLIENTS
        return (self.memory or 0) / self.clients if known else None


@dataclass
class Results:
    """The results of one run."""

    command: str
    about: dict[str, Any]  #: date, machine, versions: see environment.about
    options: dict[str, Any]
    entries: list[Result] = field(default_factory=list)
    verified: list[str] = field(default_factory=list)  #: titles of variants
    extra: dict[str, Any] = field(default_factory=dict)  #: of a study
    interrupted: bool = False
    failure: str | None = None  #: why it ended early

    @property
    def is_complete(self) -> bool:
        """True if it neither failed nor was interrupted."""
        return not (self.failure or self.interrupted)

    def finish(self) -> None:
        """Drop what was not measured; note lost readings."""
        self.entries = [result for result in self.entries if result.published]
        if lost := sum(result.lost for result in self.entries):
            worst = max(self.entries, key=lambda result: result.lost)
            self.failure = self.failure or (
                f"{lost:,} readings were lost, most of them by {worst.variant.title}: they were "
                "still the newest when they were no longer waited for"
            )

    def as_json(self) -> str:
        """Return JSON with a line per list."""
        return as_json(vars(self))

    @classmethod
    def from_json(cls, text: str) -> "Results":
        """Return what `as_json` wrote, rounded."""
        found: dict[str, Any] = json.loads(text)
        for result in found["entries"]:
            for name in ("traffic", "connect_traffic"):
                result[name] = Traffic(**result[name])
        found["entries"] = [Result(**result) for result in found["entries"]]
        return cls(**found)

    @classmethod
    def load(cls, path: Path) -> "Results":
        return cls.from_json(path.read_text())


def as_json(found: Any) -> str:
    """Return JSON with a list of plain values per line."""

    def rounded(result: Any) -> dict[str, Any]:  # samples to the hundredth, as exact as clocks are
        of: dict[str, Any] = vars(result)
        return of | {name: [round(v, 2) for v in of[name]] for name in of if type(of[name]) is list}

    text = json.dumps(found, indent=1, ensure_ascii=False, default=rounded)
    return re.sub(r"\[[^\[\]{}]*\]", lambda plain: re.sub(r"\n +", " ", plain[0]), text) + "\n"
