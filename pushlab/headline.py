"""A value in a few words, as the page shows it before any JavaScript runs.

static/reading.js says the same in the browser; a test holds the two together.
"""

import json
from collections.abc import Mapping
from typing import Any


def headline(value: Mapping[str, Any]) -> str:
    """Return what a person wants to read first: the CPU load, the time, the line."""
    match value:
        case {"cpu_percent": int() | float() as percent}:
            return f"CPU {percent:.1f} %"
        case {"line": str() as line}:
            return line
        case {"time": str() as moment}:
            return moment
        case _ if not value:
            return "nothing yet"
    return json.dumps(value, ensure_ascii=False, separators=(", ", ": "))
