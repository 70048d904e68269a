"""Plausible results of a run, made up."""

import random

from bench.results import Result, Results, Traffic
from bench.scenarios import VARIANTS, Variant

#: Where so many browsers are so far away, in milliseconds.
GROUPS = ((10, 0.0), (100, 0.0), (1000, 0.0), (100, 200.0))
PERIOD = 1.0  #: seconds between two questions
PACE = 0.8  #: seconds between two changes
CHANGES = 10
SAMPLES = 500  #: of a result, at most: more than a plot has points for


#: What one update costs: requests, messages, bytes up and down, microseconds, bytes of memory.
COSTS = {
    ("poll", False): (2, 0, 1130, 620, 190, 2100),
    ("poll", True): (1, 0, 601, 355, 110, 2100),
    ("longpoll", False): (2, 0, 1046, 468, 205, 9800),
    ("longpoll", True): (1, 0, 539, 322, 120, 9800),
    ("sse", False): (1, 1, 507, 348, 118, 21000),
    ("sse", True): (0, 1, 0, 163, 16, 21000),
    ("websocket", False): (1, 1, 507, 301, 112, 3100),
    ("websocket", True): (0, 1, 0, 121, 9, 3100),
}
EMPTY = 540, 160  #: bytes up and down of a question in vain


def result(
    variant: Variant,
    *,
    clients: int = 100,
    rtt_ms: float = 0.0,
    chance: random.Random | None = None,
) -> Result:
    """Return a plausible result."""
    chance = chance or random.Random(f"{variant} {clients} {rtt_ms}")
    requests, messages, up, down, cpu, memory = COSTS[variant.transport, variant.carry]
    polls = variant.transport == "poll"
    seen = clients * CHANGES - (clients * 2 if polls else 0)
    known, had = [], []
    for _ in range(min(seen, SAMPLES)):
        notified = rtt_ms / 2 + chance.gammavariate(3, 0.25) + chance.random() * clients * 0.02
        if polls:
            notified += chance.random() * PERIOD * 1000
        known.append(notified)
        fetched = 0.0 if variant.carry else rtt_ms + chance.gammavariate(3, 0.3)
        had.append(notified + fetched)
    polled = int(clients * CHANGES * PACE / PERIOD) if polls else 0
    empty = polled // 4
    turns = CHANGES // 5 * 3
    return Result(
        "gevent",
        variant.transport,
        variant.carry,
        clients,
        PACE,
        rtt_ms,
        period=PERIOD if polls else None,
        published=CHANGES,
        seen=seen,
        coalesced=clients * CHANGES - seen,
        notified_ms=known,
        received_ms=had,
        connect_traffic=Traffic(clients, up=480 * clients, down=130 * clients, packets=2 * clients),
        traffic=Traffic(
            requests * seen + empty,
            empty,
            messages * seen,
            up * seen + empty * EMPTY[0],
            down * seen + empty * EMPTY[1],
            packets=seen * (2 * (requests + messages)) + empty * 2,
        ),
        cpu=[(cpu * chance.uniform(0.9, 1.15) * clients + 150) * 5 for _ in range(turns)],
        changes=[5] * turns,
        publish_cpu=[140.0, 150.0, 160.0],
        memory=memory * clients,
        worker_cpu=0.1 + clients / 2000,
        seconds=CHANGES * PACE,
    )


def slow_readers(*, clients: int = 100) -> list[Result]:
    """Return slow readers' results: polling takes less."""
    chance = random.Random("slow")
    found = []
    for transport, bytes_down, cpu in (("poll", 355, 100), ("websocket", 121, 9)):
        slow = result(Variant(transport, True), clients=clients)
        slow.pace, slow.processing_time, slow.seconds, slow.published = 0.02, 0.5, 10.0, 500
        slow.period = 0.5 if transport == "poll" else None
        seen = 20 if transport == "poll" else 400
        slow.seen = seen * clients
        slow.coalesced = 500 * clients - slow.seen
        slow.notified_ms = slow.received_ms = [chance.uniform(20, 560) for _ in range(1000)]
        requests = slow.seen if transport == "poll" else 0
        down, packets = bytes_down * slow.seen, 2 * slow.seen
        slow.traffic = Traffic(requests, 0, slow.seen, 601 * requests, down, packets=packets)
        slow.cpu, slow.changes = [cpu * slow.seen * q / 3 for q in (0.9, 1, 1.1)], [166] * 3
        found.append(slow)
    return found


def sample_results(*, slow: bool = True) -> Results:
    """Return all variants at several numbers of browsers and distances."""
    chance = random.Random(5)
    entries = [
        result(variant, clients=clients, rtt_ms=rtt_ms, chance=chance)
        for clients, rtt_ms in GROUPS
        for variant in VARIANTS
    ]
    return Results(
        command="python compare.py --distance 0,200",
        about={
            "date": "2026-01-02 03:04 UTC",
            "machine": {
                "cpu": "A Processor, 3 GHz",
                "cores": 2,
                "memory_gib": 4,
                "system": "Linux 6.1",
            },
            "versions": {"Python": "3.11.7", "gevent": "26.9.0", "flask": "3.1.3"},
        },
        options={"rtt": [0, 200], "clients": [10, 100, 1000], "quick": False},
        entries=[*entries, *(slow_readers() if slow else [])],
        verified=[variant.title for variant in VARIANTS],
    )
