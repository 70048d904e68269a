"""How results are written: as tables for people, and as JSON whose lists are a line each."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return a reStructuredText table."""
    widths = [max(1, *(len(row[i]) for row in rows)) for i in range(len(rows[0]))]
    rule = "  ".join("=" * width for width in widths)
    lines = [
        "  ".join(
            cell.rjust(width) if i else (cell or "\\").ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join([rule, lines[0], rule, *lines[1:], rule])


def as_json(found: Mapping[str, Any]) -> str:
    """Return JSON of which a diff can be read: a list of numbers takes one line."""
    text = json.dumps(found, indent=1, ensure_ascii=False)
    return re.sub(r"\[[^\[\]{}\"]+\]", lambda plain: " ".join(plain[0].split()), text) + "\n"
