"""10,000 events at 500 a second to 200 subscribers, while parts fail.

`make test-faults`: it takes minutes, so it is not among the tests of `make test`. Those in
test_cluster.py are the same, smaller.
"""

import json
import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import cycle
from typing import Any

import pytest

from pushlab import limits
from pushlab.feed import NotPublished
from pushlab.transports import TRANSPORTS
from tests.clients import HANG_TIMEOUT
from tests.conftest import Program, eventually
from tests.test_cluster import FAULTS as SMALLER
from tests.test_cluster import Cluster

EVENTS = int(os.environ.get("EVENTS", 10_000))
RATE = 500  #: events a second
SUBSCRIBERS = 200
PERIOD = 1.5  #: seconds from the end of a fault to the next


class Following:
    """The subscribers, in a process of their own."""

    def __init__(self, cluster: Cluster, kinds: Sequence[tuple[str, str, int]]) -> None:
        last = str(EVENTS - 1)
        self.program = Program(
            "-m", "tests.subscribers", str(cluster.port), last, json.dumps(kinds)
        )

    def until_ready(self) -> None:
        eventually(lambda: self.program.out or self.program.process.poll() is not None)
        assert self.program.out == ["ready\n"], self.program.log

    def reconnect(self) -> None:
        self.program.process.send_signal(signal.SIGUSR1)

    def results(self) -> list[dict[str, Any]]:
        """Wait until all have the last event; return what each has seen."""
        with suppress(AssertionError):  # then those that lack it say so
            eventually(lambda: len(self.program.out) > 1)
        self.program.stop()
        found: list[dict[str, Any]] = json.loads(self.program.out[1])
        return found


class Publishing:
    """Publishes each number to a log and to a state, until it is."""

    def __init__(self, cluster: Cluster, topics: Sequence[str]) -> None:
        self._publisher = cluster.publisher
        self._topics = topics
        self.failed = 0
        self.longest = 0.0  #: seconds that a call has taken

    def publish(self, number: int) -> None:
        for topic in self._topics:
            deadline = time.monotonic() + HANG_TIMEOUT
            while not self._is_published(topic, number):
                assert time.monotonic() < deadline
                time.sleep(0.05)

    def _is_published(self, topic: str, number: int) -> bool:
        began = time.monotonic()
        try:
            self._publisher.publish(topic, {"n": number})
        except NotPublished:
            self.failed += 1
            return False
        finally:
            self.longest = max(self.longest, time.monotonic() - began)
        return True

    def run(self) -> int:
        """Publish all but the first and the last; return the events a second."""
        began = due = time.monotonic()
        for number in range(1, EVENTS - 1):
            self.publish(number)
            due = max(due + 1 / RATE, time.monotonic() - 1)
            time.sleep(max(0.0, due - time.monotonic()))
        return round(EVENTS / (time.monotonic() - began))


def hang(cluster: Cluster, _: Following) -> None:
    """Redis is stopped for longer than it may take to respond."""
    cluster.redis.process.send_signal(signal.SIGSTOP)
    time.sleep(2 * limits.REDIS_TIMEOUT)
    cluster.redis.process.send_signal(signal.SIGCONT)


def lose_the_data(cluster: Cluster, _: Following) -> None:
    cluster.redis.stop()
    shutil.rmtree(cluster.redis.folder / "appendonlydir")
    cluster.redis.start()


def make_read_only(cluster: Cluster, _: Following) -> None:
    """As at a failover: connections stay."""
    cluster.redis.do("REPLICAOF", "127.0.0.1", "1")
    time.sleep(1)
    cluster.redis.do("REPLICAOF", "NO", "ONE")


def want_replicas(cluster: Cluster, _: Following) -> None:
    cluster.redis.do("CONFIG", "SET", "min-replicas-to-write", "1")
    time.sleep(1)
    cluster.redis.do("CONFIG", "SET", "min-replicas-to-write", "0")


def fill(cluster: Cluster, _: Following) -> None:
    cluster.redis.do("CONFIG", "SET", "maxmemory", "1")
    time.sleep(1)
    cluster.redis.do("CONFIG", "SET", "maxmemory", "0")


def slow_down(cluster: Cluster, _: Following) -> None:
    """For some seconds, Redis takes up to 200 ms for a response."""
    for _pause in range(15):
        cluster.redis.do("CLIENT", "PAUSE", "200")  # itself waits for the end of the one before


def reconnect(_: Cluster, following: Following) -> None:
    following.reconnect()


Fault = Callable[[Cluster, Following], None]


def of_cluster(fault: Callable[[Cluster], None]) -> Fault:
    def harm(cluster: Cluster, _: Following) -> None:
        fault(cluster)

    harm.__name__ = fault.__name__
    return harm


HARMLESS: list[Fault] = [
    *map(of_cluster, SMALLER), hang, make_read_only, want_replicas, fill, slow_down, reconnect,
]  # fmt: skip


def verify(
    cluster: Cluster, faults: Iterable[Fault], log_kinds: Sequence[tuple[str, int]], name: str
) -> list[dict[str, Any]]:
    log, state = f"log/{name}", f"state/{name}"
    eventually(lambda: cluster.responds(f"/push/data?topic={log}"))
    publishing = Publishing(cluster, (log, state))
    kinds = [(transport, log, number) for transport, number in log_kinds]
    kinds += [(transport, state, 5) for transport in TRANSPORTS]
    following = Following(cluster, kinds)
    publishing.publish(0)
    following.until_ready()
    stopped = threading.Event()
    done: list[str] = []

    def harm() -> None:
        for fault in faults:
            if stopped.wait(PERIOD):
                return
            fault(cluster, following)
            done.append(fault.__name__)

    harming = threading.Thread(target=harm)
    harming.start()
    try:
        rate = publishing.run()
    finally:
        stopped.set()
        harming.join()
    publishing.publish(EVENTS - 1)  # when nothing is harmed any more
    began = time.monotonic()
    results = following.results()
    caught_up = time.monotonic() - began
    print(
        f"\n{name}: {len(done)} faults, {rate} events/s,"
        f" {publishing.failed} publishes failed, the longest took {publishing.longest:.2f} s;"
        f" all had the last after {caught_up:.2f} s"
    )
    for transport in TRANSPORTS:
        for topic in (log, state):
            each = [r for r in results if (r["transport"], r["topic"]) == (transport, topic)]
            if each:
                print(
                    f"  {len(each):3} {transport:9} {topic.partition('/')[0]:5}"
                    f" {sum(r['received'] for r in each):9,} received,"
                    f" {max(r['connects'] for r in each):3} connections at most,"
                    f" {max(r['resets'] for r in each)} resets,"
                    f" longest silence {max(r['silence'] for r in each):.2f} s"
                )
    assert not [wrong for each in results for wrong in each["wrong"]]
    assert not [each for each in results if each["number"] != EVENTS - 1]
    return results


def spread(number: int) -> list[tuple[str, int]]:
    return [(transport, number // len(TRANSPORTS)) for transport in TRANSPORTS]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Any:
    found = Cluster(tmp_path_factory.mktemp("cluster"))
    yield found
    found.stop()


@pytest.mark.parametrize("fault", HARMLESS, ids=lambda fault: fault.__name__)
def test_no_event_is_lost(cluster: Cluster, fault: Fault) -> None:
    name = fault.__name__
    assert not [each for each in verify(cluster, cycle([fault]), spread(SUBSCRIBERS), name)
                if each["resets"]]  # fmt: skip


@pytest.mark.parametrize("transports", [list(TRANSPORTS), *([each] for each in TRANSPORTS)])
def test_no_event_is_lost_to_200_of_one_transport(cluster: Cluster, transports: list[str]) -> None:
    """All faults one after another, in any order; the same with 50 of each transport."""
    faults = random.sample(HARMLESS, len(HARMLESS))
    kinds = [(transport, SUBSCRIBERS // len(transports)) for transport in transports]
    found = verify(cluster, cycle(faults), kinds, f"mixed-{'-'.join(transports)}")
    assert not [each for each in found if each["resets"]]


def test_a_log_that_is_gone_is_one_reset(cluster: Cluster) -> None:
    found = verify(cluster, [lose_the_data], spread(SUBSCRIBERS), "gone")
    assert {each["resets"] for each in found} == {0, 1}
    assert {each["resets"] for each in found if each["topic"].startswith("log/")} == {1}
