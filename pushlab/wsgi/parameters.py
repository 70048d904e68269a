"""The query parameters of /update, checked: after, timeout and carry.

Every function raises Werkzeug's BadRequest, which names the parameter.
"""

import re
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import parse_qsl

from werkzeug.exceptions import BadRequest

from pushlab import limits
from pushlab.wsgi.responses import Environ

_CURSOR = re.compile(r"[0-9A-Za-z]{1,32}-[0-9]{1,18}")
_SECONDS = re.compile(r"[0-9]{1,3}(\.[0-9]{1,9})?")


class Parameters(NamedTuple):
    """What a browser asks for."""

    after: str | None  #: the cursor that it has, or None
    timeout: float  #: seconds that a long poll may be held
    carry: bool  #: whether news carries the reading, or only signals that there is one


def read(environ: Environ) -> Parameters:
    """Return the request's parameters; the first of each name counts."""
    query = _parse(environ.get("QUERY_STRING", ""))
    return Parameters(
        after=_after(query.get("after")),
        timeout=_timeout(query.get("timeout")),
        carry=_carry(query.get("carry", "0")),
    )


@lru_cache(limits.REMEMBERED)  # all that have the newest reading ask the same
def _parse(text: str) -> dict[str, str]:
    query: dict[str, str] = {}
    for name, value in parse_qsl(text, keep_blank_values=True):
        query.setdefault(name, value)
    return query


def is_cursor(text: str) -> bool:
    """Tell whether the text looks like `<epoch>-<sequence>`, of any feed."""
    return _CURSOR.fullmatch(text) is not None


def _after(cursor: str | None) -> str | None:
    if cursor is not None and not is_cursor(cursor):
        raise BadRequest("after: not a cursor, which looks like 8f3a91c2-41")
    return cursor


def _timeout(text: str | None) -> float:
    if text is None:
        return limits.POLL_TIMEOUT
    if not _SECONDS.fullmatch(text) or float(text) > limits.MAX_POLL_TIMEOUT:
        raise BadRequest(f"timeout: not a number of seconds from 0 to {limits.MAX_POLL_TIMEOUT:g}")
    return float(text)


def _carry(text: str) -> bool:
    if text not in ("0", "1"):
        raise BadRequest("carry: neither 0 nor 1")
    return text == "1"
