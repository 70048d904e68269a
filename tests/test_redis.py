"""The same feeds in several processes, on a real Redis, with faults."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import Any, NoReturn

import psutil
import pytest
import redis
from flask import Flask

from lab.instruments import Lab
from lab.pace import Setting
from lab.settings import Settings
from lab.shared_feed import PREFIX, LabFeed, share_controls
from pushlab import Push, limits, redis_feed
from pushlab import feed as feeds
from pushlab.feed import Feed, NotPublished, Reading, news, positions
from pushlab.redis_feed import LeaseLost, RedisFeed, RedisFeeds
from tests.clients import CLOSE, HANG_TIMEOUT, LabPage
from tests.conftest import ROOT, Server, Start, eventually, starting
from tests.hosting import with_limits
from tests.redis_server import SERVERS, RedisServer
from tests.relay import Relay
from tests.test_metrics import scrape
from tests.transports import sequence

LOG, STATE = 1000, 1

#: What scripts, streams, and errors do depends on the server.
ON_EACH_SHARED = pytest.mark.parametrize("shared_redis", SERVERS, indirect=True)
ON_EACH_OWN = pytest.mark.parametrize("own_redis", SERVERS, indirect=True)


@pytest.fixture(scope="module")
def shared_redis(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[RedisServer]:
    """A Redis for tests that leave it as it is."""
    name = getattr(request, "param", SERVERS[0])
    server = RedisServer(tmp_path_factory.mktemp(name), server=name)
    yield server
    server.stop()


@pytest.fixture
def own_redis(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """A Redis that a test may harm."""
    server = RedisServer(tmp_path, server=getattr(request, "param", SERVERS[0]))
    yield server
    server.process.send_signal(signal.SIGCONT)
    server.stop()


@pytest.fixture(autouse=True)
def waits_for_redis(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test but those of a Redis that hangs depends on how fast it responds."""
    monkeypatch.setattr(limits, "REDIS_TIMEOUT", HANG_TIMEOUT)


@pytest.fixture
def redis_timeout(monkeypatch: pytest.MonkeyPatch) -> float:
    """The seconds that a Redis which is to hang may take."""
    monkeypatch.setattr(limits, "REDIS_TIMEOUT", 1.0)
    return 1.0


class Subscriber:
    """Follows a feed as a waiting browser does, in a thread."""

    def __init__(self, feed: Feed) -> None:
        self.feed = feed
        self.numbers: list[int] = []
        self.cursors: list[str] = []
        self.resets = 0
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        after: str | None = None
        while not self.feed.closed:
            for reading in feeds.wait(((self.feed, after),), timeout=1):
                after = reading.cursor
                if reading.is_reset:
                    self.resets += 1
                elif reading.value:
                    self.numbers.append(reading.value["n"])
                    self.cursors.append(reading.cursor)

    def has(self, *numbers: int) -> bool:
        return self.numbers == list(numbers)


class Processes:
    """What two processes have: each its connections and its feed."""

    def __init__(self, url: str, topic: str, keep: int) -> None:
        self.shared = [RedisFeeds(url) for _ in range(2)]
        self.feeds = [each.feed(topic, keep) for each in self.shared]
        for feed in self.feeds:
            feed.load()
        self.subscribers = [Subscriber(feed) for feed in self.feeds]

    def publish(self, number: int, process: int = 0) -> str:
        """Publish until it is; Redis may be away."""
        deadline = time.monotonic() + HANG_TIMEOUT
        while True:
            try:
                return self.feeds[process].publish({"n": number}).cursor
            except NotPublished:
                assert time.monotonic() < deadline
                time.sleep(0.05)

    def until(self, condition: Callable[[Subscriber], bool]) -> None:
        """Wait until it holds for every subscriber."""
        eventually(lambda: all(map(condition, self.subscribers)))

    def close(self) -> None:
        for shared, feed in zip(self.shared, self.feeds, strict=True):
            shared.close()
            feed.close()


@pytest.fixture
def processes(shared_redis: RedisServer, request: pytest.FixtureRequest) -> Iterator[Processes]:
    """Both follow the tail: what is in it before is read otherwise."""
    with closing(Processes(shared_redis.url, request.node.name, LOG)) as found:
        eventually(lambda: all(each._known for each in found.shared))
        yield found


@ON_EACH_SHARED
def test_both_processes_have_the_same_cursors(processes: Processes) -> None:
    cursors = [processes.publish(number, process=number % 2) for number in range(10)]
    processes.until(lambda each: each.cursors == cursors and each.has(*range(10)))
    epoch, _, first = cursors[0].partition("-")
    assert (first, cursors[-1]) == ("1", f"{epoch}-10")


@ON_EACH_SHARED
def test_a_process_that_comes_later_has_what_is_kept(shared_redis: RedisServer) -> None:
    with closing(Processes(shared_redis.url, "later", 3)) as first:
        cursors = [first.publish(number) for number in range(5)]
        with closing(Processes(shared_redis.url, "later", 3)) as second:
            feed = second.feeds[0]
            assert [each.value["n"] for each in feed.since(cursors[1])] == [2, 3, 4]
            assert [each.is_reset for each in feed.since(cursors[0])] == [True]
            assert feed.latest.cursor == cursors[-1]


def test_a_state_has_the_newest(shared_redis: RedisServer) -> None:
    with closing(Processes(shared_redis.url, "stock", STATE)) as two:
        newest = [two.publish(number) for number in range(100)][-1]
        two.until(lambda each: each.numbers[-1:] == [99] and each.cursors[-1] == newest)
        two.feeds[1].begin({"n": -1})
        assert two.feeds[1].latest.value == {"n": 99}


@ON_EACH_SHARED
def test_the_first_of_two_beginnings_counts(shared_redis: RedisServer) -> None:
    with closing(Processes(shared_redis.url, "beginning", STATE)) as two:
        for number, feed in enumerate(two.feeds):
            feed.begin({"n": number})
        assert [feed.latest.value for feed in two.feeds] == [{"n": 0}, {"n": 0}]


def test_a_cursor_that_this_process_has_not_seen_yet(shared_redis: RedisServer) -> None:
    """A browser comes from a process that was a moment faster."""
    with closing(Processes(shared_redis.url, "moment", LOG)) as two:
        behind = two.feeds[1]
        two.shared[1].close()  # nothing wakes it
        eventually(lambda: not two.shared[1].is_running)
        cursors = [two.publish(number) for number in range(3)]
        assert behind.latest.sequence == 0
        behind.load(cursors[1])
        assert [each.value["n"] for each in behind.since(cursors[1])] == [2]


@pytest.mark.parametrize("transport", ["poll", "longpoll", "sse"])
def test_no_reading_goes_back_in_another_process(shared_redis: RedisServer, transport: str) -> None:
    """The same for what a transport responds with, of a state, in the lab."""
    faster, behind = (RedisFeeds(shared_redis.url, prefix=f"back-{transport}") for _ in range(2))
    feed = LabFeed(behind, has_source=False)
    feed.load()
    behind.close()  # nothing wakes it
    eventually(lambda: not behind.is_running)
    newest = [faster.append("", STATE, {"n": number}) for number in range(3)][-1].cursor
    update = import_module(f"pushlab.transports.{transport}").update
    update([feed], {"QUERY_STRING": f"after={newest}", "HTTP_IF_NONE_MATCH": f'"{newest}"'})
    assert feed.latest.cursor == newest


def test_any_etag_is_looked_at(processes: Processes) -> None:
    """Also one with the right epoch, and a number that is too long for Python."""
    poll = import_module("pushlab.transports.poll")
    feed = processes.feeds[0]
    known = f'"{feed.epoch}-{"1" * 5000}"'
    environ = {"REQUEST_METHOD": "GET", "HTTP_IF_NONE_MATCH": known}
    assert poll.update([feed], environ).status == "200 OK"


# During a process's own append. Each gets what appends, and both processes.

Append = Callable[[], Any]


def wake_up_first(append: Append, two: Processes) -> Any:
    """This process reads its own entry of the tail before the response."""
    woken = threading.Event()
    follow = two.shared[0]._follow

    def followed(entries: Any, known: bytes) -> bool:
        has_all = follow(entries, known)
        woken.set()
        return has_all

    two.shared[0]._follow = followed  # type: ignore[method-assign]
    response = append()
    assert woken.wait(HANG_TIMEOUT)
    return response


def another_before(append: Append, two: Processes) -> Any:
    """Another process is faster, and its entry of the tail is lost."""
    two.shared[0]._follow = lambda entries, known: True  # type: ignore[method-assign]
    two.feeds[1].publish({"n": -1})
    return append()


def response_lost(append: Append, two: Processes) -> Any:
    """It is appended, and this process is not told."""
    wake_up_first(append, two)
    raise redis.TimeoutError("lost")


def late(append: Append, two: Processes) -> Any:
    """Redis appends when it is no longer waited for."""
    threading.Timer(0.2, append).start()
    raise redis.TimeoutError("too late")


class Ended(BaseException):
    """Ends a request, as gevent's Timeout does."""


def ended_before_it_is_taken(append: Append, two: Processes) -> Any:
    """The request ends while the process has not yet what it has appended."""
    read_first = two.shared[0]._read_first

    def end(feed: Feed, place: Any) -> NoReturn:
        two.shared[0]._read_first = read_first  # type: ignore[method-assign]
        raise Ended

    two.shared[0]._read_first = end  # type: ignore[method-assign]
    return wake_up_first(append, two)


@pytest.mark.parametrize(
    ("schedule", "numbers"),
    [
        (ended_before_it_is_taken, [0, 1]),
        (wake_up_first, [0, 1]),
        (another_before, [-1, 0, 1]),
        (response_lost, [0, 1]),
        (late, [0, 1]),
    ],
)
def test_what_happens_during_an_append(
    processes: Processes,
    monkeypatch: pytest.MonkeyPatch,
    schedule: Callable[[Append, Processes], Any],
    numbers: list[int],
) -> None:
    connections = processes.shared[0]._connections
    run = connections.run

    def first(script: Any, constants: Any, *arguments: Any) -> Any:
        if script is not redis_feed._APPENDING or ":tried:" in constants[1]:
            return run(script, constants, *arguments)
        monkeypatch.setattr(connections, "run", run)
        return schedule(lambda: run(script, constants, *arguments), processes)

    monkeypatch.setattr(connections, "run", first)
    with suppress(NotPublished, Ended):
        processes.feeds[0].publish({"n": 0})
    if numbers[0]:
        assert [each.value["n"] for each in processes.feeds[0].since(None)] == numbers[:-1]
    processes.until(lambda each: each.has(*numbers[:-1]))
    processes.publish(1, process=1)
    if schedule is another_before:
        processes.feeds[0].refresh()
    processes.until(lambda each: each.has(*numbers))


@ON_EACH_SHARED
@pytest.mark.usefixtures("shared_redis")
def test_what_a_process_publishes_is_read_only_behind_that_of_others(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has it already; but what another one has published may be before it in the tail."""
    monkeypatch.setattr(limits, "REDIS_TICK", HANG_TIMEOUT)  # after one, it does not pause
    processes: Processes = request.getfixturevalue("processes")
    shared = processes.shared[0]
    paused, go_on, read = threading.Event(), threading.Event(), list[int]()
    follow = shared._follow

    def pause(entries: int, deadline: float) -> None:
        paused.set()
        go_on.wait(HANG_TIMEOUT)

    def followed(entries: Any, known: bytes) -> bool:
        read.extend(int(fields[5].split()[1]) for _, fields in entries)
        return follow(entries, known)

    monkeypatch.setattr(limits, "REDIS_PAUSE", HANG_TIMEOUT)  # all of this comes fast
    monkeypatch.setattr(processes.shared[1], "_pause", lambda entries, deadline: None)
    monkeypatch.setattr(shared, "_pause", pause)
    processes.publish(0, process=1)
    assert paused.wait(HANG_TIMEOUT)
    monkeypatch.setattr(shared, "_follow", followed)
    for number, process in enumerate((0, 0, 0, 1, 0, 1), start=1):
        processes.publish(number, process)
    go_on.set()
    processes.until(lambda each: each.has(*range(7)))
    assert read == [5, 6, 7]


def test_a_process_that_goes_on_publishing_reads_what_others_publish(
    processes: Processes,
) -> None:
    stopped = threading.Event()

    def go_on() -> None:
        while not stopped.is_set():
            processes.shared[0].append("on and on", STATE, {})

    publisher = threading.Thread(target=go_on)
    publisher.start()
    try:
        for number in range(5):
            processes.publish(number, process=1)
            processes.until(lambda each, last=number: each.has(*range(last + 1)))  # type: ignore[misc]
    finally:
        stopped.set()
        publisher.join()


# What may become of the tail. Each is done while nobody reads it.


@contextmanager
def nobody_reads(shared: Sequence[RedisFeeds]) -> Iterator[None]:
    """Hold those that have read the tail before they read it again."""
    go_on, held = threading.Event(), set[RedisFeeds]()

    def hold(each: RedisFeeds, follow: Callable[..., bool]) -> Callable[..., bool]:
        def holding(entries: Any, known: bytes) -> bool:
            held.add(each)
            go_on.wait(HANG_TIMEOUT)
            return follow(entries, known)

        return holding

    def are_held() -> bool:
        shared[0].append("held", STATE, {})  # again: one may begin to read only now
        return len(held) == len(shared)

    with pytest.MonkeyPatch.context() as patch:
        for each in shared:
            patch.setattr(each, "_follow", hold(each, each._follow))
        eventually(are_held)
    yield
    go_on.set()


def trim(redis: RedisServer, _: str) -> None:
    """A process was away for longer than the tail is long."""
    redis.do("XTRIM", "pushlab:tail", "MAXLEN", "1")


def delete(redis: RedisServer, _: str) -> None:
    redis.do("DEL", "pushlab:tail")


def replace_it(redis: RedisServer, _: str) -> None:
    redis.do("SET", "pushlab:tail", "of another program")


def go_back(redis: RedisServer, _: str) -> None:
    """Its ids, which are times: another server's clock is behind."""
    redis.do("DEL", "pushlab:tail")


def end_its_ids(redis: RedisServer, _: str) -> None:
    last = str(2**64 - 1)
    redis.do("XADD", "pushlab:tail", f"{last}-{last}", "of", "another program")


def junk(*fields: str) -> Callable[[RedisServer, str], None]:
    """Another program puts something there, of the topic or of none."""

    def put(redis: RedisServer, topic: str) -> None:
        encoded = (
            each.replace("TOPIC", topic).encode("utf-8", "surrogateescape") for each in fields
        )
        redis.do("XADD", "pushlab:tail", "*", *encoded)

    return put


JUNK = {
    "a field": junk("of", "another program"),
    "no place": junk("after", "0-0", "topic", "TOPIC", "place", ""),
    "no number": junk("after", "0-0", "topic", "TOPIC", "place", "a b c d"),
    "no JSON": junk("after", "0-0", "topic", "TOPIC", "place", "a 1 2 3", "value", "{"),
    "no text": junk("after", "0-0", "topic", "TOPIC", "place", "\udcff"),
}


@ON_EACH_OWN
@pytest.mark.parametrize(
    "harm",
    [trim, delete, replace_it, go_back, end_its_ids, *JUNK.values()],
    ids=["trimmed", "deleted", "replaced", "ids went back", "no more ids", *JUNK],
)
def test_whatever_becomes_of_the_tail_nothing_is_lost(
    own_redis: RedisServer, harm: Callable[[RedisServer, str], None]
) -> None:
    """Also a reading of another topic, whose entry nobody has read."""
    with (
        closing(Processes(own_redis.url, "orders/7", LOG)) as two,
        closing(Processes(own_redis.url, "orders/8", LOG)) as others,
    ):
        shared = (*two.shared, *others.shared)
        if harm is go_back:
            own_redis.do(
                "XADD", "pushlab:tail", f"{2 * time.time_ns() // 10**6}-0", "of", "another"
            )
        two.publish(0)
        others.publish(0)
        threads = [each._thread for each in shared]
        for number in (1, 3):  # the second time in what is left of it
            with nobody_reads(shared):
                others.publish(number)
                harm(own_redis, "orders/7")
                two.publish(number)
            two.publish(number + 1)
            two.until(lambda each: each.numbers[-1:] == [number + 1])  # noqa: B023
            others.until(lambda each: each.numbers[-1:] == [number])  # noqa: B023
        two.until(lambda each: each.has(*range(5)) and not each.resets)
        others.until(lambda each: each.has(0, 1, 3) and not each.resets)
        assert [each._thread for each in shared] == threads
        assert all(each.is_running for each in shared)


def test_the_tail_is_read_between_some_logs_and_the_next(
    own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would be trimmed once more meanwhile, and all would be read again, without an end."""
    monkeypatch.setattr(redis_feed, "_SOME", 1)
    shared, other = RedisFeeds(own_redis.url), RedisFeeds(own_redis.url)
    with closing(shared):
        topics = [shared.feed(f"orders/{number}", LOG) for number in range(4)]
        for each in topics:
            each.load()
        eventually(lambda: own_redis.do("INFO", "clients")["blocked_clients"])  # it has begun
        done: list[str] = []
        refresh, follow = shared._refresh, shared._follow

        def read_logs(feeds: Sequence[RedisFeed]) -> None:
            refresh(feeds)
            done.append("logs")
            other.append("orders/0", LOG, {"n": len(done)})  # what comes meanwhile

        def read_tail(entries: Any, known: bytes) -> bool:
            done.append("tail")
            return follow(entries, known)

        with nobody_reads([shared]):
            for number in range(4):
                other.append(f"orders/{number}", LOG, {"n": 0})
            trim(own_redis, "")
            monkeypatch.setattr(shared, "_refresh", read_logs)
            monkeypatch.setattr(shared, "_follow", read_tail)
        eventually(lambda: done.count("logs") == 4)
        eventually(lambda: [each.latest.value for each in topics[1:]] == [{"n": 0}] * 3)
        first = done.index("logs")
        assert done[first : first + 7] == ["logs", "tail"] * 3 + ["logs"]


def test_what_is_published_after_a_disconnect_comes_after_it(shared_redis: RedisServer) -> None:
    """Another thread of this process publishes while identities are disconnected."""
    shared, other = RedisFeeds(shared_redis.url), RedisFeeds(shared_redis.url)
    revoking, go_on, done = threading.Event(), threading.Event(), list[str]()

    def revoke(_: Reading) -> None:
        revoking.set()
        go_on.wait(HANG_TIMEOUT)
        done.append("revoked")

    with closing(shared):
        first, feed = shared.feed("revoked", LOG), shared.feed("log/after", LOG)
        for each in (first, feed):
            each.load()
        shared.first = other.first = first
        first.subscribe(revoke)
        feed.subscribe(lambda reading: done.append("sent"))
        other.append("revoked", LOG, {"identity": "ada"})
        assert revoking.wait(HANG_TIMEOUT)
        publishing = threading.Thread(target=feed.publish, args=({"n": 0},))
        publishing.start()
        eventually(lambda: shared_redis.do("XLEN", "pushlab:{log/after}:log") == 1)
        publishing.join(0.2)  # it would have been sent by now
        go_on.set()
        publishing.join()
        assert done == ["revoked", "sent"]


@pytest.mark.parametrize("error", [TypeError, RecursionError, Exception])
def test_no_error_ends_the_reading(
    processes: Processes, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    """Nobody else would read, and nobody would know."""
    decode, failed, numbers = redis_feed._decode, threading.Event(), count()

    def fail(text: str) -> Any:
        failed.set()
        raise error

    monkeypatch.setattr(redis_feed, "_decode", fail)
    eventually(lambda: processes.publish(next(numbers)) and failed.is_set())
    monkeypatch.setattr(redis_feed, "_decode", decode)
    last = next(numbers)
    processes.publish(last)
    processes.until(lambda each: each.has(*range(last + 1)) and not each.resets)
    assert all(each.is_running for each in processes.shared)


def test_a_connection_that_was_interrupted_is_not_used(
    own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A response is left in it, which the next command would take for its own."""
    shared = RedisFeeds(own_redis.url)
    with monkeypatch.context() as patch:

        def end(*_: Any, **__: Any) -> NoReturn:
            raise Ended

        patch.setattr(redis.Connection, "read_response", end)
        with pytest.raises(Ended):
            shared.append("orders/7", LOG, {"n": 0})
    cursors = [shared.append("orders/7", LOG, {"n": number}).cursor for number in range(3)]
    assert [sequence(each) for each in cursors] == [1, 2, 3]


@ON_EACH_SHARED
def test_a_long_value_is_read_in_the_log(
    processes: Processes, shared_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tail, which each process reads, does not have it."""
    monkeypatch.setattr(limits, "REDIS_TAIL_VALUE", 20)
    processes.publish(0)
    processes.feeds[0].publish({"n": 1, "text": "long" * 10})
    processes.publish(2)
    processes.until(lambda each: each.has(0, 1, 2))
    tail = shared_redis.do("XREVRANGE", "pushlab:tail", "+", "-", "COUNT", "3")
    assert b"long" not in b"".join(b"".join(fields) for _, fields in tail)


@pytest.mark.parametrize(
    "fields",
    [("of", "another"), ("at", "soon", "value", "{}"), ("at", "1", "value", "{")],
    ids=["a field", "no time", "no JSON"],
)
def test_an_entry_of_another_program_in_a_log(
    processes: Processes, shared_redis: RedisServer, fields: tuple[str, ...]
) -> None:
    """It is no reading, and ends nobody's reading."""
    processes.publish(0)
    key = f"pushlab:{{{processes.feeds[0].topic}}}:log"
    shared_redis.do("XADD", key, "1-1", *fields)
    processes.publish(1)
    for feed in processes.feeds:
        feed.epoch = ""  # it has all to read
        feed.refresh()
        assert [each.value["n"] for each in feed.since(None)] == [0, 1]
    processes.publish(2)
    processes.until(lambda each: each.numbers[-1:] == [2])
    assert all(each.is_running for each in processes.shared)


# Redis goes away. Each returns when it is there again.


def cut(redis: RedisServer) -> None:
    redis.cut()


def stop_and_continue(redis: RedisServer) -> None:
    redis.process.send_signal(signal.SIGSTOP)
    time.sleep(1.5)
    redis.process.send_signal(signal.SIGCONT)


def restart(redis: RedisServer) -> None:
    redis.stop()
    redis.start()


def make_read_only(redis: RedisServer) -> None:
    redis.do("REPLICAOF", "127.0.0.1", "1")
    redis.cut()
    time.sleep(0.1)
    redis.do("REPLICAOF", "NO", "ONE")


def demote(redis: RedisServer) -> None:
    """As at a failover: connections stay."""
    redis.do("REPLICAOF", "127.0.0.1", "1")
    time.sleep(0.1)
    redis.do("REPLICAOF", "NO", "ONE")


def fill(redis: RedisServer) -> None:
    redis.do("CONFIG", "SET", "maxmemory", "1")
    time.sleep(0.1)
    redis.do("CONFIG", "SET", "maxmemory", "0")


def want_replicas(redis: RedisServer) -> None:
    redis.do("CONFIG", "SET", "min-replicas-to-write", "1")
    time.sleep(0.1)
    redis.do("CONFIG", "SET", "min-replicas-to-write", "0")


def slow_down(redis: RedisServer) -> None:
    for _ in range(5):
        redis.do("CLIENT", "PAUSE", "100")  # itself waits for the end of the one before


@pytest.mark.parametrize(
    "fault",
    [cut, stop_and_continue, restart, make_read_only, demote, want_replicas, fill, slow_down],
)
def test_nothing_is_lost_or_doubled(
    own_redis: RedisServer, redis_timeout: float, fault: Callable[[RedisServer], None]
) -> None:
    """Faults come while readings are published; the log is still there."""
    with closing(Processes(own_redis.url, "orders/7", LOG)) as two:

        def twice() -> None:
            for _ in range(2):
                fault(own_redis)

        faults = threading.Thread(target=twice)
        two.publish(0)
        faults.start()
        published = 1
        while faults.is_alive() or published < 100:
            two.publish(published, process=published % 2)
            published += 1
            time.sleep(0.001)
        two.until(lambda each: each.numbers[-1:] == [published - 1])
        for subscriber in two.subscribers:
            # A publisher that got no response tries again, and may so publish twice.
            assert list(dict.fromkeys(subscriber.numbers)) == list(range(published))
            assert subscriber.cursors == list(dict.fromkeys(subscriber.cursors))
            sequences = [int(cursor.partition("-")[2]) for cursor in subscriber.cursors]
            assert sequences == list(range(1, len(sequences) + 1)), "no gap, no double"
            assert subscriber.resets == 0
        eventually(lambda: not any(each.problem for each in two.shared))


def restart_empty(redis: RedisServer) -> None:
    redis.stop()
    shutil.rmtree(redis.folder / "appendonlydir")
    redis.start()


def restart_behind(redis: RedisServer) -> None:
    """As a replica that takes over, and lacks the last readings."""
    redis.stop()
    folder = redis.folder / "appendonlydir"
    shutil.rmtree(folder)
    shutil.copytree(redis.folder / "older", folder)
    redis.start()
    time.sleep(2 * redis_feed._FRESH)  # then a connection is looked at before it is used


@ON_EACH_OWN
@pytest.mark.parametrize("published", [1, 2])
def test_a_state_of_a_server_that_was_behind_is_the_newest(
    own_redis: RedisServer, published: int
) -> None:
    """It is published before any process has noticed: the number may be used, or not yet."""
    with closing(Processes(own_redis.url, "stock/mug", STATE)) as two:
        two.publish(0)
        shutil.copytree(own_redis.folder / "appendonlydir", own_redis.folder / "older")
        for number in (1, 2):
            two.publish(number)
        two.until(lambda each: each.numbers[-1:] == [2])
        for shared in two.shared:
            shared.close()
        eventually(lambda: not any(shared.is_running for shared in two.shared))
        restart_behind(own_redis)
        for number in range(published):
            two.publish(10 + number)
        for feed in two.feeds:
            feed.refresh()
            assert feed.latest.value == {"n": 9 + published}
        two.until(lambda each: each.numbers[-1:] == [9 + published])


@ON_EACH_OWN
@pytest.mark.parametrize("fault", [restart_empty, restart_behind])
def test_a_log_that_is_gone_is_one_reset(
    own_redis: RedisServer, fault: Callable[[RedisServer], None]
) -> None:
    with closing(Processes(own_redis.url, "orders/7", LOG)) as two:
        before = [two.publish(number) for number in range(3)]
        shutil.copytree(own_redis.folder / "appendonlydir", own_redis.folder / "older")
        before += [two.publish(number) for number in range(3, 6)]
        two.until(lambda each: each.has(*range(6)))
        fault(own_redis)
        two.until(lambda each: each.resets == 1)
        after = [two.publish(number) for number in range(6, 9)]
        two.until(lambda each: each.has(*range(9)))
        assert [each.resets for each in two.subscribers] == [1, 1]
        epochs = (
            {cursor.partition("-")[0] for cursor in before},
            {cursor.partition("-")[0] for cursor in after},
        )
        assert epochs[0].isdisjoint(epochs[1])


@ON_EACH_OWN
def test_numbers_that_were_used_again_are_found_out(own_redis: RedisServer) -> None:
    """A publisher is there before those that know what was lost."""
    with closing(Processes(own_redis.url, "orders/7", LOG)) as two:
        two.publish(0)
        shutil.copytree(own_redis.folder / "appendonlydir", own_redis.folder / "older")
        two.publish(1)
        two.until(lambda each: each.has(0, 1))
        for shared in two.shared:
            shared.close()
        eventually(lambda: not any(shared.is_running for shared in two.shared))
        restart_behind(own_redis)
        other = RedisFeeds(own_redis.url)
        for number in (10, 11):
            other.append("orders/7", LOG, {"n": number})
        for feed in two.feeds:
            feed.refresh()
            (first,) = feed.since(f"{two.subscribers[0].cursors[-1]}")
            assert first.is_reset


@pytest.mark.parametrize("keep", [2, 5])
def test_a_gap_is_one_reset(shared_redis: RedisServer, keep: int) -> None:
    """More was published, while a process did not read, than Redis keeps."""
    with closing(Processes(shared_redis.url, f"gap/{keep}", keep)) as two:
        behind = two.feeds[1]
        for number in range(keep):
            two.publish(number)
        two.until(lambda each: each.numbers[-1:] == [keep - 1])
        two.shared[1].unfollow(behind)  # nothing wakes it
        newest = [two.publish(number) for number in range(keep, 2 * keep + 1)][-1]
        received: list[tuple[bool, Any]] = []
        after = behind.latest.cursor

        def receive(_: Reading) -> None:
            nonlocal after
            for reading in behind.since(after):
                received.append((reading.is_reset, reading.value.get("n")))
                after = reading.cursor

        behind.subscribe(receive)
        behind.refresh()
        assert received == [(True, None)]
        assert after == newest


def test_those_that_ask_at_once_wait_once(
    own_redis: RedisServer, redis_timeout: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis hangs: each would wait for its own time-out, one after another."""
    shared = RedisFeeds(own_redis.url)
    feed = shared.feed("orders/7", LOG)
    called: Counter[str] = Counter()

    def count(name: str) -> None:
        original = getattr(shared, name)

        def counting(*arguments: Any) -> Any:
            called[name] += 1
            return original(*arguments)

        monkeypatch.setattr(shared, name, counting)

    def load() -> None:
        with pytest.raises(NotPublished):
            feed.load()
        called["failed"] += 1

    count("follow")
    count("read")
    own_redis.process.send_signal(signal.SIGSTOP)
    with feed._publishing():
        for _ in range(5):
            threading.Thread(target=load, daemon=True).start()
        eventually(lambda: called["follow"] == 5)
    eventually(lambda: called["failed"] == 5)
    assert called["read"] == 1


@ON_EACH_SHARED
def test_a_dead_connection_is_found_out(shared_redis: RedisServer) -> None:
    """What is in between has forgotten one connection, as firewalls do with silent ones."""
    with Relay(shared_redis.port) as relay, ExitStack() as stack:
        shared = RedisFeeds(f"redis://127.0.0.1:{relay.port}")
        stack.callback(shared.close)
        feed = shared.feed("dead/1", LOG)
        feed.load()
        first = feed.publish({"n": 0}).cursor
        eventually(lambda: feed.latest.cursor == first)

        def waiting() -> list[Any]:
            clients = shared_redis.do("CLIENT", "LIST").decode().splitlines()
            addresses = "".join(each for each in clients if "cmd=xread " in each)
            return [
                each
                for each in relay.connections
                if f"addr=127.0.0.1:{each.server_side} " in addresses
            ]

        [connection] = eventually(waiting)
        connection.stall()
        second = feed.publish({"n": 1}).cursor
        eventually(lambda: feed.latest.cursor == second)


@pytest.mark.parametrize("is_idle", [True, False])
def test_its_name_is_another_servers(
    own_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory, *, is_idle: bool
) -> None:
    """The one that was the primary is read-only now, and closes no connection."""
    other = RedisServer(tmp_path_factory.mktemp("other"))
    with Relay(own_redis.port) as relay, ExitStack() as stack:
        stack.callback(other.stop)
        two = stack.enter_context(
            closing(Processes(f"redis://127.0.0.1:{relay.port}", "stock/mug", STATE))
        )
        two.publish(0)
        two.until(lambda each: each.has(0))
        relay.server_port = other.port
        own_redis.do("REPLICAOF", "127.0.0.1", "1")
        if is_idle:
            RedisFeeds(other.url).append("stock/mug", STATE, {"n": 1})
        else:
            two.publish(1)
        two.until(lambda each: each.numbers[-1:] == [1])
        eventually(lambda: not any(each.problem for each in two.shared))


class Process:
    """One of an app's processes, with a follower; it reads on when a test says so."""

    def __init__(self, url: str) -> None:
        self.events: list[Any] = []
        self.push = Push(redis=url, identify=lambda: "7")
        self.push.topic("secret", keep=10)(lambda: None)
        app = Flask(__name__)
        self.push.init_app(app)
        with (
            app.test_request_context("/push/update?topic=secret"),
            self.push._admitted("sse") as ((self.feed,), self.follower),
        ):
            self.follower.attach(lambda: self.events.append("end"))
        self.feed.subscribe(lambda reading: self.events.append(reading.value["n"]))
        assert self.push.redis is not None
        self.push.redis.close()
        eventually(lambda: not self.push.redis.is_running)  # type: ignore[union-attr]


def test_disconnected_before_what_is_published_afterwards(shared_redis: RedisServer) -> None:
    process = Process(shared_redis.url)
    other = Push(redis=shared_redis.url)
    other.topic("secret", keep=10)(lambda: None)
    other.publish("secret", {"n": 1})
    other.disconnect("7")
    other.publish("secret", {"n": 2})
    process.feed.load(f"{process.feed.epoch}-2")  # a browser comes from another process
    assert process.events == ["end", 1, 2]


def test_topics_are_known_after_redis_has_lost_its_data(own_redis: RedisServer) -> None:
    """A publisher that is no app finds them there."""
    process = Process(own_redis.url)
    own_redis.do("FLUSHALL")
    with pytest.raises(ValueError, match="no topic"):
        Push.publisher(own_redis.url).publish("secret", {"n": 1})
    process.push._tick()
    assert Push.publisher(own_redis.url).publish("secret", {"n": 1}).sequence == 1


def test_disconnected_after_redis_has_lost_its_data(own_redis: RedisServer) -> None:
    other = Push(redis=own_redis.url)
    other.disconnect("8")
    process = Process(own_redis.url)
    own_redis.do("FLUSHALL")
    other.disconnect("7")
    assert process.push._disconnected is not None
    process.push._disconnected.refresh()
    assert process.events == ["end"]


@ON_EACH_OWN
def test_followers_are_counted(own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in forked processes, and after Redis has lost what it knew."""
    forked, third = RedisFeeds(own_redis.url), RedisFeeds(own_redis.url)
    counts = {"a": 2, "b": 1}
    parent = os.getpid()
    forked.set_counts(counts)
    monkeypatch.setattr(os, "getpid", lambda: parent + 1)
    forked.set_counts({"a": 3})
    assert [third.count(topic) for topic in "abc"] == [5, 1, 0]
    assert [forked.count(topic) for topic in "abc"] == [2, 1, 0]
    forked.set_counts({"b": 1})
    own_redis.do("DEL", f"pushlab:process:{forked._name}-{parent}")  # it was killed
    assert [third.count(topic) for topic in "abc"] == [0, 1, 0]
    own_redis.do("FLUSHALL")
    assert third.count("b") == 0
    forked.set_counts({"b": 1})
    assert third.count("b") == 1


def test_a_topic_without_a_reading_is_forgotten(shared_redis: RedisServer) -> None:
    with closing(Processes(shared_redis.url, "nobody/1", LOG)):
        assert shared_redis.do("TTL", "pushlab:{nobody/1}:meta") > 0


def test_a_forked_source_needs_a_lease_of_its_own(
    shared_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed = LabFeed(RedisFeeds(shared_redis.url, prefix="forked"), has_source=True)
    first = feed._token
    monkeypatch.setattr(os, "getpid", lambda: 1)
    assert feed._token != first


@ON_EACH_OWN
@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (RedisServer.stop, "Connection refused"),
        (lambda redis: redis.process.send_signal(signal.SIGSTOP), "Timeout"),
        (lambda redis: redis.do("CONFIG", "SET", "maxmemory", "1"), "maxmemory"),
        (lambda redis: redis.do("REPLICAOF", "127.0.0.1", "1"), "(?i)read.?only"),
        (lambda redis: redis.do("CONFIG", "SET", "requirepass", "other"), "Authentication"),
    ],
    ids=["stopped", "hanging", "full", "read-only", "password"],
)  # fmt: skip
def test_publishing_says_that_redis_is_away(
    own_redis: RedisServer,
    harm: Callable[[RedisServer], Any],
    message: str,
    request: pytest.FixtureRequest,
) -> None:
    if message == "Timeout":
        request.getfixturevalue("redis_timeout")
    with closing(Processes(own_redis.url, "orders/7", LOG)) as two:
        cursor = two.publish(0)
        two.until(lambda each: each.has(0))
        harm(own_redis)
        with pytest.raises(NotPublished, match=message):
            RedisFeeds(own_redis.url).append("orders/7", LOG, {"n": 1})
        if message in ("Connection refused", "Timeout", "Authentication"):  # others can be read
            with pytest.raises(NotPublished, match=message):
                RedisFeeds(own_redis.url).read(two.feeds[0], "", 0, "")
        assert two.feeds[0].latest.cursor == cursor


@ON_EACH_OWN
@pytest.mark.parametrize(
    ("harm", "undo"),
    [
        (("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0")),
        (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE")),
        (
            ("CONFIG", "SET", "min-replicas-to-write", "1"),
            ("CONFIG", "SET", "min-replicas-to-write", "0"),
        ),
        *(
            (("ACL", "SETUSER", "default", f"-{command}"), ("ACL", "SETUSER", "default", "+@all"))
            for command in ("evalsha", "xadd")
        ),
    ],
    ids=["full", "read-only", "without replicas", "-evalsha", "-xadd"],
)
def test_a_problem_stands(
    own_redis: RedisServer,
    harm: tuple[str, ...],
    undo: tuple[str, ...],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Redis can be asked, but accepts nothing: it is said once, until it does again."""
    shared = RedisFeeds(own_redis.url)
    problems: list[str] = []
    shared.on_tick.append(lambda: problems.append(shared.problem))
    shared.feed("orders/7", LOG).load()
    eventually(lambda: problems)  # it has read, which a Redis that accepts nothing may refuse
    own_redis.do(*harm)
    eventually(lambda: shared.problem)
    problems.clear()
    eventually(lambda: len(problems) > 2)
    assert all(problems)
    assert "there again" not in caplog.text
    own_redis.do(*undo)
    eventually(lambda: not shared.problem)
    shared.close()


@ON_EACH_OWN
def test_a_redis_that_loads_its_data(own_redis: RedisServer) -> None:
    with closing(Processes(own_redis.url, "orders/7", LOG)) as two:
        two.publish(0)
        two.until(lambda each: each.has(0))
        with redis.Redis(port=own_redis.port) as client, client.pipeline() as pipeline:
            for number in range(20_000):
                pipeline.set(f"other:{number}", "")
            pipeline.execute()
        own_redis.stop()
        own_redis.launch("--key-load-delay", "200")  # microseconds
        eventually(lambda: all("loading" in each.problem for each in two.shared))
        two.publish(1)
        two.until(lambda each: each.has(0, 1) and not each.resets)
        eventually(lambda: not any(each.problem for each in two.shared))


def test_connections_are_bounded(
    own_redis: RedisServer, redis_timeout: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests that wait for a Redis that hangs share a few."""
    monkeypatch.setattr(limits, "REDIS_CONNECTIONS", 2)
    shared = RedisFeeds(own_redis.url)
    own_redis.process.send_signal(signal.SIGSTOP)
    failed: list[NotPublished] = []

    def ask(question: Callable[[], object]) -> None:
        try:
            question()
        except NotPublished as error:
            failed.append(error)

    threads = [
        threading.Thread(target=ask, args=(question,))
        for question in (lambda: shared.append("orders/7", LOG, {}), shared.topics)
        for _ in range(30)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG_TIMEOUT)
    assert len(failed) == len(threads)
    own_redis.process.send_signal(signal.SIGCONT)
    assert shared.append("orders/7", LOG, {"n": 1}).value == {"n": 1}
    # Two of each kind at a time, and few after those that have waited in vain.
    assert own_redis.do("INFO", "stats")["total_connections_received"] < len(threads) / 2


def test_two_threads_begin_at_once_in_a_forked_process(
    shared_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither has a connection of the parent's, nor gives back what the other one has taken."""
    shared = RedisFeeds(shared_redis.url)
    shared.append("forked", LOG, {"n": 0})
    errors, made = list[Exception](), list[Any]()
    making, started = threading.Event(), threading.Event()
    make = redis_feed._State

    def make_late() -> Any:
        """The first one would make another, if it could, while the second makes it."""
        making.set()
        if threading.current_thread() is second:
            started.wait(HANG_TIMEOUT)
            first.join(0.2)
        state = make()
        if threading.current_thread() in (first, second):  # not those of other tests' feeds
            made.append(state)
        return state

    def append() -> None:
        try:
            shared.append("forked", LOG, {"n": 1})
        except Exception as error:
            errors.append(error)

    monkeypatch.setattr(redis_feed, "_State", make_late)
    monkeypatch.setattr(os, "getpid", lambda: 1)
    first, second = (threading.Thread(target=append) for _ in range(2))
    second.start()
    assert making.wait(HANG_TIMEOUT)
    first.start()
    started.set()
    for thread in (first, second):
        thread.join(HANG_TIMEOUT)
    assert len(made) == 1
    assert errors == []


@ON_EACH_SHARED
def test_a_source_without_the_lease_cannot_publish(shared_redis: RedisServer) -> None:
    shared = RedisFeeds(shared_redis.url)
    key = "pushlab:{lab}:lease"
    shared_redis.do("SET", key, "mine")
    shared.append("lab", STATE, {"n": 1}, token="mine")
    shared_redis.do("SET", key, "another's")
    with pytest.raises(LeaseLost):
        shared.append("lab", STATE, {"n": 2}, token="mine")
    with closing(Processes(shared_redis.url, "lab", STATE)) as two:
        assert two.feeds[0].latest.value == {"n": 1}


def test_a_publisher_knows_the_topics_of_apps(
    shared_redis: RedisServer, request: pytest.FixtureRequest
) -> None:
    url = shared_redis.url
    with pytest.raises(ValueError, match="there is no topic 'new/7'"):
        Push.publisher(url).publish("new/7", {})
    push = Push(redis=url)
    assert push.redis
    request.addfinalizer(push.redis.close)
    push.topic("new/<int:user>", keep=10)(lambda user: None)
    push.publish("new/8", {"n": 1})
    publisher = Push.publisher(url)
    assert publisher.publish("new/7", {"n": 1}).sequence == 1
    assert push.cursor("new/7").endswith("-1")
    assert {"new/7", "new/8"} <= set(push.topics())
    for value, error in ((["no dict"], TypeError), ({"n": float("nan")}, ValueError)):
        with pytest.raises(error):
            publisher.publish("new/7", value)  # type: ignore[arg-type]


SOURCE = """
import sys, time
from lab import shared_feed
from pushlab.redis_feed import RedisFeeds
shared_feed.LEASE = 0.2
shared = RedisFeeds(sys.argv[1], prefix=shared_feed.PREFIX)
feed = shared_feed.LabFeed(shared, has_source=True, keep=100000)
feed.load()
print(feed._token, flush=True)
while True:
    feed.publish({"n": 1})
    time.sleep(0.02)
"""


def test_nothing_older_is_sent_at_once_than_by_another_process(shared_redis: RedisServer) -> None:
    """One that has not noticed a reading yet reads on first, unless its subscriber waits."""
    first, behind = (
        LabFeed(RedisFeeds(shared_redis.url, prefix="behind"), has_source=False) for _ in range(2)
    )
    with closing(first), closing(behind):
        for feed in (first, behind):
            feed.load()
        old = behind.latest.cursor
        behind._redis.close()
        eventually(lambda: not behind._redis.is_running)
        newest = first.publish({"n": 1}).cursor
        assert news(positions([behind], [old])) == [], "it waits, and will be woken"
        for after in (None, newest, "ffffffff-1"):
            found = news(positions([behind], [after]))
            assert [each.cursor for each in found] == ([] if after == newest else [newest])
            behind._restart(old.partition("-")[0], ())
        first._redis.close()


def test_twenty_sources_are_killed(shared_redis: RedisServer) -> None:
    """One process is the source; when it dies, another is. No number is used twice."""
    shared = RedisFeeds(shared_redis.url, prefix=PREFIX)
    feed = LabFeed(shared, has_source=False, keep=100_000)
    feed.load()
    received: list[str] = []
    feed.subscribe(lambda reading: received.append(reading.cursor))
    sources: dict[str, subprocess.Popen[str]] = {}

    def start() -> None:
        command = [sys.executable, "-c", SOURCE, shared_redis.url]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert process.stdout
        sources[process.stdout.readline().strip()] = process

    def holder() -> str:
        token: bytes = shared_redis.do("GET", f"{PREFIX}:{{}}:lease") or b""
        return token.decode() if token.decode() in sources else ""

    try:
        for _ in range(2):
            start()
        for _ in range(20):
            token = eventually(holder)
            killed = sources.pop(token)
            killed.kill()
            killed.communicate()
            start()
            before = len(received)
            eventually(lambda before=before: len(received) > before)  # type: ignore[misc]
    finally:
        for process in sources.values():
            process.kill()
            process.communicate()
        shared.close()
    sequences = [int(cursor.partition("-")[2]) for cursor in received]
    assert len({cursor.partition("-")[0] for cursor in received}) == 1
    assert sequences == list(range(sequences[0], sequences[0] + len(sequences)))


def test_the_lab_in_several_processes(shared_redis: RedisServer) -> None:
    """One is killed, all are restarted one after another; a browser misses nothing for good."""
    options = ("--source", "clock", "--pace", "0.1", "--redis", shared_redis.url)
    server = Server("serve.py", "--workers", "2", *options)
    try:
        first = {process.pid for process in server.children}
        assert len(first) == 2
        readings = [server.http.get("/data").json for _ in range(8)]
        epochs = {each["cursor"].partition("-")[0] for each in readings}
        assert len(epochs) == 1
        os.kill(min(first), signal.SIGKILL)
        eventually(lambda: len({each.pid for each in server.children} - {min(first)}) == 2)
        second = {process.pid for process in server.children}
        server.process.send_signal(signal.SIGHUP)
        eventually(lambda: second.isdisjoint({each.pid for each in server.children}))
        newest = server.http.get("/data").json["cursor"]
        poll = f"/update?after={newest}"  # 204 where the next source takes long to begin
        response = eventually(lambda: (found := server.http.get(poll)).status == 200 and found)
        assert response.json["cursor"].partition("-")[0] in epochs
    finally:
        server.stop()
    assert server.process.returncode == 0
    assert "Traceback" not in server.log


def test_no_process_outlives_what_started_it(shared_redis: RedisServer) -> None:
    """They would share the port with those that are started next."""
    server = Server("serve.py", "--workers", "2", "--redis", shared_redis.url)
    with ExitStack() as stack:
        browsers = [stack.enter_context(server.websocket()) for _ in range(4)]
        for browser in browsers:
            browser.json()
        children = server.children
        stack.callback(lambda: [each.kill() for each in children if each.is_running()])
        server.process.kill()
        for browser in browsers:
            assert browser.last_frame() == (CLOSE, b"\x03\xe9")
        assert not psutil.wait_procs(children, HANG_TIMEOUT)[1]
        server.wait()


def test_several_processes_start_where_another_server_has_just_ended(
    shared_redis: RedisServer, start: Start
) -> None:
    """Its connections are in TIME_WAIT, and had no SO_REUSEPORT."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        with socket.create_connection(address) as client:
            listener.accept()[0].close()
            assert client.recv(1) == b""
    server = start("serve.py", "--workers", "2", "--redis", shared_redis.url, port=address[1])
    assert server.responds()


def test_a_request_that_reads_in_redis_keeps_its_connection(
    own_redis: RedisServer, start: Start
) -> None:
    """It is not dispatched in the event loop, which could not wait for the response."""
    server = start("serve.py", "--redis", own_redis.url)

    def connections() -> int:
        return int(own_redis.do("INFO", "stats")["total_connections_received"])

    assert server.http.get("/data").status == 200
    before = connections()
    for _ in range(100):  # some of the responses would have come before they are waited for
        assert server.http.get("/data").status == 200
    assert connections() - before < 10


def test_controls_hold_in_all_processes(own_redis: RedisServer) -> None:
    """Whichever a page is connected to; also in one that starts later."""
    short = with_limits(**{"lab.instruments.FREEZE": 0.5})
    options = ("--source", "clock", "--redis", own_redis.url)
    with starting() as start, ExitStack() as stack:
        servers: list[Server] = []
        pages: list[LabPage] = []

        def open_another() -> LabPage:
            servers.append(start("serve.py", *options, environment=short))
            pages.append(stack.enter_context(closing(LabPage(servers[-1].ws))))
            return pages[-1]

        def until_all(name: str, accept: Callable[[Any], bool]) -> None:
            for page in pages:
                page.wait_for(name, accept)

        first, second = open_another(), open_another()
        first.do("pace", pace="paused")
        until_all("pace", "paused".__eq__)
        second.do("borrow", pace="4 per s")
        until_all("pace", "4 per s".__eq__)
        third = open_another().next()
        assert (third["pace"], third["resume"]) == ("4 per s", "irregular")
        second.do("give_back")
        until_all("pace", "paused".__eq__)
        for page, command, times in ((first, "change", 1), (second, "burst", 50)):
            before = sequence(servers[0].cursor)
            page.do(command)
            until_all("reading", lambda reading: sequence(reading["cursor"]) >= before + times)  # noqa: B023
        second.do("freeze")
        assert second.wait_for("frozen") == 0.5
        for server in servers:
            eventually(lambda server=server: "frozen for 0.5 s" in server.log)  # type: ignore[misc]

        own_redis.stop()
        until_all("source", lambda text: "Redis is away" in text)
        first.do("pace", pace="1 per s")
        assert "Redis" in first.wait_for("error")
        restart_empty(own_redis)
        eventually(lambda: own_redis.do("GET", f"{PREFIX}:agreed:setting"))
        assert open_another().next()["pace"] == "paused"
        pages[-1].do("pace", pace="4 per s")
        until_all("pace", "4 per s".__eq__)


@pytest.mark.parametrize("ahead", [-3600, 3600])
def test_a_process_whose_clock_differs(own_redis: RedisServer, ahead: int) -> None:
    """Its commands, durations and times are by Redis's clock."""
    options = ("--source", "http", "--redis", own_redis.url)
    late = 1.0
    short = with_limits(**{"lab.instruments.FREEZE": 0.1, "lab.shared_feed.LATE": late})
    with starting() as start, ExitStack() as stack:

        def open_page(server: Server) -> LabPage:
            return stack.enter_context(closing(LabPage(server.ws)))

        def freezes(server: Server) -> bool:
            page.do("freeze")
            return "frozen" in server.log

        right = start("serve.py", *options, environment=short)
        page = open_page(right)
        eventually(lambda: freezes(right))
        time.sleep(late)
        wrong = start(
            "tests/set_clock.py", *options, environment={**short, "AHEAD": str(ahead)}
        )  # fmt: skip
        its_page = open_page(wrong)
        stack.enter_context(wrong.websocket()).json()
        cursor = right.publish({})
        its_page.wait_for("reading", lambda reading: reading["cursor"] == cursor)
        assert "frozen" not in wrong.log, "what was commanded before it began"
        eventually(lambda: freezes(wrong))
        assert abs(its_page.clock() / 1000 - time.time()) < HANG_TIMEOUT
        for name in ("redis_lag", "publish_to_last_write"):
            found = f"pushlab_{name}_seconds"
            eventually(lambda found=found: scrape(wrong).get(f"{found}_count"))  # type: ignore[misc]
            assert 0 <= scrape(wrong)[f"{found}_sum"] < HANG_TIMEOUT


@pytest.mark.parametrize("end", ["killed", "away", "restarted"])
def test_a_borrowed_pace_is_given_back_in_all_processes(own_redis: RedisServer, end: str) -> None:
    """Also where the process that had the page's connection can not say that it has ended."""
    options = ("--source", "clock", "--redis", own_redis.url)
    with starting() as start, ExitStack() as stack:

        def open_page(server: Server) -> LabPage:
            return stack.enter_context(closing(LabPage(server.ws)))

        borrowing = start("serve.py", *options)
        other = None if end == "restarted" else open_page(start("serve.py", *options))
        page = open_page(borrowing)
        page.do("pace", pace="1 per s")
        page.do("borrow", pace="4 per s")
        page.wait_for("pace", "4 per s".__eq__)
        if other:
            other.wait_for("pace", "4 per s".__eq__)
            other.clock()
        if end == "away":
            own_redis.stop()
            page.close()
            open_page(borrowing).clock()
            own_redis.start()
        else:
            borrowing.process.kill()
            borrowing.wait()
            own_redis.do("PERSIST", f"{PREFIX}:agreed:setting")  # however long the next one takes
        if other is None:
            other = open_page(start("serve.py", *options))
        other.wait_for("pace", "1 per s".__eq__)


def test_a_pace_is_borrowed_from_the_one_that_all_have(
    own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not from what a process has that was away from Redis, and has not asked since."""
    monkeypatch.setattr(limits, "REDIS_TICK", HANG_TIMEOUT)
    feed = LabFeed(RedisFeeds(own_redis.url, prefix=PREFIX), has_source=True)
    feed.load()
    lab = Lab(feed, Settings(source="clock"), freeze=time.sleep)
    with closing(feed.redis):
        share_controls(feed, lab)
        lab.set_pace(lambda setting: setting.choose("paused"))
        lab.pace.set(Setting("4 per s", "4 per s"))
        lab.set_pace(lambda setting: setting.borrow("1 per s", "a"))
        assert lab.pace.setting == Setting("paused", "irregular", "1 per s", "a")


def test_what_another_program_writes_is_no_pace(own_redis: RedisServer, start: Start) -> None:
    server = start("serve.py", "--source", "clock", "--redis", own_redis.url)
    commands = RedisFeeds(own_redis.url, prefix=PREFIX).feed("commands", 100)
    settings: list[Any] = [
        None, 1, {}, [], ["paused"], [1, 2, 3, 4], [[], [], [], []], ["paused"] * 5,
    ]  # fmt: skip
    texts = [json.dumps(setting).encode() for setting in settings]
    texts += [b"nonsense", b"\xff", b"[" * 100_000]
    for setting in settings:
        commands.publish({"setting": setting})
    for text in texts:
        own_redis.do("SET", f"{PREFIX}:agreed:setting", text)
        for _ in range(2):  # the first one may have been under way
            own_redis.do("DEL", f"{PREFIX}:tried:meta")
            eventually(lambda: own_redis.do("EXISTS", f"{PREFIX}:tried:meta"))
    with LabPage(server.ws) as page:
        assert page.next()["pace"] == "irregular"
        page.do("pace", pace="4 per s")
        page.wait_for("pace", "4 per s".__eq__)
    assert "Traceback" not in server.log


def test_nothing_is_published_by_http_while_redis_is_away(
    own_redis: RedisServer, start: Start
) -> None:
    """The sender gets 503, everyone else what there was; afterwards all is as before."""
    server = start("serve.py", "--source", "http", "--redis", own_redis.url)
    cursor = server.publish({"text": "before"})
    own_redis.stop()
    refused = server.http.post("/data", {"text": "lost?"})
    assert refused.status == 503
    assert refused.json["error"].startswith("Redis has not published: ")
    assert server.http.get("/data").json["cursor"] == cursor
    own_redis.start()
    response = eventually(lambda: (r := server.http.post("/data", {})).status == 201 and r)
    # Later than the next one, where an append had no response in time: it counts.
    assert sequence(response.json["cursor"]) > sequence(cursor)
    assert response.json["cursor"].partition("-")[0] == cursor.partition("-")[0]
    assert "Traceback" not in server.log


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--workers", "2"], "add --redis URL"),
        (["--redis", "http://:hunter2@localhost"], "not the URL of a Redis, like redis://127"),
        (["--workers", "0"], "0 is not in the range"),
        (["--workers", "2", "--redis", "redis://x", "--source", "stdin"], "that of one process"),
    ],
)
def test_wrong_options_are_one_line(options: list[str], message: str) -> None:
    command = [sys.executable, "serve.py", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert message in done.stderr
    assert "hunter2" not in done.stderr


@pytest.mark.parametrize(
    "url",
    [
        "redis://:secret@127.0.0.1:99999", "redis://127.0.0.1:a", "redis://[::1",
        "redis://127.0.0.1?socket_timeout=a", "redis://127.0.0.1?unknown=1",
    ],
)  # fmt: skip
def test_what_is_no_url_of_a_redis_is_one_line(url: str) -> None:
    done = subprocess.run(
        [sys.executable, "serve.py", "--port", "0"],
        cwd=ROOT, env={**os.environ, "PUSHLAB_REDIS": url},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "not the URL of a Redis" in done.stderr
    assert "secret" not in done.stderr
    with pytest.raises(ValueError, match="not the URL of a Redis"):
        Push.publisher(url)


@pytest.mark.parametrize("query", ["protocol=3", "decode_responses=True", "client_name=a"])
def test_options_in_the_url(
    shared_redis: RedisServer, query: str, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(Processes(f"{shared_redis.url}?{query}", f"options/{query}", LOG)) as two:
        two.publish(0)
        two.until(lambda each: each.has(0))
        assert two.shared[1].agree(query, "agreed") == "agreed"
    assert "cannot be read" not in caplog.text
