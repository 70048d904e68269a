"""Log lines: they never block, and no terminal obeys them."""

import _thread
import atexit
import logging
import os
import sys
import time
from _queue import SimpleQueue

from pushlab import limits


def printable(text: str) -> str:
    """Return the text with control characters and non-ASCII escaped.

    A client chooses what is logged of its request; a terminal would obey an escape sequence.
    """
    return text.encode("unicode_escape").decode()


class NonBlockingHandler(logging.Handler):
    """Writes to standard error, or a file, from a thread.

    Where nothing reads the other end of a pipe, writing blocks: on gevent every greenlet, so the
    whole server. More than `limits.MAX_LOG_LINES` lines that wait are dropped and counted.
    """

    def __init__(self, descriptor: int = 2, *, note: str = "({} log lines were dropped)") -> None:
        super().__init__()
        self._descriptor = descriptor
        self._note = note
        # This class and this function are those of the system's threads, also on gevent.
        self._lines: SimpleQueue[bytes] = SimpleQueue()
        self._dropped = 0
        monkey = sys.modules.get("gevent.monkey")
        start = monkey.get_original("_thread", "start_new_thread") if monkey else None
        (start or _thread.start_new_thread)(self._write, ())
        atexit.register(self._wait_for_writing)

    def emit(self, record: logging.LogRecord) -> None:
        self.put(self.format(record))

    def put(self, line: str) -> None:
        """Have a line written."""
        if self._lines.qsize() >= limits.MAX_LOG_LINES:
            self._dropped += 1
            return
        text = f"{line}\n"
        if self._dropped:
            text = f"{self._note.format(self._dropped)}\n{text}"
            self._dropped = 0
        self._lines.put(text.encode(errors="backslashreplace"))

    def _write(self) -> None:
        while True:
            line = self._lines.get()
            try:
                while line:
                    line = line[os.write(self._descriptor, line) :]
            except OSError:
                pass  # nothing reads them: there is nowhere to say so

    def _wait_for_writing(self) -> None:
        deadline = time.monotonic() + 1
        while not self._lines.empty() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.01)  # for the line that was taken last
