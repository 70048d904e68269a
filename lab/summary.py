"""A value in a few words, as the page shows it before any JavaScript runs.

static/reading.js says the same in the browser; a test holds the two together. So numbers and the
order of names are JavaScript's here, too: a browser cannot tell 1.0 from 1.
"""

import json
import math
import re
from collections.abc import Mapping
from datetime import datetime, timezone
from decimal import ROUND_HALF_UP, Decimal
from typing import Any, TypeGuard

_STRING_OR_NUMBER = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|-?[0-9][0-9.eE+-]*')
_INDEX = re.compile(r"0|[1-9][0-9]{0,9}")


def headline(value: Mapping[str, Any]) -> str:
    """Return what a person wants to read first: the CPU load, the time, the line."""
    match value:
        case {"cpu_percent": percent} if _is_number(percent, limit=100):
            return f"CPU {_fixed(percent, digits=1)} %"
        case {"line": str() as text} | {"time": str() as text}:
            return _encodable(text)
        case _ if not value:
            return "nothing yet"
    return _json(value)


def details(value: Mapping[str, Any]) -> str:
    """Return what else a load value says, in one line; nothing for any other value."""
    parts = []
    if _is_number(value.get("cpu_percent"), limit=100):
        memory, loads = value.get("memory_percent"), value.get("load_average")
        if _is_number(memory, limit=100):
            parts.append(f"memory {_fixed(memory, digits=0)} %")
        if isinstance(loads, list) and loads and all(_is_number(load, limit=1e6) for load in loads):
            parts.append(f"load average {' '.join(_fixed(load, digits=2) for load in loads)}")
    return " · ".join(parts)


def moment(seconds: float) -> str:
    """Return seconds since the epoch as a browser's `<time datetime>` wants them, in UTC."""
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="milliseconds")


def _is_number(value: Any, *, limit: float) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= limit


def _fixed(number: float, *, digits: int) -> str:
    """Round like JavaScript's toFixed: a half goes up, where Python's goes to the even digit."""
    return str(Decimal(abs(number)).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP))


def _encodable(text: str) -> str:
    """Write half of a surrogate pair, which UTF-8 cannot say, as its escape."""
    return text.encode(errors="backslashreplace").decode()


def _json(value: Mapping[str, Any]) -> str:
    """Return the text of JavaScript's JSON.stringify, with a space after each comma and colon."""
    ordered = json.loads(json.dumps(value), object_pairs_hook=_in_order)
    text = json.dumps(ordered, ensure_ascii=False)
    return _encodable(_STRING_OR_NUMBER.sub(_as_in_javascript, text))


def _in_order(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Put names that are array indices first, as a JavaScript object does."""

    def place(pair: tuple[str, Any]) -> float:
        index = int(pair[0]) if _INDEX.fullmatch(pair[0]) else math.inf
        return index if index < 2**32 - 1 else math.inf

    return dict(sorted(pairs, key=place))


def _as_in_javascript(token: re.Match[str]) -> str:
    if token[0].startswith('"'):
        return token[0]
    number = float(token[0])
    if math.isinf(number):  # an integer that no float can hold
        return "null"
    decimal = Decimal(repr(number or 0)).normalize()
    return f"{decimal:f}" if 1 <= abs(decimal) < 10**21 else str(decimal).lower()
