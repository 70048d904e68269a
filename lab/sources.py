"""Sources: generators that wait, then yield the data's next value."""

import codecs
import logging
import math
import os
import re
import select
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime, timezone
from functools import partial
from typing import Any

import psutil

from lab.pace import Pace
from pushlab.feed import encode
from pushlab.limits import MAX_VALUE
from pushlab.wsgi.json_text import loads_object

logger = logging.getLogger(__name__)

Value = dict[str, Any]

_LINE_END = re.compile(rb"\r\n|\n|\r")


#: Seconds that a measurement of the CPU load must take to mean something.
CPU_WINDOW = 0.1


def load(pace: Pace) -> Iterator[Value]:
    """Yield this machine's load: percentages, and load averages if known."""
    psutil.cpu_percent()  # the first call only starts the measurement
    time.sleep(CPU_WINDOW)
    measured_at, problem = -math.inf, ""
    while True:
        try:
            if time.monotonic() >= measured_at + CPU_WINDOW:
                cpu_percent, measured_at = psutil.cpu_percent(), time.monotonic()
            value: Value = {
                "cpu_percent": cpu_percent,
                "memory_percent": psutil.virtual_memory().percent,
            }
        except OSError as error:  # such as having no descriptor left, for a while
            if problem != (problem := str(error)):
                logger.warning("cannot measure the load: %s", error)
        else:
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
    """Yield the newest line of standard input, again and again."""
    return lines(_stdin_reader())


def lines(read: Callable[[], bytes]) -> Iterator[Value]:
    """Yield the newest good line of each piece read.

    `read` returns pieces, and b"" at the end. The feed is a state: of lines that come faster than
    they are published, the newest counts, and the log says how many others there were. A line ends
    with a line feed, a carriage return, or both. A line that is too long or no valid UTF-8 is
    skipped. Never more than one piece and MAX_VALUE bytes are kept.
    """
    log = _Skipped()
    line, too_long, is_first, ended_in_cr = b"", False, True, False
    while piece := read():
        if is_first:
            piece, is_first = piece.removeprefix(codecs.BOM_UTF8), False
        if ended_in_cr:
            piece = piece.removeprefix(b"\n")
        ended_in_cr = piece.endswith(b"\r")
        *ends, rest = _LINE_END.split(piece)
        if ends:
            ends[0] = line + ends[0]
            yield from _newest(ends, too_long, log)
            line, too_long = b"", False
        line += rest
        if len(line) > MAX_VALUE:
            line, too_long = b"", True
    if line or too_long:
        yield from _newest([line], too_long, log)


def _newest(ends: list[bytes], first_is_too_long: bool, log: "_Skipped") -> Iterator[Value]:
    for index in range(len(ends) - 1, -1, -1):
        try:
            value = _value_of(ends[index], first_is_too_long and index == 0)
        except ValueError as error:
            log.note(f"skipped {error}", bad=1)
            continue
        if index:
            log.note(f"{index} lines were superseded by a newer one", superseded=index)
        yield value
        return


def _value_of(line: bytes, too_long: bool) -> Value:
    """Return a line's value; raises ValueError for a bad line."""
    if too_long or len(line) > MAX_VALUE:
        raise ValueError(f"a line of more than {MAX_VALUE} bytes")
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"a line that is not UTF-8: {error}") from None
    try:
        value = loads_object(text)
    except ValueError:
        value = {"line": text}
    if len(encode(value)) > MAX_VALUE:
        raise ValueError(f"a line that is more than {MAX_VALUE} bytes as JSON")
    return value


class _Skipped:
    """Logs the first line that is not published, then counts.

    The counts are logged at most once a second.
    """

    def __init__(self) -> None:
        self._bad = self._superseded = 0
        self._logged_at = -math.inf

    def note(self, text: str, *, bad: int = 0, superseded: int = 0) -> None:
        self._bad += bad
        self._superseded += superseded
        if time.monotonic() < self._logged_at + 1:
            return
        self._logged_at = time.monotonic()
        counts = f"so far {self._bad} skipped, {self._superseded} superseded"
        logger.log(logging.WARNING if self._bad else logging.INFO, "%s (%s)", text, counts)


def _stdin_reader() -> Callable[[], bytes]:
    """Return a function that reads standard input, blocking no others.

    It reads the descriptor, not `sys.stdin`, whose lock, held by a thread that waits for a line,
    would abort the interpreter at exit.
    """
    if sys.stdin is None:  # started without one
        return bytes
    descriptor = sys.stdin.fileno()
    if "gevent" not in sys.modules:
        return partial(_read_when_ready, descriptor, select.select)
    from gevent import get_hub, monkey  # a blocking read would stop every greenlet: a thread waits

    wait = monkey.get_original("select", "select")
    return lambda: get_hub().threadpool.apply(_read_when_ready, (descriptor, wait))


def _read_when_ready(descriptor: int, wait: Callable[..., Any]) -> bytes:
    while True:
        try:
            return os.read(descriptor, 64 * 1024)
        except BlockingIOError:  # the program that started us may have made it non-blocking
            wait([descriptor], [], [])


#: Every source by its name in `--source`. Those in PACED keep to the pace; the others change when
#: their data does.
SOURCES: dict[str, Callable[[Pace], Iterator[Value]]] = {
    "load": load,
    "clock": clock,
    "stdin": stdin,
    "http": http,
}
PACED = ("load", "clock")
