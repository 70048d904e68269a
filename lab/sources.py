"""Sources: generators that wait, then yield the data's next value."""

import json
import logging
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime, timezone
from typing import Any

import psutil

from lab.pace import Pace
from pushlab.feed import encode
from pushlab.limits import MAX_VALUE

logger = logging.getLogger(__name__)

Value = dict[str, Any]


#: Seconds that a measurement of the CPU load must take to mean something.
CPU_WINDOW = 0.1


def load(pace: Pace) -> Iterator[Value]:
    """Yield this machine's load: percentages, and load averages if known."""
    psutil.cpu_percent()  # the first call only starts the measurement
    time.sleep(CPU_WINDOW)
    measured_at = -math.inf
    while True:
        if time.monotonic() >= measured_at + CPU_WINDOW:
            cpu_percent, measured_at = psutil.cpu_percent(), time.monotonic()
        value: Value = {
            "cpu_percent": cpu_percent,
            "memory_percent": psutil.virtual_memory().percent,
        }
        with suppress(OSError):  # some containers and systems have none
            value["load_average"] = [round(load, 2) for load in psutil.getloadavg()]
        yield value
        pace.wait()


def clock(pace: Pace) -> Iterator[Value]:
    """Yield the server's time as ISO 8601 in UTC."""
    while True:
        yield {"time": datetime.now(timezone.utc).isoformat(timespec="milliseconds")}
        pace.wait()


def http(pace: Pace) -> Iterator[Value]:
    """Yield nothing; the data changes by `POST /data`."""
    yield from ()


def stdin(pace: Pace) -> Iterator[Value]:
    """Yield a value per line of standard input."""
    return lines(_stdin_reader())


def lines(read: Callable[[], bytes]) -> Iterator[Value]:
    """Yield a value per line of what `read` returns.

    `read` returns pieces, and b"" at the end. A line that is too long or no valid UTF-8 is logged
    and skipped. Never more than one piece and MAX_VALUE bytes are kept.
    """
    line, too_long = b"", False
    while piece := read():
        *ends, rest = piece.split(b"\n")
        for end in ends:
            yield from _value_of(line + end, too_long)
            line, too_long = b"", False
        line += rest
        if len(line) > MAX_VALUE:
            line, too_long = b"", True
    if line or too_long:
        yield from _value_of(line, too_long)


def _value_of(line: bytes, too_long: bool) -> Iterator[Value]:
    if too_long or len(line) > MAX_VALUE:
        logger.warning("skipped a line of more than %d bytes", MAX_VALUE)
        return
    try:
        text = line.decode().removesuffix("\r")
    except UnicodeDecodeError as error:
        logger.warning("skipped a line that is not UTF-8: %s", error)
        return
    value = parse_object(text)
    value = {"line": text} if value is None else value
    try:
        size = len(encode(value))
    except ValueError as error:
        logger.warning("skipped a line: %s", error)
        return
    if size > MAX_VALUE:
        logger.warning("skipped a line that is more than %d bytes as JSON", MAX_VALUE)
        return
    yield value


def parse_object(text: str | bytes) -> Value | None:
    """Return the JSON object in the text, or None.

    Numbers that overflow to infinity, and NaN, are refused: JSON cannot pass them on.
    """

    def finite(number: str) -> float:
        if not math.isfinite(value := float(number)):
            raise ValueError(f"{number} is not a JSON number")
        return value

    try:
        value = json.loads(text, parse_constant=finite, parse_float=finite)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _stdin_reader() -> Callable[[], bytes]:
    """Return a function that reads standard input, blocking no others.

    It reads the descriptor, not `sys.stdin`, whose lock, held by a thread that waits for a line,
    would abort the interpreter at exit.
    """
    if sys.stdin is None:  # started without one
        return bytes
    descriptor = sys.stdin.fileno()
    if "gevent" not in sys.modules:
        return lambda: os.read(descriptor, 64 * 1024)
    from gevent import get_hub  # a blocking read would stop every greenlet: a real thread waits

    return lambda: get_hub().threadpool.apply(os.read, (descriptor, 64 * 1024))


#: Every source by its name in `--source`. Those in PACED keep to the pace; the others change when
#: their data does.
SOURCES: dict[str, Callable[[Pace], Iterator[Value]]] = {
    "load": load,
    "clock": clock,
    "stdin": stdin,
    "http": http,
}
PACED = ("load", "clock")
