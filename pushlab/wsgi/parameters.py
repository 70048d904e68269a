"""What a browser asks for in the query string of /update, checked.

Each function reads the current Flask request and aborts it with a 400 that names the parameter.
"""

import re

from flask import abort, request

from pushlab.feed import is_cursor

#: Seconds that a long poll is held when the browser names no time, and at most.
TIMEOUT = 25.0
MAX_TIMEOUT = 60.0


def after() -> str | None:
    """Return the cursor that the browser has seen, or None if it has seen nothing."""
    cursor = request.args.get("after")
    if cursor is not None and not is_cursor(cursor):
        abort(400, "after: not a cursor, which looks like 8f3a91c2-41")
    return cursor


def timeout() -> float:
    """Return how many seconds the browser wants to wait for news."""
    text = request.args.get("timeout")
    if text is None:
        return TIMEOUT
    if not re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,9})?", text) or float(text) > MAX_TIMEOUT:
        abort(400, f"timeout: not a number of seconds from 0 to {MAX_TIMEOUT:g}")
    return float(text)


def carry() -> bool:
    """Return whether the news shall carry the reading, not only signal that there is one."""
    text = request.args.get("carry", "0")
    if text not in ("0", "1"):
        abort(400, "carry: neither 0 nor 1")
    return text == "1"
