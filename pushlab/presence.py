"""Followers, and the functions that an app wants called.

A socket or stream follows from its handshake until it ends. A long poll ends with every response,
so its browser has left only if no other poll comes within `limits.POLL_GRACE`.
"""

import _thread
import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from flask import Flask

from pushlab import limits
from pushlab.polls import Turns

logger = logging.getLogger(__name__)

#: Why a poll is not waiting any more, if its browser is still there.
ANSWERED = "answered"


class Follower:
    """A browser that follows topics over one connection.

    It lives as long as what waits for it: nothing else refers to it.
    """

    __slots__ = (
        "__weakref__", "_end", "_on_attach", "_on_left", "_reason", "address",
        "has_followed", "identity", "is_revoked", "joined", "since", "topics", "transport",
    )  # fmt: skip

    # One for all, held for moments, in which another may be found to be garbage.
    _lock: ClassVar = threading.RLock()

    def __init__(
        self,
        topics: Sequence[str],
        identity: str | None,
        transport: str,
        address: str,
        on_attach: Callable[["Follower"], None],
        on_left: Callable[["Follower", str], None],
    ) -> None:
        self.topics = tuple(topics)
        self.identity = identity  #: what the app's `identify` has returned
        self.transport = transport  #: "longpoll", "sse" or "websocket"
        self.address = address  #: of the client, or of a proxy that is not trusted
        self.since = time.time()  #: seconds since the epoch
        self.is_revoked = False
        self.joined = 0  #: how many of the topics count it
        self.has_followed = False  #: it has waited
        self._on_attach = on_attach
        self._on_left = on_left
        self._end: Callable[[], object] | None = None
        self._reason = ""

    def attach(self, end: Callable[[], object]) -> None:
        """Call `end` when it is revoked, from now on."""
        with self._lock:
            self._end = end
            is_revoked = self.is_revoked
        if is_revoked:
            end()
        elif not self.has_followed:
            self.has_followed = True
            self._on_attach(self)

    def revoke(self) -> None:
        """End its connection: it may not follow any more."""
        with self._lock:
            self.is_revoked = True
            end = self._end
        if end is not None:
            end()

    def left(self, reason: str) -> None:
        """Take note, once, that it does not wait any more."""
        with self._lock:
            if self._reason:
                return
            self._reason, self._end = reason, None
        self._on_left(self, reason)

    def __del__(self) -> None:
        self.left("closed")  # a request failed before it could wait

    @property
    def browser(self) -> Any:
        """What the polls of one browser have in common."""
        return self.identity or self.address, self.topics


@dataclass
class _Polling:
    """A browser that polls, perhaps in several tabs."""

    follower: Follower  #: its first poll
    held: int = 0  #: polls that wait


class Presence:
    """Calls functions when followers come and go, one after another.

    They run in one thread, or greenlet, of their own, with an app context: so they may wait, and an
    exception in one is logged and harms nobody. It starts with the first function.
    """

    def __init__(self) -> None:
        self.on_follow: list[Callable[[Follower], object]] = []
        self.on_leave: list[Callable[[Follower, str], object]] = []
        self._app: Flask | None = None
        self._events: queue.SimpleQueue[tuple[Follower, str]] = queue.SimpleQueue()
        self._not_started = threading.Lock()
        #: Browsers that poll.
        self._polling: dict[Any, _Polling] = {}
        #: Those of which no poll waits: when each counts as gone, by the monotonic clock; in order.
        self._away: dict[Any, float] = {}

    def init_app(self, app: Flask) -> None:
        """Call the functions with a context of this app."""
        self._app = app

    def changed(self, follower: Follower, reason: str = "") -> None:
        """Take note that it came or, with a reason, left."""
        if not self.on_follow and not self.on_leave:
            return
        if self._not_started.acquire(blocking=False):  # once
            # `Thread.start` would wait, and locks are held here that an event loop needs.
            _thread.start_new_thread(self._run, ())
        self._events.put((follower, reason))

    def _run(self) -> None:
        turns = Turns(limits.BROADCAST_CHUNK)
        while True:
            self._expire()
            due = next(iter(self._away.values()), math.inf)
            left = min(due - time.monotonic(), threading.TIMEOUT_MAX)
            try:
                follower, reason = self._events.get(timeout=max(0.0, left))
            except queue.Empty:
                continue
            self._handle(follower, reason)
            del follower  # which must not outlive the event
            turns.count(1)

    def _expire(self) -> None:
        now = time.monotonic()
        while self._away and next(iter(self._away.values())) <= now:
            browser = next(iter(self._away))
            del self._away[browser]
            self._call(self.on_leave, self._polling.pop(browser).follower, "closed")

    def _handle(self, follower: Follower, reason: str) -> None:
        if not follower.has_followed:
            # It was disconnected before it could wait. That ends a browser that polls, unless other
            # polls of it wait, which are disconnected too.
            if self._away.pop(follower.browser, None) is not None:
                first = self._polling.pop(follower.browser).follower
                self._call(self.on_leave, first, "disconnected")
            return
        if follower.transport != "longpoll":
            if reason:
                self._call(self.on_leave, follower, reason)
            else:
                self._call(self.on_follow, follower)
            return
        browser = follower.browser
        polling = self._polling.get(browser)
        if polling is None:
            polling = self._polling[browser] = _Polling(follower)
            self._call(self.on_follow, follower)
        polling.held += -1 if reason else 1
        self._away.pop(browser, None)
        if polling.held:
            return
        if reason == ANSWERED:
            self._away[browser] = time.monotonic() + limits.POLL_GRACE
        else:
            del self._polling[browser]
            self._call(self.on_leave, polling.follower, reason)

    def _call(self, functions: Sequence[Callable[..., object]], *arguments: Any) -> None:
        assert self._app is not None  # noqa: S101 - routes are where an app is
        for function in functions:
            try:
                with self._app.app_context():
                    function(*arguments)
            except Exception:
                logger.exception("%s failed", getattr(function, "__name__", function))
