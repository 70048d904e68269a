"""Summary: a value in few words, before any script runs.

static/reading.js does the same in the browser. Its numbers are JavaScript's, so that the text of an
unusual value may change once, when the script starts.
"""

import json
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any


def headline(value: Mapping[str, Any]) -> str:
    """Return the most important: the CPU load, time, or line."""
    match value:
        case {"cpu_percent": int() | float() as percent} if 0 <= percent <= 100:
            text = f"CPU {percent:.1f} %"
        case {"line": str() as text} | {"time": str() as text}:
            pass
        case _:
            text = json.dumps(value, ensure_ascii=False) if value else "nothing yet"
    # Half of a surrogate pair, which UTF-8 does not have, is written as its escape.
    return text.encode(errors="backslashreplace").decode()


def details(value: Mapping[str, Any]) -> str:
    """Return the rest of a load value, or nothing."""
    parts = []
    if isinstance(memory := value.get("memory_percent"), float):
        parts.append(f"memory {memory:.0f} %")
    loads = value.get("load_average") or [None]
    if isinstance(loads, list) and all(isinstance(load, float) for load in loads):
        parts.append("load average " + " ".join(f"{load:.2f}" for load in loads))
    return " · ".join(parts) if "cpu_percent" in value else ""


def moment(seconds: float) -> str:
    """Return seconds since the epoch as ISO 8601 in UTC."""
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="milliseconds")
