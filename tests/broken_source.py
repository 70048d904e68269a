"""serve.py with a source that yields one value, then does as FAULT says."""

import os
import runpy
from collections.abc import Iterator
from typing import Any

from lab import sources
from lab.pace import Pace


def broken(pace: Pace) -> Iterator[dict[str, Any]]:
    """Yield a value; then raise, end, or yield what cannot be published."""
    yield {"line": "the last one"}
    fault = os.environ["FAULT"]
    if fault == "raise":
        raise OSError("on purpose")
    if fault == "unpublishable":
        yield {"n": float("nan")}


sources.SOURCES["clock"] = broken
runpy.run_path(os.environ["PROGRAM"], run_name="__main__")
