"""The hub with channels whose every byte and hesitation the test decides; no network."""

from collections.abc import Callable
from typing import Any

import pytest

from pushlab.feed import Feed, Reading
from pushlab.hub import Hub


class Line:
    """A channel into the test: what it has room for, it keeps."""

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
        """Make room, and let the hub know."""
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

    def finish(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True

    def cursors(self) -> list[int]:
        """The sequences of the signals that have come, whole."""
        found, rest = [], self.sent
        while rest:
            size = rest[1]
            found.append(int(rest[2 : 2 + size].rpartition(b"-")[2].rstrip(b'"}')))
            assert rest[0] == 0x81
            assert len(rest) >= 2 + size
            rest = rest[2 + size :]
        return found


class Offer:
    """A connection that gives away its line."""

    def __init__(self, line: Line) -> None:
        self.line = line

    def detach(self) -> tuple[Line, bytes]:
        return self.line, b""


@pytest.fixture
def feed() -> Feed:
    return Feed()


@pytest.fixture
def hub(feed: Feed) -> Hub:
    hub = Hub(ping_interval=3600.0)
    feed.subscribe(hub.broadcast)
    return hub


def add(hub: Hub, feed: Feed, line: Line, **options: Any) -> Line:
    hub.add(Offer(line), feed, **options)  # type: ignore[arg-type]
    return line


def test_one_who_is_behind_gets_the_rest_and_then_only_the_newest(feed: Feed, hub: Hub) -> None:
    quick, slow = add(hub, feed, Line()), add(hub, feed, Line(room=40))
    for number in range(5):
        feed.publish({"number": number})
    assert quick.cursors() == [0, 1, 2, 3, 4, 5]
    slow.drain(room=3)
    slow.drain()
    assert slow.cursors() == [0, 1, 5]
    feed.publish({})
    assert quick.cursors()[-1] == slow.cursors()[-1] == 6


def test_a_newer_reading_while_telling_is_told_after_it(feed: Feed, hub: Hub) -> None:
    """Between two sockets another thread publishes."""
    newest: list[Reading] = []

    class Interrupting(Line):
        def send(self, data: bytes | memoryview) -> int:
            if len(self.cursors()) == 1 and not newest:
                newest.append(Reading("x-2", 0.0, {}, b'{"cursor":"x-2"}', b"{}"))
                hub.broadcast(newest[0])
            return super().send(data)

    lines = [add(hub, feed, line) for line in (Line(), Interrupting(), Line())]
    feed.publish({})
    assert [line.cursors() for line in lines] == [[0, 1, 2]] * 3


def test_whoever_joins_while_telling_hears_the_newest_once(feed: Feed, hub: Hub) -> None:
    joined: list[Line] = []

    class Door(Line):
        def send(self, data: bytes | memoryview) -> int:
            if len(self.cursors()) == 1 and not joined:
                joined.append(add(hub, feed, Line()))
            return super().send(data)

    add(hub, feed, Door())
    feed.publish({})
    assert joined[0].cursors() == [1]
    feed.publish({})
    assert joined[0].cursors() == [1, 2]


def test_a_broken_socket_is_dropped_and_the_others_are_told(feed: Feed, hub: Hub) -> None:
    first, broken, last = (add(hub, feed, Line()) for _ in range(3))
    broken.closed = True
    feed.publish({})
    assert first.cursors() == last.cursors() == [0, 1]
    assert len(hub) == 2


def test_coming_and_going_without_news_leaves_nothing_behind(feed: Feed, hub: Hub) -> None:
    """It once remembered everyone who had come since the last reading."""
    for _ in range(100):
        add(hub, feed, Line()).abort()
    add(hub, feed, Line(room=0))
    assert len(hub) == 1
    held = [name for name, value in vars(hub).items() if isinstance(value, (set, dict)) and value]
    assert held == []
