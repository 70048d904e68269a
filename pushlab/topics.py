"""Topics by name, and publishing from other programs.

A rule says how many readings the feeds of its topics keep. With Redis, apps write their rules down
there, so that any program can publish.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from werkzeug.exceptions import HTTPException
from werkzeug.routing import Map, Rule

from pushlab.feed import Reading
from pushlab.wsgi.parameters import topic_problem

if TYPE_CHECKING:
    from pushlab.redis_feed import RedisFeeds


def connect(url: str) -> "RedisFeeds":
    """Return the feeds of a Redis, without connecting yet.

    Raises ImportError if redis-py is not there, and ValueError for what is no URL of a Redis.
    """
    from pushlab.redis_feed import RedisFeeds

    return RedisFeeds(url)


class NoTopic(ValueError):
    """There is no topic of this name."""


class Rules:
    """What was said about topics, found by a topic's name."""

    def __init__(self) -> None:
        self._map = Map(merge_slashes=False)
        self.keeps: dict[str, int] = {}  #: by the rule's name

    def add(self, name: str, keep: int, what: Any = None) -> None:
        """Add a rule; raises ValueError if it is none."""
        if keep < 1:
            raise ValueError(f"topic {name!r}: a feed keeps at least 1 reading")
        self.keeps[name] = keep
        self._map.add(Rule(f"/{name}", endpoint=(keep, what)))

    def match(self, topic: str) -> tuple[int, Any, Mapping[str, Any]]:
        """Return a topic's keep, what was added, and the variables.

        Raises NoTopic.
        """
        if problem := topic_problem(topic):
            raise NoTopic(f"topic: {problem}")
        # Werkzeug would ignore more than one slash at the beginning.
        path = "" if topic.startswith("/") else f"/{topic}"
        try:
            (keep, what), values = self._map.bind("").match(path)
        except HTTPException:
            raise NoTopic(f"there is no topic {topic!r}") from None
        return keep, what, values


class Publisher:
    """Publishes to the topics of apps that share a Redis."""

    def __init__(self, url: str) -> None:
        self._redis = connect(url)
        self._rules = Rules()

    def publish(self, topic: str, value: Mapping[str, Any]) -> Reading:
        """Make the value the topic's newest reading, in every process.

        Raises TypeError and ValueError as `Push.publish` does, and NotPublished, within
        `limits.REDIS_TIMEOUT`, if Redis does not say that it has.
        """
        return self._redis.append(topic, self._keep_of(topic), value)

    def _keep_of(self, topic: str) -> int:
        try:
            return self._rules.match(topic)[0]
        except NoTopic:
            self._rules = Rules()  # apps may have more by now
            for name, keep in self._redis.rules().items():
                self._rules.add(name, keep)
            return self._rules.match(topic)[0]
