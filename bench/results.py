"""What comparisons leave: every raw sample, as JSON and CSV, and what follows from them."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.scenarios import Variant
from bench.statistics import Percentiles, percentiles, quantile

#: Bytes of the IPv4 and TCP headers of a packet, with the timestamps that systems send.
PACKET_HEADER = 20 + 20 + 12
#: Bytes that fit a packet beside them, on Ethernet.
SEGMENT = 1448
#: The share of the turns whose CPU counts as what it takes: what else a machine does only adds.
CPU_PERCENTILE = 0.1
#: So few clients cost less than what measuring a server's CPU and memory varies by.
MIN_CPU_CLIENTS = 100


@dataclass
class Traffic:
    """What passed the sockets of all clients, as they counted it."""

    requests: int = 0  #: among them handshakes of WebSockets
    empty: int = 0  #: answers that said that there is nothing new
    messages: int = 0  #: frames and events
    up: int = 0  #: bytes, without those of TCP and IP
    down: int = 0
    keepalive: int = 0  #: bytes of pings, pongs and comments, which are not among those above
    packets: int = 0  #: as many as it takes, each with an acknowledgement for what is not answered

    @property
    def bytes(self) -> int:
        return self.up + self.down

    @property
    def bytes_with_headers(self) -> int:
        """Bytes with the headers of TCP and IP, which are estimated: PACKET_HEADER per packet."""
        return self.bytes + self.packets * PACKET_HEADER


@dataclass
class Result:
    """What was measured of one way, on one server, for so many clients at such a distance."""

    server: str
    transport: str
    carry: bool
    clients: int
    pace: float  #: seconds between two changes
    rtt_ms: float  #: milliseconds of a round trip
    period: float | None = None  #: seconds between two questions, of short polling only
    dispatch: str = ""  #: of its requests, "direct" or "flask", see Variant
    processing_time: float = 0.0  #: seconds that a client takes for each piece of news
    #: Readings published while it was measured, and what became of them, of all clients together.
    published: int = 0
    seen: int = 0
    coalesced: int = 0
    lost: int = 0
    queued: int = 0  #: had arrived at slow readers, who had no time for them by the end
    #: From the change to knowing of it, and to having the data, in milliseconds: raw samples.
    notified_ms: list[float] = field(default_factory=list)
    received_ms: list[float] = field(default_factory=list)
    connect_traffic: Traffic = field(default_factory=Traffic)  #: what it took until all listened
    traffic: Traffic = field(default_factory=Traffic)  #: what the readings cost from then on
    #: CPU of the server, in microseconds: per turn, and with the number of changes in each turn.
    #: Empty where it is not known.
    cpu: list[float] = field(default_factory=list)
    changes: list[int] = field(default_factory=list)
    #: The same per change while there is nobody to tell.
    publish_cpu: list[float] = field(default_factory=list)
    memory: int | None = None  #: bytes that the server's memory grew by when the clients came
    worker_cpu: float = 0.0  #: share of one core that the clients needed meanwhile
    seconds: float = 0.0  #: how long the turns took together
    #: One client's messages in one turn: what, when sent and when received (milliseconds after the
    #: first change of the turn), bytes up, bytes down. What only the server saw leave has None.
    trace: list[tuple[str, float | None, float, int, int]] = field(default_factory=list)
    #: When the readings of that turn changed, on the same scale.
    trace_changes: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.dispatch = self.variant.dispatch

    @property
    def variant(self) -> Variant:
        return Variant(self.transport, self.carry, self.dispatch)

    @property
    def title(self) -> str:
        """The way, and how often it asks if it is short polling."""
        asks = "" if self.period is None else f", every {self.period:g} s"
        return self.variant.title + asks

    @property
    def notified_percentiles(self) -> Percentiles | None:
        """Milliseconds from the change to knowing of it."""
        return percentiles(self.notified_ms)

    @property
    def received_percentiles(self) -> Percentiles | None:
        """Milliseconds from the change to having the data."""
        return percentiles(self.received_ms)

    @property
    def updates(self) -> int:
        """Updates that reached a client: what costs are divided by."""
        return max(1, self.seen)

    @property
    def bytes_per_update(self) -> float:
        return self.traffic.bytes / self.updates

    @property
    def bytes_with_headers_per_update(self) -> float:
        return self.traffic.bytes_with_headers / self.updates

    @property
    def bytes_per_second(self) -> float | None:
        """Bytes per second and client, which is what counts where not every change is seen."""
        return self.traffic.bytes / self.seconds / self.clients if self.seconds else None

    @property
    def requests_per_update(self) -> float:
        return self.traffic.requests / self.updates

    @property
    def messages_per_update(self) -> float:
        return self.traffic.messages / self.updates

    @property
    def cpu_samples(self) -> list[float]:
        """Microseconds of the server's CPU per change and client, one sample per turn.

        Without what publishing the change costs where there is nobody to tell.
        """
        once = quantile(self.publish_cpu, CPU_PERCENTILE) if self.publish_cpu else 0.0
        return [
            (cpu / changes - once) / self.clients
            for cpu, changes in zip(self.cpu, self.changes, strict=True)
        ]

    @property
    def knows_cpu(self) -> bool:
        """Whether the server's CPU was measured, and is more than what publishing varies by."""
        return bool(self.cpu) and self.clients >= MIN_CPU_CLIENTS

    @property
    def cpu_per_update(self) -> float | None:
        """What UNDISTURBED of `cpu_samples` are below; None where it is not known."""
        return quantile(self.cpu_samples, CPU_PERCENTILE) if self.knows_cpu else None

    @property
    def cpu_per_second(self) -> float | None:
        """Microseconds of the server's CPU per second and client, publishing included."""
        if not self.knows_cpu or not self.seconds:
            return None
        return sum(self.cpu) / self.seconds / self.clients

    @property
    def memory_per_client(self) -> float | None:
        """Bytes of the server's memory per client, from MANY clients on."""
        return (
            None
            if self.memory is None or self.clients < MIN_CPU_CLIENTS
            else self.memory / self.clients
        )


@dataclass
class Results:
    """All that one run found out."""

    command: str
    about: dict[str, Any]  #: date, machine, versions: see machine.about
    options: dict[str, Any]
    entries: list[Result] = field(default_factory=list)
    verified: list[str] = field(default_factory=list)  #: titles of the ways that were right
    #: What a preset found out beside its cells.
    extra: dict[str, Any] = field(default_factory=dict)
    interrupted: bool = False
    failure: str | None = None  #: why it ended early

    @property
    def is_complete(self) -> bool:
        """True if it neither failed nor was interrupted."""
        return not (self.failure or self.interrupted)

    def finish(self) -> None:
        """Leave out what was not reached, and call it a failure if anything was lost."""
        self.entries = [result for result in self.entries if result.published]
        if lost := sum(result.lost for result in self.entries):
            worst = max(self.entries, key=lambda result: result.lost)
            self.failure = self.failure or (
                f"{lost:,} readings were lost, most of them by {worst.variant.title}: they were "
                "still the newest when they were no longer waited for"
            )

    def as_json(self) -> str:
        """Return it all, a line per list, so that a diff can be read."""
        entries = [{name: _rounded(value) for name, value in vars(result).items()}
                 for result in self.entries]  # fmt: skip
        return as_json({**vars(self), "entries": entries})

    @classmethod
    def from_json(cls, text: str) -> "Results":
        """Return what `as_json` was made of, but for what it has rounded."""
        found: dict[str, Any] = json.loads(text)
        for result in found["entries"]:
            result["traffic"], result["connect_traffic"] = (
                Traffic(**result["traffic"]),
                Traffic(**result["connect_traffic"]),
            )
            result["trace"] = [tuple(message) for message in result["trace"]]
        found["entries"] = [Result(**result) for result in found["entries"]]
        return cls(**found)

    @classmethod
    def load(cls, path: Path) -> "Results":
        return cls.from_json(path.read_text())


def _rounded(value: Any) -> Any:
    """Return it, samples to the hundredth: no clock of ours is better than that."""
    if isinstance(value, Traffic):
        return vars(value)
    if isinstance(value, list | tuple):
        return [round(v, 2) if isinstance(v, float) else _rounded(v) for v in value]
    return value


def as_json(found: Any) -> str:
    """Return it as JSON that a diff can be read of: a list of plain values takes one line."""
    return _json(found, "\n") + "\n"


def _json(value: Any, start: str) -> str:
    inside = start + " "
    if isinstance(value, dict) and value:
        lines = [f"{json.dumps(key)}: {_json(of_key, inside)}" for key, of_key in value.items()]
        return "{" + inside + ("," + inside).join(lines) + start + "}"
    if isinstance(value, list | tuple) and any(isinstance(v, dict | list | tuple) for v in value):
        return "[" + inside + ("," + inside).join(_json(v, inside) for v in value) + start + "]"
    return json.dumps(value, ensure_ascii=False)
