"""The hub with channels that a test fills and drains."""

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from pushlab import limits
from pushlab.feed import Feed, Reading
from pushlab.hub import Hub
from pushlab.polls import Group, Polls, Send
from pushlab.transports.longpoll import signal_reading
from pushlab.websocket.frames import CloseConnection, Decoder, Ping, TextMessage, encode
from pushlab.wsgi.waiting import Wait
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
            assert len(rest) >= 2 + size
            if not rest[0] & 0x08:  # a ping or a close frame may be among them, on a slow machine
                assert rest[0] == 0x81
                found.append(int(rest[2 : 2 + size].rpartition(b"-")[2].rstrip(b'"}')))
            rest = rest[2 + size :]
        return found

    def received(self) -> list[str]:
        """Return "topic 1", "topic reset 5" or "close 4401" for each frame."""
        found, text = [], ""
        for event in Decoder(is_client=True).feed(self.sent):
            if isinstance(event, CloseConnection):
                found.append(f"close {event.code}")
            if isinstance(event, TextMessage):
                text += event.data
                if event.message_finished:
                    message, text = json.loads(text), ""
                    reset = "reset " * message.get("reset", False)
                    sequence = message["cursor"].rpartition("-")[2]
                    found.append(f"{message['topic']} {reset}{sequence}")
        return found


class FakeConnection:
    """A connection that detaches its channel."""

    def __init__(self, channel: FakeChannel) -> None:
        self.channel = channel

    def detach(self) -> tuple[FakeChannel, bytes]:
        return self.channel, b""


@pytest.fixture
def feed(request: pytest.FixtureRequest) -> Feed:
    """A state, or with a parameter a log."""
    return Feed(keep=getattr(request, "param", 1))


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


@pytest.mark.parametrize("feed", [1, 100], indirect=True)
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


@pytest.mark.parametrize("feed", [1, 100], indirect=True)
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
        (),
        {},
        set(),
    )


# Logs, and several feeds.


class Doing(FakeChannel):
    """A channel in whose turn, at a certain reading, something happens."""

    def __init__(self, what: Callable[[], object], at: int) -> None:
        super().__init__()
        self.what: list[Callable[[], object]] = [what]
        self.at = f'-{at}"'.encode()

    def send(self, data: bytes | memoryview) -> int:
        if self.at in bytes(data) and self.what:
            self.what.pop()()
        return super().send(data)


def names(*sequences: int) -> list[str]:
    return [f"a {sequence}" for sequence in sequences]


@pytest.fixture
def feeds(hub: Hub) -> dict[str, Feed]:
    """Two topics, which are logs, and one that forgets."""
    feeds = {"a": Feed(100, topic="a"), "b": Feed(100, topic="b"), "short": Feed(3, topic="a")}
    for each in feeds.values():
        each.subscribe(hub.broadcast)
    return feeds


def follow(hub: Hub, channel: FakeChannel, *feeds: Feed) -> FakeChannel:
    positions = [(feed, None) for feed in feeds]
    hub.follow(FakeConnection(channel), positions, carry=True)  # type: ignore[arg-type]
    return channel


@pytest.mark.parametrize("room", [0, 10, 35, 60, 200])
def test_a_slow_subscriber_gets_the_rest_of_a_log(
    hub: Hub, feeds: dict[str, Feed], room: int
) -> None:
    for name in ("a", "short"):
        quick, slow = (follow(hub, FakeChannel(size), feeds[name]) for size in (9**9, room))
        for number in range(5):
            feeds[name].publish({"number": number})
        assert quick.received() == names(0, 1, 2, 3, 4, 5)
        slow.drain(room=17)
        slow.drain()
        got = slow.received()
        if name == "a":
            assert got == names(0, 1, 2, 3, 4, 5)
        elif "a reset 5" in got:
            assert got == [*names(*range(len(got) - 1)), "a reset 5"]
        else:
            assert got == names(*range(6))
        feeds[name].publish({})
        assert slow.received() == [*got, "a 6"]


@pytest.mark.parametrize("is_first", [False, True])
@pytest.mark.parametrize("falls", [1, 2])
@pytest.mark.parametrize("drained", [2, 3])
def test_a_slow_subscriber_catches_up_during_a_broadcast(
    hub: Hub, feeds: dict[str, Feed], is_first: bool, falls: int, drained: int
) -> None:
    """It is sent to before or after the one in whose turn it has room again."""
    slow = FakeChannel()

    def drain() -> None:
        if slow.watching and slow.watching[2]:
            slow.drain()

    doing = Doing(drain, at=drained)
    for channel in (slow, doing) if is_first else (doing, slow):
        follow(hub, channel, feeds["a"])
    for sequence in (1, 2, 3):
        if sequence == falls:
            slow.room = 5
        feeds["a"].publish({})
    drain()
    feeds["a"].publish({})
    assert slow.received() == doing.received() == names(0, 1, 2, 3, 4)


def test_several_feeds_on_one_connection(hub: Hub, feeds: dict[str, Feed]) -> None:
    both, slow = FakeChannel(), FakeChannel(room=150)
    for channel in (both, slow):
        follow(hub, channel, feeds["a"], feeds["b"])
    only = follow(hub, FakeChannel(), feeds["b"])
    for name in "abba":
        feeds[name].publish({})
    slow.drain()
    feeds["b"].publish({})
    assert both.received() == ["a 0", "b 0", "a 1", "b 1", "b 2", "a 2", "b 3"]
    assert [each for each in slow.received() if each[0] == "a"] == names(0, 1, 2)
    assert [each for each in slow.received() if each[0] == "b"] == only.received()
    assert only.received() == ["b 0", "b 1", "b 2", "b 3"]
    both.abort()
    feeds["a"].publish({})
    assert slow.received()[-1] == "a 3"
    assert len(hub) == 2


def test_a_subscriber_whose_turn_in_a_broadcast_is_yet_to_come(
    hub: Hub, feeds: dict[str, Feed], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One is revoked, the other has no room for a pong, before it is sent the reading."""
    monkeypatch.setattr(limits, "BROADCAST_CHUNK", 1)
    subscribers: list[Any] = []
    behind, revoked = FakeChannel(), FakeChannel()

    def end_and_ping() -> None:
        subscribers[1].revoke()
        behind.room = 1
        hub._handle_data(subscribers[2], encode(Ping(b"?"), by_client=True))

    for channel in (Doing(end_and_ping, at=1), revoked, behind):
        connection: Any = FakeConnection(channel)
        subscribers.append(hub.follow(connection, [(feeds["a"], None)], carry=True))
    feeds["a"].publish({})
    feeds["a"].publish({})
    behind.drain()
    feeds["a"].publish({})
    assert subscribers[0].channel.received() == behind.received() == names(0, 1, 2, 3)
    assert revoked.received() == ["a 0", "close 4401"]
    assert b"value" not in revoked.sent


def test_nothing_follows_a_close_frame(hub: Hub) -> None:
    """A browser that is behind is disconnected: what is published afterwards is not for it."""
    log = Feed(10)
    log.subscribe(hub.broadcast)
    channel = FakeChannel(room=40)
    subscriber = hub.add(FakeConnection(channel), log)  # type: ignore[arg-type]
    for number in range(2):
        log.publish({"number": number})
    subscriber.close(4401)
    log.publish({"secret": True})
    channel.drain()
    assert channel.sent.endswith(encode(CloseConnection(4401)))


class FakePoll:
    """A connection that a poll waits on."""

    def __init__(self) -> None:
        self.send: Send = self._send
        self.group: Group | None = None
        self.sent: list[bytes] = []
        self.closed = False

    def _send(self, data: bytes | memoryview) -> int:
        self.sent.append(bytes(data))
        return len(data)

    def respond(self, data: bytes | memoryview) -> None:
        self.send(data)

    def park(self, seconds: float) -> None:
        pass

    def ignore(self) -> None:
        pass

    def resume(self, early: bytes) -> None:
        pass

    def close(self) -> None:
        self.closed = True


def test_polls_that_end_while_others_have_their_turn(
    feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    polls = Polls()
    connections: list[Any] = [FakePoll() for _ in range(3)]
    for connection in connections:
        wait = Wait(((feed, feed.latest.cursor),), 60, signal_reading)
        polls.hold(connection, wait, [("X", str(id(connection)))])  # a group each
    monkeypatch.setattr(limits, "POLL_CHUNK", 1)

    def sleep(_: float) -> None:
        for connection in connections:
            if connection.group is not None and not connection.group.responded_at:
                connection.group.received(connection, b"")

    monkeypatch.setattr(time, "sleep", sleep)
    feed.publish({})
    polls.broadcast(feed)
    assert [(len(each.sent), each.closed) for each in connections] == [
        (1, False), (0, True), (0, True)
    ]  # fmt: skip
    assert (polls._open, polls._groups) == ({}, {})


@pytest.mark.parametrize(
    ("cursor", "responds"), [("{}-2", False), ("{}-02", False), ("{}-1", True)]
)
def test_a_poll_is_held_that_has_the_newest_of_a_log(cursor: str, responds: bool) -> None:
    """Also if it writes the number otherwise, as where it waits in a thread."""
    log = Feed(keep=10)
    for _ in range(2):
        log.publish({})
    connection = FakePoll()
    wait = Wait(((log, cursor.format(log.epoch)),), 60, signal_reading)
    Polls().hold(connection, wait, ())
    assert (len(connection.sent), connection.group is None) == (responds, responds)
