"""The hub with channels that a test fills and drains."""

from collections.abc import Callable
from typing import Any

import pytest

from pushlab.feed import Feed, Reading
from pushlab.hub import Hub
from pushlab.websocket.frames import Ping, encode
from tests.conftest import eventually


class FakeChannel:
    """A channel that keeps bytes while it has room."""

    def __init__(self, room: float = float("inf")) -> None:
        self.room = room
        self.sent = b""
        self.watching: tuple[Callable[[Any], None], Any, bool] | None = None
        self.closed = False

    def send(self, data: bytes | memoryview) -> int:
        if self.closed:
            raise OSError("closed")
        if self.room <= 0:
            raise BlockingIOError
        taken = bytes(data[: int(min(self.room, len(data)))])
        self.room -= len(taken)
        self.sent += taken
        return len(taken)

    def receive(self, size: int) -> bytes:
        return b""

    def watch(self, callback: Callable[[Any], None], argument: Any, *, writing: bool) -> None:
        self.watching = (callback, argument, writing)

    def drain(self, room: float = float("inf")) -> None:
        """Make room, and call the hub."""
        self.room = room
        assert self.watching
        callback, argument, writing = self.watching
        assert writing
        callback(argument)

    def abort(self) -> None:
        assert self.watching
        callback, argument, writing = self.watching
        assert not writing
        callback(argument)

    def shutdown_write(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True

    def cursors(self) -> list[int]:
        """Return the sequence numbers of the signals sent."""
        found, rest = [], self.sent
        while rest:
            size = rest[1]
            found.append(int(rest[2 : 2 + size].rpartition(b"-")[2].rstrip(b'"}')))
            assert rest[0] == 0x81
            assert len(rest) >= 2 + size
            rest = rest[2 + size :]
        return found


class FakeConnection:
    """A connection that detaches its channel."""

    def __init__(self, channel: FakeChannel) -> None:
        self.channel = channel

    def detach(self) -> tuple[FakeChannel, bytes]:
        return self.channel, b""


@pytest.fixture
def feed() -> Feed:
    return Feed()


@pytest.fixture
def hub(feed: Feed) -> Hub:
    hub = Hub(ping_interval=3600.0)
    feed.subscribe(hub.broadcast)
    return hub


def add(hub: Hub, feed: Feed, channel: FakeChannel, **options: Any) -> FakeChannel:
    hub.add(FakeConnection(channel), feed, **options)  # type: ignore[arg-type]
    return channel


def test_a_slow_subscriber_gets_the_rest_and_then_only_the_newest(feed: Feed, hub: Hub) -> None:
    quick, slow = add(hub, feed, FakeChannel()), add(hub, feed, FakeChannel(room=40))
    for number in range(5):
        feed.publish({"number": number})
    assert quick.cursors() == [0, 1, 2, 3, 4, 5]
    slow.drain(room=3)
    slow.drain()
    assert slow.cursors() == [0, 1, 5]
    feed.publish({})
    assert quick.cursors()[-1] == slow.cursors()[-1] == 6


def test_a_reading_during_a_broadcast_is_broadcast_after_it(feed: Feed, hub: Hub) -> None:
    """Another thread publishes between two sends."""
    newest: list[Reading] = []

    class Interrupting(FakeChannel):
        def send(self, data: bytes | memoryview) -> int:
            if len(self.cursors()) == 1 and not newest:
                newest.append(feed._publish({}))  # of which the hub hears while it broadcasts
            return super().send(data)

    channels = [add(hub, feed, each) for each in (FakeChannel(), Interrupting(), FakeChannel())]
    feed.publish({})
    assert [each.cursors() for each in channels] == [[0, 1, 2]] * 3


def test_a_subscriber_added_during_a_broadcast_gets_the_newest_once(feed: Feed, hub: Hub) -> None:
    joined: list[FakeChannel] = []

    class Joining(FakeChannel):
        def send(self, data: bytes | memoryview) -> int:
            if len(self.cursors()) == 1 and not joined:
                joined.append(add(hub, feed, FakeChannel()))
            return super().send(data)

    add(hub, feed, Joining())
    feed.publish({})
    assert joined[0].cursors() == [1]
    feed.publish({})
    assert joined[0].cursors() == [1, 2]


def test_a_subscriber_that_has_room_when_its_pong_is_due_stays(feed: Feed) -> None:
    """The process has stood still: nothing has called the hub about the room."""

    class Drained(FakeChannel):
        def send(self, data: bytes | memoryview) -> int:
            size = super().send(data)
            self.room = float("inf")
            return size

    channel = add(Hub(ping_interval=0.1), feed, Drained(room=10))
    eventually(lambda: channel.sent.endswith(encode(Ping(b""))))


def test_a_broken_socket_is_dropped_and_the_others_receive(feed: Feed, hub: Hub) -> None:
    first, broken, last = (add(hub, feed, FakeChannel()) for _ in range(3))
    broken.closed = True
    feed.publish({})
    assert first.cursors() == last.cursors() == [0, 1]
    assert len(hub) == 2


def test_subscribers_between_two_readings_leave_nothing_behind(feed: Feed, hub: Hub) -> None:
    """The hub once kept every subscriber since the last reading."""
    for _ in range(100):
        add(hub, feed, FakeChannel()).abort()
    add(hub, feed, FakeChannel(room=0))
    assert len(hub) == 1
    (audience,) = hub._audiences.values()
    held = [value for value in vars(hub).values() if isinstance(value, (set, dict)) and value]
    assert held == [hub._audiences]
    assert (audience.size, audience.up_to_date, audience.apart, audience.removed) == (
        1,
        {},
        {},
        set(),
    )
