"""The query parameters, checked: topic, after, timeout and carry.

Every function raises Werkzeug's BadRequest, which names the parameter.
"""

import re
from typing import NamedTuple
from urllib.parse import unquote_plus

from werkzeug.exceptions import BadRequest

from pushlab import limits
from pushlab.wsgi.remembered import remembered
from pushlab.wsgi.responses import Environ

_CURSOR = re.compile(r"[0-9A-Za-z]{1,32}-[0-9]{1,18}")
_SECONDS = re.compile(r"[0-9]{1,3}(\.[0-9]{1,9})?")


class Parameters(NamedTuple):
    """What a browser asks for."""

    topics: tuple[str, ...]  #: as named; none for the stream that has no name
    afters: tuple[str | None, ...]  #: for each topic the cursor that it has, or None
    timeout: float | None  #: seconds that a long poll may be held, if it names any
    carry: bool  #: whether news carries the reading, or only signals that there is one


def read(environ: Environ) -> Parameters:
    """Return the request's parameters.

    Of `timeout` and `carry` the first counts, and of `after` where no topic is named.
    """
    return _parse(environ.get("QUERY_STRING", ""))


def resumed(environ: Environ, afters: tuple[str | None, ...]) -> tuple[str | None, ...]:
    """Return where a stream goes on: Last-Event-ID, or `afters`.

    The URL of a reconnecting EventSource is still its first one: the newer cursors count. An id
    that is not ours names no reading of these feeds, as a foreign cursor does.
    """
    last_id: str | None = environ.get("HTTP_LAST_EVENT_ID")
    if last_id is None:
        return afters
    cursors = last_id.split(",")
    found = cursors if len(cursors) == len(afters) else [last_id] * len(afters)
    return tuple(cursor if is_cursor(cursor) else "foreign" if cursor else None for cursor in found)


@remembered  # all that have the newest reading ask the same
def _parse(text: str) -> Parameters:
    query: dict[str, list[str]] = {}
    is_plain = "%" not in text and "+" not in text
    for pair in text.split("&"):
        name, _, value = pair.partition("=")
        if not is_plain:
            name, value = unquote_plus(name), unquote_plus(value)
        if name in query:
            query[name].append(value)
        else:
            query[name] = [value]
    topics, afters = query.get("topic", []), query.get("after", [])
    if topics:
        _check_topics(topics)
        if afters and len(afters) != len(topics):
            raise BadRequest(f"after: {len(afters)} of them for {len(topics)} topics")
    cursors: list[str | None] = []
    for after in afters if topics else afters[:1]:
        if _CURSOR.fullmatch(after):
            cursors.append(after)
        elif topics and not after:
            cursors.append(None)
        else:
            raise BadRequest("after: not a cursor, which looks like 8f3a91c2-41")
    carry = query["carry"][0] if "carry" in query else "0"
    if carry not in ("0", "1"):
        raise BadRequest("carry: neither 0 nor 1")
    timeout = _timeout(query["timeout"][0]) if "timeout" in query else None
    cursors = cursors or [None] * max(1, len(topics))
    return Parameters(tuple(topics), tuple(cursors), timeout, carry == "1")


def _check_topics(topics: list[str]) -> None:
    if len(topics) > limits.MAX_TOPICS:
        raise BadRequest(f"topic: {len(topics)} of them; {limits.MAX_TOPICS} are allowed")
    if len(set(topics)) < len(topics):
        raise BadRequest("topic: the same one twice")
    for topic in topics:
        if problem := topic_problem(topic):
            raise BadRequest(f"topic: {problem}")


def topic_problem(topic: str) -> str:
    """Return what is wrong with a topic's name, or nothing."""
    if not topic:
        return "a name without a character"
    if not topic.isprintable():  # control characters, and halves of surrogate pairs
        return "a name with control characters"
    if (size := len(topic.encode())) > limits.MAX_TOPIC_NAME:
        return f"a name of {size} bytes; {limits.MAX_TOPIC_NAME} are allowed"
    return ""


def is_cursor(text: str) -> bool:
    """Tell whether the text looks like `<epoch>-<sequence>`, of any feed."""
    return _CURSOR.fullmatch(text) is not None


def _timeout(text: str) -> float:
    if not _SECONDS.fullmatch(text) or float(text) > limits.MAX_POLL_TIMEOUT:
        raise BadRequest(f"timeout: not a number of seconds from 0 to {limits.MAX_POLL_TIMEOUT:g}")
    return float(text)
