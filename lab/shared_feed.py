"""The lab's stream in Redis, from one source.

Every process runs the source, and tries to publish. Redis accepts only from the one that has the
lease, or takes it because its holder has not published for a while.

What a page sets in one process holds in all: commands are in a log, and the pace is kept beside it,
for a process that starts later. What a page borrows is given back by any process, once none has the
page's connection: the one that had it may have been killed, or away from Redis.
"""

import json
import math
import os
import secrets
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from lab.instruments import Lab
from pushlab.feed import Feed, NotPublished, Reading
from pushlab.redis_feed import LeaseLost, RedisFeed, RedisFeeds

#: Seconds, beside those between two changes, after which another process becomes the source.
LEASE = 3.0
#: Seconds after which a command is not carried out any more: this process was away, or is new.
LATE = 3.0
COMMANDS = 100  #: of which a process may be behind
#: Times in a row, about a second apart, that a borrower has to be missing: another process says a
#: moment later that it has the connection, also after all have been frozen.
MISSING = 3

#: The lab's keys in Redis; those of `Push` begin otherwise.
PREFIX = "pushlab-lab"


class LabFeed(RedisFeed):
    """The lab's stream, whose source this process may be."""

    __slots__ = ("_name", "commands", "has_source", "lease")

    def __init__(self, shared: RedisFeeds, *, has_source: bool, keep: int = 1) -> None:
        super().__init__(shared, keep, "")
        self.has_source = has_source  #: values come from a source of this process
        self.lease: float = LEASE  #: seconds; longer than the source takes for a value
        self._name = secrets.token_hex(8)
        self.commands = shared.feed("commands", COMMANDS)  #: of pages, to all processes

    @property
    def _token(self) -> str:
        """The name of this process, which may have been forked."""
        return f"{self._name}-{os.getpid()}"

    def load(self, after: str | None = None) -> None:
        """Load what a subscriber with this cursor may ask for.

        What is sent at once is newer than the cursor or, without one, not older than what another
        process has sent. If Redis is away, it is tried again, and meanwhile the stream has a
        problem.
        """
        if after == self.latest.cursor and self._loaded_in == os.getpid():
            return  # as for most polls: a change brings thousands at once
        with suppress(NotPublished):
            if self._loaded_in != os.getpid():
                self._redis.follow(self.commands)
            super().load(after)
            if after is None and not self.problem:
                self.refresh()

    def publish(self, value: Mapping[str, Any] | None = None) -> Reading:
        """Publish, if this process has the lease.

        A source goes on when Redis is away, and publishes again when it is there. Values that come
        by HTTP need no lease; those raise NotPublished.
        """
        if not self.has_source:
            return super().publish(value)
        with suppress(LeaseLost, NotPublished):
            return self.append(value, token=self._token, lease=self.lease)
        return self.latest


def connect(url: str, *, has_source: bool) -> LabFeed:
    """Return the stream in the Redis at this URL."""
    feed = LabFeed(RedisFeeds(url, prefix=PREFIX), has_source=has_source)
    feed.load()
    return feed


def share_controls(feed: Feed, lab: Lab) -> None:
    """Have every process carry out what pages command in one."""
    assert isinstance(feed, LabFeed)  # noqa: S101 - with Redis it is
    shared = feed._redis
    missing = deque([""], MISSING)

    def obey(command: Mapping[str, Any]) -> None:
        lab.carry_out(command)
        longest = lab.pace.longest
        feed.lease = LEASE + (0 if math.isinf(longest) else longest)

    def carry_out(command: Reading) -> None:
        if feed.now() <= command.changed_at + LATE:
            obey(command.value)

    def agree() -> None:
        own = json.dumps(lab.pace.setting)
        with suppress(ValueError, RecursionError):  # of another program
            if (agreed := shared.agree("setting", own)) != own:
                obey({"setting": json.loads(agreed)})

    def give_back() -> None:
        if lab.borrowers:
            shared.set_counts(dict.fromkeys(lab.borrowers, 1))
        borrower = lab.pace.setting.borrower
        is_there = borrower in lab.borrowers or (borrower and shared.count(borrower))
        missing.append("" if is_there else borrower)
        if borrower and missing.count(borrower) == MISSING:
            lab.set_pace(lambda setting: setting.give_back(borrower))

    def send(command: Mapping[str, Any]) -> None:
        if "setting" in command:
            shared.agree("setting", json.dumps(command["setting"]), replace=True)
        feed.commands.publish(command)

    feed.commands.subscribe(carry_out)
    shared.on_tick += [agree, give_back]
    obey({"setting": lab.pace.setting})
    with suppress(NotPublished):  # the next tick tries again
        agree()
    lab.agree, lab.command = agree, send
