"""The lab's stream in Redis, from one source.

Every process runs the source, and tries to publish. Redis accepts only from the one that has the
lease, or takes it because its holder has not published for a while.
"""

import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from pushlab.feed import NotPublished, Reading
from pushlab.redis_feed import LeaseLost, RedisFeed, RedisFeeds

LEASE = 3.0  #: seconds, at least, after which another process becomes the source

#: The lab's keys in Redis; those of `Push` begin otherwise.
PREFIX = "pushlab-lab"


class LabFeed(RedisFeed):
    """The lab's stream, whose source this process may be."""

    __slots__ = ("_name", "has_source", "lease")

    def __init__(self, shared: RedisFeeds, *, has_source: bool, keep: int = 1) -> None:
        super().__init__(shared, keep, "")
        self.has_source = has_source  #: values come from a source of this process
        self.lease: float = LEASE  #: seconds; longer than the source takes for a value
        self._name = secrets.token_hex(8)

    @property
    def _token(self) -> str:
        """The name of this process, which may have been forked."""
        return f"{self._name}-{os.getpid()}"

    def load(self, after: str | None = None) -> None:
        """Load what a subscriber with this cursor may ask for.

        Of what is sent at once, nothing is older than what another process has sent. If Redis is
        away, it is tried again, and meanwhile the stream has a problem.
        """
        with suppress(NotPublished):
            super().load(after)
            if after != self.latest.cursor and not self.problem:
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


def connect(url: str, *, has_source: bool, pace: float | None) -> LabFeed:
    """Return the stream in the Redis at this URL."""
    feed = LabFeed(RedisFeeds(url, prefix=PREFIX), has_source=has_source)
    feed.lease = max(LEASE, 3 * (pace or 0))
    feed.load()
    return feed
