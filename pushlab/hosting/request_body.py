"""Bodies of requests, read strictly.

The rules are those of RFC 9112 sections 6 and 7. An error while reading leaves no trust in where
the next request begins. So the body remembers it, and the server closes the connection, whatever
status the application makes of the error. Every server of ours reads bodies with it.
"""

import re
from collections.abc import Callable
from io import BufferedReader, RawIOBase
from types import SimpleNamespace
from typing import Any, cast

from pushlab import limits
from pushlab.hosting.request_parser import RequestHeaders

_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})((?:[ \t]*;[^\x00-\x08\x0a-\x1f\x7f]*)?)\r\n")
_TRAILER = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[^\x00-\x08\x0a-\x1f\x7f]*\r\n")


class BadBody(OSError):
    """The body breaks its framing, or ends too early."""


class RequestBody(RawIOBase):
    """A readable stream that ends where the body ends."""

    def __init__(
        self, rfile: Any, headers: RequestHeaders, send: Callable[[bytes], object]
    ) -> None:
        self._rfile = rfile
        self._chunked = headers.get("transfer-encoding") is not None
        self._left = 0 if self._chunked else int(headers.get("content-length") or 0)
        self._ended = not headers.has_body
        #: The client waits for a 100 before it sends the body.
        self._awaiting_continue = not self._ended and headers.get("expect") is not None
        self._send = send
        self._in_chunk = False
        self._extensions = 0  # their bytes up to now
        #: The connection must not be used for another request.
        self.broken = False

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        """Do nothing: the connection is not the application's."""

    def readinto(self, buffer: Any) -> int:
        if self.broken:
            raise BadBody("the body is broken")
        try:
            if self._awaiting_continue:
                self._awaiting_continue = False
                self._send(b"HTTP/1.1 100 Continue\r\n\r\n")
            if self._chunked and not self._left and not self._ended:
                self._next_chunk()
            data = b"" if self._ended else self._read(len(buffer))
        except BaseException:
            self.broken = True
            raise
        buffer[: len(data)] = data
        return len(data)

    def _read(self, size: int) -> bytes:
        data: bytes = self._rfile.read1(min(size, self._left))
        if not data:
            raise BadBody("the body ends too early")
        self._left -= len(data)
        self._ended = not self._chunked and not self._left
        return data

    def _next_chunk(self) -> None:
        if self._in_chunk and self._rfile.read(2) != b"\r\n":
            raise BadBody("a chunk is longer than it says")
        line = self._rfile.readline(limits.MAX_REQUEST_LINE)
        match = _CHUNK_SIZE.fullmatch(line)
        if match is None:
            raise BadBody("this is no size of a chunk")
        self._extensions += len(match[2])  # in all, they would have no end (section 7.1.1)
        if self._extensions > limits.MAX_HEADER_BYTES:
            raise BadBody("there are too many chunk extensions")
        self._left, self._in_chunk = int(match[1], 16), True
        if self._left:
            return
        size = 0
        while (line := self._rfile.readline(limits.MAX_REQUEST_LINE)) != b"\r\n":
            size += len(line)
            if size > limits.MAX_HEADER_BYTES or not _TRAILER.fullmatch(line):
                raise BadBody("this is no trailer field")
        self._ended = True

    def _discard(self) -> None:
        """Read what the application has not; gevent's handler calls it.

        The connection is broken by more than `limits.MAX_DISCARDED`.
        """
        if self._awaiting_continue:
            self.broken = True  # the client may send the body, or not (RFC 9110 section 10.1.1)
        left = limits.MAX_DISCARDED
        while not self.broken and not self._ended:
            try:
                data = self.read(min(left, 16 * 1024))
            except OSError:
                return
            left -= len(data)
            if left <= 0:
                self.broken = True

    def for_application(self) -> Any:
        """Return the stream for the application.

        It is buffered if there is anything in it.
        """
        return self if self._ended else BufferedReader(self)


#: The body of every request that has none.
NO_BODY = RequestBody(None, cast(RequestHeaders, SimpleNamespace(has_body=False, get={}.get)), len)
