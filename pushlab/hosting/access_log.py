"""The access log: a line of JSON for each request.

It is written when the request has ended: a long poll with its response, an event stream and a
WebSocket with their connection. No header and no query is logged, beside the topics: cookies and
tokens are in them.
"""

import json
import os
import time
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any
from urllib.parse import parse_qs

from pushlab.hosting import StartupError
from pushlab.hosting.log_lines import NonBlockingHandler
from pushlab.transports import TRANSPORT
from pushlab.wsgi.responses import Environ

#: The key, in the environ, of the request's entry.
ENTRY = "pushlab.access_log_entry"

#: The code of a WebSocket that ended without a close frame (RFC 6455 section 7.1.5).
ABNORMAL_CLOSURE = 1006

_STANDARD_ERROR = 2


class AccessLog:
    """A file, or with "-" standard error, that takes lines."""

    def __init__(self, path: str) -> None:
        """Raises StartupError if the file cannot be written.

        Several processes may write to it: each line is appended at once.
        """
        descriptor = _STANDARD_ERROR
        if path != "-":
            try:
                descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
            except OSError as error:
                message = f"Cannot write the access log {path}: {error.strerror}"
                raise StartupError(message) from error
        self.write = NonBlockingHandler(descriptor, note='{{"dropped": {}}}').put

    @classmethod
    def at(cls, path: str | None) -> "AccessLog | None":
        """Return the log of a server's settings, if any."""
        return None if path is None else cls(path)

    def begin(self, environ: Environ, target: str) -> "Entry":
        """Return the entry of a request that has come."""
        entry = environ[ENTRY] = Entry(self.write, environ, target)
        return entry


class Entry:
    """A request, and what it has become so far."""

    def __init__(self, write: Callable[[str], None], environ: Environ, target: str) -> None:
        self._write = write
        self._environ = environ
        self._path = target.partition("?")[0]
        self._came_at = time.time()
        self._began = time.monotonic()
        self._has_ended = False
        self.status = 0  #: 0 if the client was gone before the response
        self.bytes = 0  #: of the response, with its headers, or of frames

    def counting(self, send: Callable[[Any], int]) -> Callable[[Any], int]:
        """Return a function that sends, and counts what was sent."""

        def counting(data: Any) -> int:
            sent = send(data)
            self.bytes += sent
            return sent

        return counting

    def end(self, close_code: int | None = None) -> None:
        """Write the line, once."""
        if self._has_ended:
            return
        self._has_ended = True
        environ, is_socket = self._environ, self.status == 101
        line = {
            "time": datetime.fromtimestamp(self._came_at, timezone.utc).isoformat(),
            "client": environ.get("REMOTE_ADDR") or None,
            "method": environ["REQUEST_METHOD"],
            "path": self._path,
            "status": self.status,
            "bytes": self.bytes,
            "duration": round(time.monotonic() - self._began, 6),
            "transport": environ.get(TRANSPORT) or ("websocket" if is_socket else None),
            "topics": parse_qs(environ["QUERY_STRING"]).get("topic", []),
            "close_code": (close_code or ABNORMAL_CLOSURE) if is_socket else None,
        }
        self._write(json.dumps(line))
