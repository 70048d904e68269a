"""Waiting for news in a request whose client may go.

A server that can watch the client's socket leaves a function of its own in the environ; any other
waits for the feed alone.
"""

from typing import Protocol, TypeVar

from pushlab.wsgi.responses import Environ

#: Where a server leaves its way of waiting.
WAIT = "pushlab.wait"

News = TypeVar("News", covariant=True)


class Waitable(Protocol[News]):
    """A feed."""

    def wait(self, after: str | None, *, timeout: float) -> News | None:
        """Return the newest reading once it is not `after`."""


def wait(
    feed: Waitable[News], environ: Environ, after: str | None, *, timeout: float
) -> News | None:
    """Wait as `feed.wait` does.

    Raises ConnectionClosed if the client is gone.
    """
    servers_own = environ.get(WAIT)
    if servers_own is None:
        return feed.wait(after, timeout=timeout)
    news: News | None = servers_own(feed, after, timeout=timeout)
    return news
