"""The commands `flask push publish` and `flask push watch`.

They run in a process of their own, so they need the Redis that the app's processes share.
"""

from collections.abc import Mapping
from typing import Any

import click
from flask.cli import AppGroup

from pushlab import feed as feeds
from pushlab import limits
from pushlab.feed import NotPublished
from pushlab.topics import NoTopic, Rules
from pushlab.wsgi import json_text


def _shared(push: Any) -> Any:
    if push.redis is None:
        raise click.ClickException(
            "without Redis only the app itself can publish: set PUSHLAB_REDIS or Push(redis=...)"
        )
    return push.redis


def _object(_: Any, __: Any, text: str) -> Mapping[str, Any]:
    try:
        return json_text.loads_object(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def make_group(push: Any) -> AppGroup:
    """Return the commands of an app's Push."""
    rules: Rules = push.rules
    group = AppGroup("push", help="Publish to topics, and watch them.")

    @group.command()
    @click.argument("topic")
    @click.argument("value", metavar="JSON", callback=_object)
    def publish(topic: str, value: Mapping[str, Any]) -> None:
        """Publish a JSON object to a topic."""
        _shared(push)
        try:
            click.echo(push.publish(topic, value).cursor)
        except (NoTopic, ValueError, NotPublished) as error:
            raise click.ClickException(str(error)) from None

    @group.command()
    @click.argument("topic")
    @click.option("--after", help="The cursor from which to begin; else the newest.")
    def watch(topic: str, after: str | None) -> None:
        """Print the topic's readings until Ctrl-C."""
        shared = _shared(push)
        try:
            feed = shared.feed(topic, rules.match(topic)[0])
            feed.load()
        except (NoTopic, NotPublished) as error:
            raise click.ClickException(str(error)) from None
        after = after or feed.latest.cursor
        click.echo(f"watching {topic} from {after} (Ctrl-C stops it)", err=True)
        while True:
            for reading in feeds.wait(((feed, after),), timeout=limits.HEARTBEAT):
                after = reading.cursor
                click.echo(reading.carry.decode())

    return group
